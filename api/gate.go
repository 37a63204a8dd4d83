package api

import (
	"context"
	"slices"
	"sync"
	"time"
)

// gate lets a bounded number of calls work at a time. As many may wait for a
// moment, and the newest of them is next: under a storm, first come, first
// served would make everybody wait for as long as the queue is, and serve those
// who are about to give up. When too many wait, the oldest is refused.
//
// How long one waits at most follows Facebook's controlled delay (B. Maurer,
// "Fail at Scale", ACM Queue 2015): a burst may wait it out, a standing queue is
// cut short, since it means that not all can be served anyway.
type gate struct {
	mu      sync.Mutex
	free    int
	depth   int
	waiting []*waiter // oldest first
	since   time.Time // when the first of a standing queue came, zero when nobody waits
}

// waiter is a call that waits. It is told true for its turn, false when it is
// refused.
type waiter struct{ turn chan bool }

const (
	burstPatience    = 100 * time.Millisecond
	standingPatience = 10 * time.Millisecond // refusals must be quick
	standingAfter    = 100 * time.Millisecond
)

func newGate(limit int) *gate { return &gate{free: limit, depth: limit} }

// enter returns a problem when there is no room; otherwise leave must follow.
func (g *gate) enter(ctx context.Context) error {
	w, patience := g.join(time.Now())
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
		return newProblem("temporary-reduced-capacity", "Too many requests are under way. Nothing was done; try again.")
	}
	return nil
}

// join takes a free place and returns nil, or queues.
func (g *gate) join(now time.Time) (*waiter, time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.free > 0 {
		g.free--
		return nil, 0
	}
	if len(g.waiting) == g.depth {
		g.waiting[0].turn <- false
		g.waiting = slices.Delete(g.waiting, 0, 1)
	}
	if len(g.waiting) == 0 {
		g.since = now
	}
	w := &waiter{make(chan bool, 1)}
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

// counts returns how many work and how many wait.
func (g *gate) counts() (running, waiting int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.depth - g.free, len(g.waiting)
}

// leave passes the place to the newest waiter.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	newest := len(g.waiting) - 1
	if newest < 0 {
		g.free++
		return
	}
	g.waiting[newest].turn <- true
	g.waiting = slices.Delete(g.waiting, newest, newest+1)
}
