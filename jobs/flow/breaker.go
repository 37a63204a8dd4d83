package flow

import "time"

// breaker leaves a service of work alone after failures in a row.
//
//	        5 failures in a row           its time is over
//	closed ─────────────────────► open ─────────────────────► half open
//	   ▲                           ▲                              │
//	   │                           └──────── the probe fails ─────┤
//	   └──── slow start ◄──────────────────── the probe succeeds ─┘
type breaker struct {
	failures int       // in a row
	openings int       // in a row, with no success in between
	since    time.Time // the first of them; zero while it is closed
	until    time.Time // open until then
	epoch    int       // runs of earlier epochs, from before an opening or its end, are ignored
	inFlight int       // of this epoch
	began    time.Time // the first of them
}

const (
	failuresToOpen = 5
	firstOpening   = time.Second
	longestOpening = 30 * time.Second
	// longestConnect is longer than a call of a service tries to connect.
	longestConnect = 4 * time.Second
)

// opens is when a run may begin; zero for at any time.
func (b *breaker) opens(now time.Time) time.Time {
	if b.openings > 0 && b.inFlight > 0 && !b.until.After(now) { // the probe is out
		return now.Add(risingStep)
	}
	return b.until
}

// isOut tells whether a probe has been out for longer than a time.
func (b *breaker) isOut(than time.Duration, now time.Time) bool {
	return b.openings > 0 && b.inFlight > 0 && now.Sub(b.began) > than
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

// fail counts a failure, which opens the breaker at once where the service is known to be
// down.
func (b *breaker) fail(isDown bool, now time.Time) {
	if b.failures++; b.openings == 0 && b.failures < failuresToOpen && !isDown {
		return
	}
	if b.openings == 0 {
		b.since = now
	}
	b.until = now.Add(min(firstOpening<<min(b.openings, 10), longestOpening))
	b.openings++
	b.begin()
}

// close ends a row of failures, and tells whether the breaker was open.
func (b *breaker) close() (wasOpen bool) {
	if wasOpen = b.openings > 0; wasOpen {
		b.begin()
	}
	b.failures, b.openings, b.since, b.until = 0, 0, time.Time{}, time.Time{}
	return wasOpen
}

// begin starts an epoch: runs under way no longer count.
func (b *breaker) begin() { b.epoch++; b.inFlight = 0 }
