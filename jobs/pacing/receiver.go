package pacing

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"ringback/jobs/limit"
	"ringback/jobs/webhook"
)

// receiver is the state of a scheme, host and port, for callbacks of all clients.
type receiver struct {
	name     string
	ruling   ruling   // the operator's
	pace     pace     // of all clients together
	breaker  breaker  // for all clients
	failures evidence // for the breaker
	// closedAt is when this process last learned that the breaker opened.
	closedAt time.Time
	hearsay  hearsay
	consent  consent
	parties  map[string]*party

	answeredFrom []netip.Prefix  // the addresses at which it has proven itself
	proven       bool            // it took a callback
	attempts     limit.Window    // of all clients, until it is proven
	address      netip.Prefix    // of the latest attempt, zero where it is unknown
	averageTime  time.Duration   // moving average of an attempt, 0 before the first
	outcome      webhook.Outcome // of the latest attempt

	inFlight     int
	lastProgress time.Time // when an attempt last ended, or began with none under way
	number       int       // callbacks that left so far
	lastTaken    taken
	together     bool      // it has shown that it takes two callbacks at once, on two connections
	underWay     []*Pass   // callbacks, until together
	again        time.Time // until together: the next time for a callback that comes back and finds no room

	used    time.Time // when a callback last wanted to leave
	memory  memory
	loading chan struct{} // closed when the memory is loaded
}

// party is one client at one receiver. Evidence that only that client has binds no other.
type party struct {
	client   string
	bound    bool // its own pace binds it, since it had trouble
	pace     pace
	health   health
	breaker  breaker
	pause    time.Time        // end of the client's Retry-After
	lastDown time.Time        // when a callback last found the receiver down
	latest   [2]time.Duration // how long the latest two attempts took, the latest first
	slow     time.Time        // since when attempts are expected to take much longer than usual; zero where they aren't
	// oneByOne is until when the receiver is believed to serve this client one connection at a
	// time. Such a receiver accepts no second connection while the first is open.
	oneByOne time.Time
	// shookHands says that the callback on the second connection hung after the TLS handshake. So
	// the receiver had accepted the connection, and the callback's path may be the cause: other
	// clients find out for themselves.
	shookHands   bool
	refusal      refusal
	trial        trial
	probing      bool // a probe is under way, with the receiver closed by evidence of other clients
	inFlight     int
	line         limit.Line // callbacks that wait for the receiver
	again        time.Time  // the latest time that a callback got which came back and found no room
	lastProgress time.Time  // when an attempt last ended, or began with none under way
	turn         time.Time  // when a callback last left, or didn't come at its time
}

// taken is the latest callback that a receiver took: when, and on which connection. It is zero
// once another answer came.
type taken struct {
	end  time.Time
	conn string
}

func newReceiver(name string, now time.Time) *receiver {
	return &receiver{
		name: name, pace: newPace(now), attempts: limit.NewWindow(limit.NewHalves(strangerAttempts, true), strangerPeriod), used: now,
		parties: map[string]*party{}, loading: make(chan struct{}),
	}
}

// maxReceivers bounds the receivers in memory, some 1,500 bytes each. A client that names so
// many others that the process forgets a receiver needs minutes at the strangers' rate. It gains
// only the starting pace.
const maxReceivers = 10_000

// add begins to know a receiver, whose memory is not loaded yet.
func (p *Pacing) add(name string, now time.Time) *receiver {
	forgetIdle(p.receivers, func(r *receiver) time.Time { return r.used }, (*receiver).isBusy)
	r := newReceiver(name, now)
	p.receivers[name] = r
	return r
}

// isBusy tells whether a receiver can't be forgotten now.
func (r *receiver) isBusy() bool { return r.inFlight > 0 || !r.memory.loaded || r.memory.unsaved }

// forgetIdle makes room in a full map: of the entries that aren't busy, it drops those that have
// been unused for longest, a tenth of the map at most.
func forgetIdle[K comparable, V any](known map[K]*V, used func(*V) time.Time, busy func(*V) bool) {
	if len(known) < maxReceivers {
		return
	}
	var idle []K
	for key, value := range known {
		if !busy(value) {
			idle = append(idle, key)
		}
	}
	slices.SortFunc(idle, func(a, b K) int { return cmp.Compare(used(known[a]).UnixNano(), used(known[b]).UnixNano()) })
	for _, key := range idle[:min(len(idle), maxReceivers/10)] {
		delete(known, key)
	}
}

// isStranger tells whether a receiver has proven itself neither by a callback that it took nor by
// the operator's ruling.
func (r *receiver) isStranger() bool { return !r.proven && !r.ruling.isAllowed() }

func (r *receiver) isProvenAt(address netip.Prefix) bool {
	return slices.Contains(r.answeredFrom, address)
}

// maxParties is how many parties a receiver has before idle parties are forgotten.
const maxParties = 1000

// party returns a client's party, a new one where the receiver knows none.
func (r *receiver) party(client string, now time.Time) *party {
	c := r.parties[client]
	if c == nil {
		if len(r.parties) >= maxParties {
			r.forgetParties(now)
		}
		c = &party{client: client, pace: newPace(now), turn: now}
		r.parties[client] = c
	}
	return c
}

// forgetParties forgets idle parties, but for those whose evidence must outlast a pause: a closing,
// a refusal of consent, a second connection that hung. A client learns the rest again, such as a
// pace of its own, from a few callbacks.
func (r *receiver) forgetParties(now time.Time) {
	for client, c := range r.parties {
		isIdle := c.inFlight == 0 && !c.line.Due(now, now.Add(limit.Horizon))
		isBarred := c.refusal.stands || limit.Latest(c.closedUntil(), c.oneByOne, c.refusal.askAt).After(now)
		if isIdle && !isBarred {
			delete(r.parties, client)
		}
	}
}

// hasFailed tells whether an attempt of the client at a stranger was no success.
func (c *party) hasFailed() bool { return c.pace.rate < startRate }

// closedUntil is when the client's own closings of the receiver end.
func (c *party) closedUntil() time.Time { return limit.Latest(c.pause, c.breaker.until) }

// attemptTimeOf is how long an attempt of a client may be expected to take: one client's
// callbacks may be quick where callbacks of another take long.
func (r *receiver) attemptTimeOf(c *party) time.Duration {
	switch {
	case c.health.recent > 0:
		return c.health.recent
	case r.isStranger():
		return cmp.Or(c.latest[0], unknownTime)
	}
	return r.attemptTime()
}

// unknownTime stands for the time of a first attempt.
const unknownTime = 100 * time.Millisecond

// attemptTime is how long an attempt of any client may be expected to take.
func (r *receiver) attemptTime() time.Duration {
	return cmp.Or(r.averageTime, unknownTime)
}

// expected is attemptTimeOf for callbacks that wait. It grows while none of the attempts under
// way ends, and after two long attempts in a row it is as long at once. Otherwise callbacks to a
// receiver that takes seconds would come back as often as it usually answers. Attempts of other
// clients count only where clients share one slot.
func (r *receiver) expected(c *party, now time.Time) time.Duration {
	quiet := silence(r.inFlight, r.lastProgress, now)
	if r.together || r.isStranger() {
		quiet = silence(c.inFlight, c.lastProgress, now)
	}
	return max(r.attemptTimeOf(c), min(c.latest[0], c.latest[1]), quiet/2)
}

// silence is for how long no attempt under way has ended, 0 with none under way.
func silence(inFlight int, moved, now time.Time) time.Duration {
	if inFlight == 0 {
		return 0
	}
	return now.Sub(moved)
}
