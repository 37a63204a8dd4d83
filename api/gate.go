package api

import (
	"context"
	"slices"
	"sync"
	"time"

	"ringback/jobs/limit"
)

// gate lets a bounded number of calls work at a time. As many may wait for a
// moment, and the newest of them whose client may have a place is next: under a
// storm, first come, first served would make everybody wait for as long as the
// queue is, and serve those who are about to give up. When too many wait, the
// oldest is refused.
//
// How long one waits at most follows Facebook's controlled delay (B. Maurer,
// "Fail at Scale", ACM Queue 2015): a burst may wait it out, a standing queue is
// cut short, since it means that not all can be served anyway.
type gate struct {
	limit int

	mu      sync.Mutex
	places  limit.Slots
	waiting []*waiter // oldest first
	since   time.Time // when the first of a standing queue came, zero when nobody waits
}

// waiter is a call that waits. It is told true for its turn, false when it is
// refused.
type waiter struct {
	client string
	turn   chan bool
}

const (
	burstPatience    = 100 * time.Millisecond
	standingPatience = 10 * time.Millisecond // refusals must be quick
	standingAfter    = 100 * time.Millisecond
)

// newGate lets the only client there is, if it is known, have all places.
func newGate(count int, only string) *gate {
	return &gate{limit: count, places: limit.NewSlots(count, only == "")}
}

// enter returns a problem when there is no room; otherwise leave must follow.
func (g *gate) enter(ctx context.Context, client string) error {
	w, patience := g.join(client, time.Now())
	if w == nil {
		return nil
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	turn := false
	select {
	case turn = <-w.turn:
	case <-timer.C:
		turn = g.giveUp(w)
	case <-ctx.Done():
		turn = g.giveUp(w)
	}
	if !turn {
		return refuse(g.reason())
	}
	return nil
}

// join takes a free place and returns nil, or queues.
func (g *gate) join(client string, now time.Time) (*waiter, time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.places.Take(client, 1) {
		return nil, 0
	}
	if len(g.waiting) == g.limit {
		g.waiting[0].turn <- false
		g.waiting = slices.Delete(g.waiting, 0, 1)
	}
	if len(g.waiting) == 0 {
		g.since = now
	}
	w := &waiter{client, make(chan bool, 1)}
	g.waiting = append(g.waiting, w)
	if now.Sub(g.since) > standingAfter {
		return w, standingPatience
	}
	return w, burstPatience
}

// giveUp leaves the queue, unless the waiter was told its turn just now.
func (g *gate) giveUp(w *waiter) (turn bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if at := slices.Index(g.waiting, w); at >= 0 {
		g.waiting = slices.Delete(g.waiting, at, at+1)
		return false
	}
	return <-w.turn
}

// reason tells whether all places are taken, or all that a refused client may
// have.
func (g *gate) reason() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.places.Free() > 0 {
		return reasonClientSync
	}
	return reasonSync
}

// counts returns how many work and how many wait.
func (g *gate) counts() (running, waiting int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.limit - g.places.Free(), len(g.waiting)
}

// leave passes the place on.
func (g *gate) leave(client string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.places.Release(client, 1)
	for at, w := range slices.Backward(g.waiting) {
		if g.places.Take(w.client, 1) {
			w.turn <- true
			g.waiting = slices.Delete(g.waiting, at, at+1)
			return
		}
	}
}
