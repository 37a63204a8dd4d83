package flow

import (
	"context"
	"time"

	"ringback/jobs/limit"
	"ringback/work"
)

// syncPatience is how near a sync request's turn must be for the request to wait. It is also how
// long the request waits for a slot at most.
const syncPatience = 5 * time.Second

// EnterSync is Enter for a sync request. The request waits where its turn is near, but not while the
// service is down or paused. The wait ends with ctx.
func (f *Flow) EnterSync(ctx context.Context, client string) (leave func(work.Outcome), decision limit.Decision) {
	if f == nil {
		return func(work.Outcome) {}, limit.Decision{}
	}
	if decision := f.shutNow(client, time.Now()); !decision.OK() {
		return nil, decision
	}
	f.waiting.Add(1)
	defer f.waiting.Add(-1)
	if f.runs != nil {
		var turn time.Duration
		decision := f.runs.Hurry(ctx, client, func(queue limit.Queue) (wait time.Duration) {
			wait, turn = f.turnOf(client, queue, time.Now())
			return wait
		})
		if !decision.OK() {
			decision.RetryAt = time.Now().Add(turn)
			return nil, decision
		}
	}
	if decision := f.awaitPace(ctx, client); !decision.OK() {
		f.giveBack(client)
		return nil, decision
	}
	p, decision := f.start(client, true, time.Now())
	if !decision.OK() {
		return nil, decision
	}
	return f.leaver(p), decision
}

// awaitPace waits for a sync request's time at the rate of slow start. The time is reserved,
// so that jobs come after it.
func (f *Flow) awaitPace(ctx context.Context, client string) limit.Decision {
	now := time.Now()
	at := f.reservePace(client, now)
	if !at.After(now) {
		return limit.Decision{}
	}
	timer := time.NewTimer(at.Sub(now))
	defer timer.Stop()
	select {
	case <-timer.C:
		return limit.Decision{}
	case <-ctx.Done():
		return limit.Decision{Reason: WorkPace, RetryAt: at}
	}
}

// reservePace returns the next time at the rate of slow start, by the speed then: within
// its 3 s.
func (f *Flow) reservePace(client string, now time.Time) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rate(client, now).PerSecond == 0 {
		return now
	}
	at := limit.Latest(now, f.tat)
	rate := f.rate(client, at)
	f.tat = rate.Spend(f.tat, now, 1)
	return limit.Latest(now, rate.FreeAt(at, 1))
}

// turnOf is how long a client's sync request waits for a slot at most, and in what time its turn
// comes. Of the turns that are near, no client has more than its share.
func (f *Flow) turnOf(client string, queue limit.Queue, now time.Time) (wait, turn time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	perSlot := f.perSlot(client)
	turn = perSlot * time.Duration(queue.All+1)
	near := int(syncPatience / max(perSlot, time.Microsecond))
	switch {
	case queue.All >= near, f.shared && !limit.Fair(queue.Own, near-queue.All):
		return 0, turn
	case now.Sub(f.lastProgress) > syncPatience: // the service may hang
		return 0, turn
	}
	return syncPatience, turn
}
