package flow

import "time"

// breaker is the circuit breaker of a service, for one client or for all: after failures in a row
// no run begins but a probe, from time to time. A breaker trips when it opens.
//
//	        5 failures in a row           its time is over
//	closed ─────────────────────► open ─────────────────────► half open
//	   ▲                           ▲                              │
//	   │                           └──────── the probe fails ─────┤
//	   └──── slow start ◄──────────────────── the probe succeeds ─┘
type breaker struct {
	failures int       // in a row
	trips    int       // how often it tripped, with no success in between
	since    time.Time // when it tripped first; zero while it is closed
	until    time.Time // open until then
	epoch    int       // ends when the breaker trips or closes; runs that began in an earlier epoch are ignored
	inFlight int       // runs of this epoch
	began    time.Time // when the first run in flight began
}

const (
	failuresToTrip = 5
	firstClosing   = time.Second
	longestClosing = 30 * time.Second
	// longestConnect is longer than a call of a service tries to connect.
	longestConnect = 4 * time.Second
)

// opens is when a run may begin, zero for at any time.
func (b *breaker) opens(now time.Time) time.Time {
	if b.trips > 0 && b.inFlight > 0 && !b.until.After(now) { // the probe is under way
		return now.Add(risingStep)
	}
	return b.until
}

// isOut tells whether a probe has been under way for longer than a time.
func (b *breaker) isOut(than time.Duration, now time.Time) bool {
	return b.trips > 0 && b.inFlight > 0 && now.Sub(b.began) > than
}

// enter begins a run, and returns its epoch.
func (b *breaker) enter(now time.Time) int {
	if b.inFlight == 0 {
		b.began = now
	}
	b.inFlight++
	return b.epoch
}

// leave ends a run, and tells whether its outcome counts.
func (b *breaker) leave(epoch int) bool {
	if epoch != b.epoch {
		return false
	}
	b.inFlight--
	return true
}

// fail counts a failure. The breaker trips at once where the service is known to be down.
func (b *breaker) fail(isDown bool, now time.Time) {
	if b.failures++; b.trips == 0 && b.failures < failuresToTrip && !isDown {
		return
	}
	if b.trips == 0 {
		b.since = now
	}
	b.until = now.Add(min(firstClosing<<min(b.trips, 10), longestClosing))
	b.trips++
	b.begin()
}

// close ends a row of failures, and tells whether the breaker was open.
func (b *breaker) close() (wasOpen bool) {
	if wasOpen = b.trips > 0; wasOpen {
		b.begin()
	}
	b.failures, b.trips, b.since, b.until = 0, 0, time.Time{}, time.Time{}
	return wasOpen
}

// begin starts an epoch: runs under way no longer count.
func (b *breaker) begin() { b.epoch++; b.inFlight = 0 }
