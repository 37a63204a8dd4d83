package api

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"ringback/jobs/clients"
	"ringback/jobs/limit"
)

// admission has the limits that a call passes before its body is read: the rate of its client, and
// the room in the queue, so that refusals are cheap. A limit that a call holds is taken where the
// call needs it: bytes for its body (readBody), a slot for its work (postSync) or its query
// (read).
type admission struct {
	rates *rates // nil for none
	room  func(c *call) error
}

// admit lets calls in. No other function does.
func (a *API) admit(by admission) gin.HandlerFunc {
	return with(func(c *call) {
		var err error
		if by.rates != nil {
			err = by.rates.count(c, time.Now())
		}
		if err == nil && by.room != nil {
			err = by.room(c)
		}
		if err != nil {
			a.writeProblem(c, err)
		}
	})
}

// roomForSync asks the queue to admit a sync request, which is stored before its work where
// the caller prefers that.
func (a *API) roomForSync(c *call) error {
	if isStored(c.Request.Header) {
		return a.Queue.AdmitWithoutCallback(c.client)
	}
	return a.Queue.AdmitSync(c.client)
}

func (a *API) roomForAsync(c *call) error { return a.Queue.Admit(c.client) }

// burstSeconds of its rate are the calls that a silent client may send at once.
const burstSeconds = 2

// rates are how many calls of a kind, POSTs or reads, each client may make a second.
// They count in this process alone: to agree on them with other processes would cost each
// call a round trip.
type rates struct {
	reason   limit.Reason
	name     string // of the rate, in the headers
	limits   func(client string) clients.Limits
	policies func(clients.Limits) string // the header RateLimit-Policy
	left     func(client string) string  // more for the header RateLimit; may be nil
	starts   limit.Rate                  // at which the calls of a burst begin, the zero Rate for all at once
	weigh    func(*call) int             // as how many calls one counts; nil where each counts as one
	of       sync.Map                    // *clientRate by client; no more than there are clients
}

// clientRate is the rate of one client, under its present limits.
type clientRate struct {
	limits clients.Limits
	policy string
	*callRate
}

// newRates are the rates of POSTs; nil where clients have no limits.
func (a *API) newRates() *rates {
	if a.Limits == nil {
		return nil
	}
	return &rates{
		reason: reasonRate, name: ratePolicy, limits: a.Limits, policies: policiesOf, weigh: weightOfPost,
		left: func(client string) string { return fmt.Sprintf(`, "%s";r=%d`, unfinishedPolicy, a.Queue.Left(client)) },
	}
}

// weightOfPost counts a body as one POST for each 64 KiB that it begins, since a large body
// costs as much as many small ones. A body that is longer than any may be is refused unread.
func weightOfPost(c *call) int {
	if c.Request.ContentLength > maxBatchBytes {
		return 1
	}
	return weightOfBody(int(c.Request.ContentLength))
}

func weightOfBody(length int) int {
	const unit = 64 << 10
	return max(1, (length+unit-1)/unit)
}

func policiesOf(l clients.Limits) string {
	return fmt.Sprintf(`"%s";q=%d;w=%d, "%s";q=%d;qu="concurrent-requests", "%s";q=%d;qu="concurrent-requests", "%s";q=%d;qu="content-bytes", "%s";q=%d`,
		ratePolicy, burstSeconds*l.Rate, burstSeconds, unfinishedPolicy, l.Unfinished, destinationPolicy, l.PerDestination,
		storagePolicy, l.Storage, deadLetterPolicy, l.DeadLetters)
}

// client returns the rate of a client. Where its limits have changed, its earlier calls
// still count.
func (r *rates) client(name string, now time.Time) *clientRate {
	limits := r.limits(name)
	known, _ := r.of.Load(name)
	if known, ok := known.(*clientRate); ok {
		if known.limits == limits {
			return known
		}
		known.change(limits.Rate, now)
		changed := &clientRate{limits, r.policies(limits), known.callRate}
		r.of.Store(name, changed)
		return changed
	}
	fresh := &clientRate{limits, r.policies(limits), newCallRate(limits.Rate)}
	first, _ := r.of.LoadOrStore(name, fresh)
	return first.(*clientRate)
}

