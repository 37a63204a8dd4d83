package api

import (
	"math"
	"sync"
	"time"

	"ringback/jobs/limit"
)

// burstSeconds is for how long a client that has been silent may send at once
// what its rate allows.
const burstSeconds = 2

// callRate is the calls a second of one client.
type callRate struct {
	mu    sync.Mutex
	limit limit.Rate
	tat   time.Time
}

func newCallRate(perSecond int) *callRate { return &callRate{limit: rateOf(perSecond)} }

func rateOf(perSecond int) limit.Rate {
	return limit.Rate{PerSecond: float64(perSecond), Burst: burstSeconds * perSecond}
}

// take uses the rate for a call, if it has room for one. It returns how many more
// calls may come at once, and in how many seconds there is room again: for one where
// there is none, else for the whole burst.
func (r *callRate) take(now time.Time) (allowed bool, left, reset int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var decision limit.Decision
	r.tat, decision = r.limit.Decide(r.tat, now, reasonRate)
	left = r.limit.Left(r.tat, now)
	room := r.tat
	if left < 1 {
		room = r.limit.FreeAt(r.tat, 1)
	}
	return decision.OK(), left, int(math.Ceil(max(0, room.Sub(now).Seconds())))
}

// change changes the rate. What was used of the old one still counts.
func (r *callRate) change(perSecond int, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := rateOf(perSecond)
	if used := r.tat.Sub(now); used > 0 {
		r.tat = now.Add(time.Duration(float64(used) * float64(next.Interval()) / float64(r.limit.Interval())))
	}
	r.limit = next
}
