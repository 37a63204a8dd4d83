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
	name    string
	ruling  ruling // the operator's
	pace    pace   // of all clients together
	breaker breaker
	failed  evidence // of its breaker
	// closedAt is when this process last learned of an opening of the breaker.
	closedAt time.Time
	hearsay  hearsay
	consent  consent
	parties  map[string]*party

	answeredFrom []netip.Prefix // the addresses at which it has proven itself
	proven       bool           // it took a callback
	attempts     limit.Window   // of all clients, until then
	address      netip.Prefix   // of the latest attempt, zero when not known
	took         time.Duration  // moving average of an attempt, 0 before the first
	outcome      webhook.Outcome

	inFlight int
	moved    time.Time // when an attempt last ended, or began with none under way
	number   int       // of callbacks that left
	taken    taken
	together bool      // it takes two callbacks at once, on two connections
	underWay []*Pass   // until then
	again    time.Time // likewise: after the latest callback that came back and found no room

	used    time.Time
	memory  memory
	loading chan struct{} // closed when the memory is loaded
}

// party is one client at one receiver. Evidence that only that client has binds no other.
type party struct {
	client  string
	bound   bool // by a pace of its own, since it had trouble
	pace    pace
	health  health
	breaker breaker
	pause   time.Time        // by Retry-After
	failed  time.Time        // when a callback last found the receiver down
	latest  [2]time.Duration // of its attempts: how long they took
	slow    time.Time        // since when they are expected to take much longer than usual; zero if they aren't
	// Until this time the receiver is believed to serve one connection at a time. Such a
	// receiver never accepts a second connection while the first is open.
	oneByOne time.Time
	// The callback that showed so hung after the TLS handshake. So the receiver had taken its
	// connection, and it may have been for its path: other clients find out for themselves.
	shookHands bool
	refusal    refusal
	trial      trial
	probing    bool // with the receiver closed by what other clients saw
	inFlight   int
	line       limit.Line
	again      time.Time // the latest time of a callback that came back and found no room
	moved      time.Time // as a receiver's
	turn       time.Time // when a callback left last
}

// taken is the latest callback that a receiver took.
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

// isStranger tells whether a receiver has proven itself neither by a callback that it took nor by
// the operator's ruling.
func (r *receiver) isStranger() bool { return !r.proven && !r.ruling.isAllowed() }

func (r *receiver) isProvenAt(address netip.Prefix) bool {
	return slices.Contains(r.answeredFrom, address)
}

// maxParties bounds the parties of a receiver.
const maxParties = 1000

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

func (r *receiver) forgetParties(now time.Time) {
	for client, c := range r.parties {
		if c.inFlight == 0 && !c.opens().After(now) && !c.line.Due(now, now.Add(limit.Horizon)) {
			delete(r.parties, client)
		}
	}
}

// hasFailed tells whether an attempt of the client at a stranger was no success.
func (c *party) hasFailed() bool { return c.pace.rate < startRate }

func (c *party) opens() time.Time { return limit.Latest(c.pause, c.breaker.until) }

// attemptTimeOf is how long an attempt of a client may be expected to take: its callbacks
// may be quick where those of another client take long.
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

// attemptTime is how long an attempt may be expected to take.
func (r *receiver) attemptTime() time.Duration {
	return cmp.Or(r.took, unknownTime)
}

// expected is attemptTimeOf for callbacks that wait. With attempts under way of which none
// ends, it grows, and with two long attempts in a row it is as long at once: else the
// callbacks to a receiver that takes seconds would come back for each of its usual answers.
// Where clients have parts of their own, as at strangers, slow callbacks of others say nothing.
func (r *receiver) expected(c *party, now time.Time) time.Duration {
	quiet := silence(r.inFlight, r.moved, now)
	if r.together || r.isStranger() {
		quiet = silence(c.inFlight, c.moved, now)
	}
	return max(r.attemptTimeOf(c), min(c.latest[0], c.latest[1]), quiet/2)
}

// silence is for how long none of the attempts under way has ended.
func silence(inFlight int, moved, now time.Time) time.Duration {
	if inFlight == 0 {
		return 0
	}
	return now.Sub(moved)
}