// count uses the rate for a call, and tells with its answer how much is left, in the
// headers of draft-ietf-httpapi-ratelimit-headers-10.
func (r *rates) count(c *call, now time.Time) error {
	name := c.client
	client := r.client(name, now)
	weight := 1
	if r.weigh != nil {
		weight = r.weigh(c)
	}
	c.weight = weight
	decision, left, reset := client.take(weight, r.reason, now)
	rest := ""
	if r.left != nil {
		rest = r.left(name)
	}
	c.Header("RateLimit-Policy", client.policy)
	c.Header("RateLimit", fmt.Sprintf(`"%s";r=%d;t=%d`, r.name, left, reset)+rest)
	if decision.OK() {
		pause(c.Request.Context(), client.start(r.starts, weight, now))
	} else {
		pause(c.Request.Context(), client.refuse(now))
	}
	return decision.Err()
}

// pause ends early when the caller has gone.
func pause(ctx context.Context, wait time.Duration) {
	if wait <= 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// countItem uses the rate of POSTs for the request of a batch that has the index i, unless
// the call was counted for it.
func (a *API) countItem(c *call, i int) error {
	if a.posts == nil || i < c.weight {
		return nil
	}
	now := time.Now()
	decision, _, _ := a.posts.client(c.client, now).take(1, reasonRate, now)
	return decision.Err()
}

// countUndeclared uses the rate of POSTs for a body whose length was unknown until it was
// read. The body isn't refused, but what follows it may be.
func (a *API) countUndeclared(c *call, length int) {
	if more := weightOfBody(length) - c.weight; c.weight > 0 && more > 0 {
		now := time.Now()
		a.posts.client(c.client, now).spend(more, now)
		c.weight += more
	}
}

// callRate is the calls a second of one client.
type callRate struct {
	mu      sync.Mutex
	limit   limit.Rate
	tat     time.Time
	refused time.Time // the TAT of refusals
	started time.Time // the TAT of starts
}

// refusalRate is how fast a client's calls beyond its rate are refused. Each refusal costs
// nearly as much as a call, so a flood of them would take the machine from other clients.
var refusalRate = limit.Rate{PerSecond: 100, Burst: 50}

// slowest bounds the wait for a refusal, and for a start.
const slowest = 2 * time.Second

// refuse returns how long a call that is refused waits for its answer.
func (r *callRate) refuse(now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return turn(refusalRate, &r.refused, 1, now)
}

// start returns how long a call that is admitted waits before it begins.
func (r *callRate) start(rate limit.Rate, weight int, now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return turn(rate, &r.started, weight, now)
}

// turn uses a rate whose TAT is given, and returns the wait for it.
func turn(rate limit.Rate, tat *time.Time, weight int, now time.Time) time.Duration {
	wait := rate.FreeAt(*tat, weight).Sub(now)
	if wait > slowest {
		return slowest
	}
	*tat = rate.Spend(*tat, now, weight)
	return max(0, wait)
}

func newCallRate(perSecond int) *callRate { return &callRate{limit: rateOf(perSecond)} }

func rateOf(perSecond int) limit.Rate {
	return limit.Rate{PerSecond: float64(perSecond), Burst: float64(burstSeconds * perSecond)}
}

// take uses the rate for a call of a weight, if it has room. It returns how many more calls may
// come at once, and in how many seconds there is room again. That is room for such a call where
// there is none, else for the whole burst.
func (r *callRate) take(weight int, reason limit.Reason, now time.Time) (decision limit.Decision, left, reset int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tat, decision = r.limit.Decide(r.tat, now, weight, reason)
	left = r.limit.Left(r.tat, now)
	room := r.tat
	if left < weight {
		room = r.limit.FreeAt(r.tat, weight)
	}
	return decision, left, secondsUntil(room, now)
}

// spend uses the rate beyond its room, too.
func (r *callRate) spend(weight int, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tat = r.limit.Spend(r.tat, now, weight)
}

// secondsUntil is in whole seconds, upwards.
func secondsUntil(at, now time.Time) int { return int(math.Ceil(max(0, at.Sub(now).Seconds()))) }

// change changes the rate. Calls under the old rate still count.
func (r *callRate) change(perSecond int, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := rateOf(perSecond)
	if used := r.tat.Sub(now); used > 0 {
		r.tat = now.Add(time.Duration(float64(used) * float64(next.Interval()) / float64(r.limit.Interval())))
	}
	r.limit = next
}
