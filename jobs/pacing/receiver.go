package pacing

import (
	"cmp"
	"net/netip"
	"time"

	"ringback/jobs/limit"
	"ringback/jobs/webhook"
)

// receiver is what is known of a scheme, host and port, whichever clients' callbacks
// go there.
type receiver struct {
	name    string
	word    word // the operator's
	pace    pace // of all clients together
	breaker breaker
	failed  evidence // of its breaker
	pause   time.Time
	consent consent
	parties map[string]*party

	answeredFrom []netip.Prefix // the addresses that took callbacks
	proven       bool           // the latest address that is known took one
	address      netip.Prefix   // of the latest attempt, zero when not known
	took         time.Duration  // moving average of an attempt, 0 before the first
	outcome      webhook.Outcome

	inFlight int
	number   int // of callbacks that left
	troubled trouble
	taken    taken
	together bool // it answered two callbacks at once, on two connections

	used    time.Time
	memory  memory
	loading chan struct{} // closed when what the database knows is loaded
}

// trouble is who had it last.
type trouble struct {
	client string
	at     time.Time
}

// party is one client at one receiver. What only that client saw binds nobody
// else.
type party struct {
	client  string
	bound   bool // by a pace of its own, since it had trouble
	pace    pace
	health  health
	breaker breaker
	pause   time.Time // by Retry-After
	// Until then the receiver is believed to serve one connection at a time. It never
	// accepts a second connection while the first is open.
	oneByOne time.Time
	inFlight int
	line     limit.Line
	turn     time.Time // when a callback left last
}

// taken is the latest callback that a receiver took.
type taken struct {
	end  time.Time
	conn string
}

func newReceiver(name string, now time.Time) *receiver {
	return &receiver{name: name, pace: newPace(now), used: now, parties: map[string]*party{}, loading: make(chan struct{})}
}

// maxParties bounds the clients that are remembered for one receiver.
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

func (c *party) opens() time.Time { return limit.Latest(c.pause, c.breaker.until) }

// closed tells until when the receiver may not be called for a client, and why; OK
// when it may be now.
func (r *receiver) closed(c *party, now time.Time) limit.Decision {
	for _, closing := range []limit.Decision{{Reason: Down, RetryAt: c.breaker.until}, {Reason: Paused, RetryAt: c.pause}} {
		if closing.RetryAt.After(now) {
			return closing
		}
	}
	if opens := limit.Latest(r.breaker.until, r.pause); opens.After(now) {
		return limit.Decision{Reason: Closed, RetryAt: opens}
	}
	return limit.Decision{}
}

// allowance is how much may go to a receiver now.
type allowance struct {
	rate    limit.Rate // of all clients
	own     limit.Rate // of the client
	most    int        // in flight, of all clients
	ownMost int
	oneEach bool    // a client that has none in flight may have one beyond that
	ceiling float64 // that the rate may grow to, 0 for no limit
}

func (p *Pacing) allowance(r *receiver, c *party, now time.Time) allowance {
	a := allowance{rate: r.pace.limit(), most: min(int(r.pace.flight), p.share), own: limit.Rate{Burst: 1}, ownMost: p.workers}
	a.ceiling = p.ceiling(r)
	if r.word.isAllowed() {
		a.rate, a.most = r.word.rate(), cmp.Or(r.word.Concurrency, p.share)
	} else if a.ceiling > 0 && (a.rate.PerSecond == 0 || a.rate.PerSecond > a.ceiling) {
		a.rate = limit.Rate{PerSecond: a.ceiling, Burst: burst(a.ceiling)}
	}
	if c.bound && !r.word.isAllowed() {
		a.own, a.ownMost = c.pace.limit(), c.most(now)
	}
	if !r.proven && !r.word.isAllowed() {
		a.rate.Burst = 1
	}
	// Else a client whose callbacks take long would hold the few slots there are.
	a.oneEach = r.proven && a.most > 1 && !r.word.isAllowed()
	if r.breaker.isHalfOpen(now) || r.isOneByOne(now) {
		a.most, a.oneEach = 1, false // the probe, or the only connection
	}
	if c.breaker.isHalfOpen(now) || c.oneByOne.After(now) && !r.together {
		a.ownMost = 1
	}
	return a
}

// isOneByOne tells whether two clients found that a receiver serves one connection
// at a time. What one of them found binds that one alone.
func (r *receiver) isOneByOne(now time.Time) bool {
	found := 0
	for _, c := range r.parties {
		if c.oneByOne.After(now) && !r.together {
			found++
		}
	}
	return found > 1
}

// most is a bound client's limit in flight. Where it has long been reached, it is a
// quarter for a moment, to see how long answers take with few in flight.
func (c *party) most(now time.Time) int {
	if c.health.recent > 0 && now.Sub(c.health.calm) > max(calmEvery, 20*c.health.recent) {
		return max(1, int(c.pace.flight)/4)
	}
	return int(c.pace.flight)
}

// ceiling is the most that a receiver gets that the operator has not named.
func (p *Pacing) ceiling(r *receiver) float64 {
	ceiling := p.rate
	if granted := float64(r.consent.perMinute) / 60; p.required && granted > 0 && (ceiling == 0 || granted < ceiling) {
		ceiling = granted
	}
	return ceiling
}

// attemptTime is how long an attempt may be expected to take.
func (r *receiver) attemptTime() time.Duration {
	if r.took == 0 {
		return 100 * time.Millisecond
	}
	return r.took
}
