package jobs

import (
	"net/netip"
	"time"

	"ringback/jobs/webhook"
)

// origin is what is known of a receiver, by host and port, whichever callers
// want to call it.
type origin struct {
	name        string
	budget      budget
	earned      earned
	consent     consent
	breaker     breaker
	pausedUntil time.Time     // by its Retry-After
	took        time.Duration // moving average of an attempt, 0 before the first
	address     netip.Prefix  // where the latest attempt went, zero when not known
	proven      bool          // it has taken a callback

	loaded       bool          // what the database knows
	meeting      chan struct{} // closed when the load or the question that is under way is over; nil for none
	meetingSince time.Time
	waiting      int           // for the end of meeting
	freed        chan struct{} // wakes one that waits for a place
}

func newOrigin(name string) *origin {
	return &origin{name: name, earned: newcomer, freed: make(chan struct{}, 1)}
}

// earned is how much a stranger has shown that it takes: each callback that it
// takes adds to it, each failure halves it.
type earned struct {
	rate float64 // callbacks a second
	most int     // at a time
}

// The bounds: a stranger is never hit hard, and one that works is at full speed
// after 46 callbacks, which takes 2.5 s.
var (
	newcomer    = earned{rate: 4, most: 2}
	leastEarned = earned{rate: 1, most: 1}
	mostEarned  = earned{rate: 50, most: 16}
)

func (e earned) more() earned {
	return earned{min(e.rate+1, mostEarned.rate), min(e.most+1, mostEarned.most)}
}

func (e earned) less() earned {
	return earned{max(e.rate/2, leastEarned.rate), max(e.most/2, leastEarned.most)}
}

// assumedAttempt spaces the callbacks to an origin that has not answered yet.
const assumedAttempt = time.Second

// attemptTime is how long an attempt may be expected to take.
func (o *origin) attemptTime() time.Duration {
	if o.took == 0 {
		return assumedAttempt
	}
	return o.took
}

// granted tells whether callbacks go to where they were granted.
func (o *origin) granted(now time.Time) bool { return o.consent.covers(o.address, now) }

// opens is when the origin may be called at all: in the past when it may now.
func (o *origin) opens() time.Time { return latest(o.pausedUntil, o.breaker.until) }

// fastest stands for no limit where callbacks are told to come back, which costs
// the database, whether or not they find room.
const fastest = 1000 // a second

// limit is what the origin may take now; share is the most for any.
func (o *origin) limit(now time.Time, share int) limit {
	l := limit{rate: o.earned.rate, ceiling: mostEarned.rate, burst: o.earned.most, most: min(o.earned.most, share)}
	if o.granted(now) {
		rate := float64(o.consent.perMinute) / 60
		l = limit{rate: rate, ceiling: min(rate, fastest), burst: max(1, int(min(rate, float64(share)))), most: share}
		if rate == 0 {
			l.ceiling = fastest
		}
	}
	if o.breaker.halfOpen(now) {
		l.most = 1 // the probe
	}
	return l
}

// learn takes in what an attempt showed.
func (o *origin) learn(sent webhook.Attempt, now time.Time) {
	took := sent.EndedAt.Sub(sent.StartedAt)
	if o.took == 0 {
		o.took = took
	}
	o.took += (took - o.took) / 8
	if address, err := netip.ParseAddrPort(sent.Address); err == nil {
		o.address = prefixOf(address.Addr())
		o.consent = o.consent.seenAt(o.address, now)
	}
	o.breaker = o.breaker.after(isHealthy(sent), now)
	if o.breaker.until.After(now) {
		o.took = 0 // when it comes back it will be as it was before
	}
	switch sent.Outcome {
	case webhook.Delivered:
		o.earned, o.proven = o.earned.more(), true
	case webhook.Gone: // says nothing of other callbacks
	case webhook.Throttled:
		o.pausedUntil = latest(o.pausedUntil, now.Add(sent.RetryAfter))
		o.earned = o.earned.less()
	default:
		o.earned = o.earned.less()
	}
}
