package limit

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Gate is slots that callers wait for. It alone of this package locks and knows the
// time, since callers wait in it.
type Gate struct {
	order    Order
	all, own Reason

	mu      sync.Mutex
	slots   Slots
	waiting []*waiter            // oldest first, after the hurried
	hurried int                  // callers of Hurry that wait, at the head
	of      map[string]int       // callers that wait, by client
	since   time.Time            // from then on somebody has waited all the time
	came    map[string]time.Time // when each client last came; no more than there are clients
}

// lately is for how long after a client has come others leave the last slot to it.
const lately = time.Minute

// Order is the order of waiting callers.
type Order int

// The orders. With NewestFirst, no more callers wait than there are slots: a new caller
// displaces the oldest.
const (
	OldestFirst Order = iota
	NewestFirst
)

// Queue is who waits when a caller comes. A hurried caller sees the hurried alone.
type Queue struct {
	All, Own int           // callers of all clients, and of its client
	Stands   time.Duration // for how long somebody has waited all the time
}

type waiter struct {
	client  string
	hurried bool
	turn    chan bool // gets true with a slot, or false with a refusal
}

// NewGate returns a gate that refuses for the reason all where no slot is free, and
// for the reason own where the client has its share.
func NewGate(slots Slots, order Order, all, own Reason) *Gate {
	return &Gate{order: order, all: all, own: own, slots: slots, of: map[string]int{}, came: map[string]time.Time{}}
}

// Enter takes a slot for a client, which Leave gives back, or says why there is none.
// The caller waits for it no longer than patience says and ctx lasts.
func (g *Gate) Enter(ctx context.Context, client string, patience func(Queue) time.Duration) Decision {
	return g.enter(ctx, &waiter{client: client}, patience)
}

// Hurry is Enter for a caller whose turn comes before the turn of all callers of Enter. The
// order of the gate is OldestFirst.
func (g *Gate) Hurry(ctx context.Context, client string, patience func(Queue) time.Duration) Decision {
	return g.enter(ctx, &waiter{client: client, hurried: true}, patience)
}

func (g *Gate) enter(ctx context.Context, w *waiter, patience func(Queue) time.Duration) Decision {
	waits, wait := g.join(w, patience, time.Now())
	if !waits {
		return Decision{}
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	turn := false
	select {
	case turn = <-w.turn:
	case <-timer.C:
		turn = g.giveUp(w)
	case <-ctx.Done():
		turn = g.giveUp(w)
	}
	if turn {
		return Decision{}
	}
	return g.refusal(w.client)
}

// join takes a free slot, or queues.
func (g *Gate) join(w *waiter, patience func(Queue) time.Duration, now time.Time) (waits bool, wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.came[w.client] = now
	if g.take(w.client, now) {
		return false, 0
	}
	if g.order == NewestFirst && len(g.waiting) == g.slots.count {
		g.tell(0, false)
	}
	if len(g.waiting) == 0 {
		g.since = now
	}
	w.turn = make(chan bool, 1)
	wait = patience(g.queue(w, now))
	if wait == 0 {
		w.turn <- false
		return true, 0
	}
	at := len(g.waiting)
	if w.hurried {
		at = g.hurried
		g.hurried++
	}
	g.waiting = slices.Insert(g.waiting, at, w)
	g.of[w.client]++
	return true, wait
}

// take takes a slot. Of clients that share, a client leaves the last to those that came lately
// and have fewer: with few slots, or after others that took all they got, a share is all that
// is left, and may be held for as long as a run takes.
func (g *Gate) take(client string, now time.Time) bool {
	if g.slots.times > 0 && g.slots.Free() == 1 && g.isAwaited(client, now) {
		return false
	}
	return g.slots.Take(client, 1)
}

// isAwaited tells whether a client that came lately has fewer slots than the given client.
func (g *Gate) isAwaited(client string, now time.Time) bool {
	own := g.slots.Of(client)
	for other, at := range g.came {
		if own > 0 && g.slots.Of(other) < own && now.Sub(at) < lately {
			return true
		}
	}
	return false
}

// queue is who waits when a caller comes.
func (g *Gate) queue(w *waiter, now time.Time) Queue {
	queue := Queue{len(g.waiting), g.of[w.client], now.Sub(g.since)}
	if w.hurried {
		queue.All, queue.Own = g.hurried, 0
		for _, other := range g.waiting[:g.hurried] {
			if other.client == w.client {
				queue.Own++
			}
		}
	}
	return queue
}

// tell ends a caller's wait.
func (g *Gate) tell(at int, turn bool) {
	w := g.waiting[at]
	w.turn <- turn
	g.waiting = slices.Delete(g.waiting, at, at+1)
	if w.hurried {
		g.hurried--
	}
	if g.of[w.client]--; g.of[w.client] == 0 {
		delete(g.of, w.client)
	}
}

// giveUp leaves the queue, unless the waiter was told just now.
func (g *Gate) giveUp(w *waiter) (turn bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if at := slices.Index(g.waiting, w); at >= 0 {
		g.tell(at, false)
	}
	return <-w.turn
}

func (g *Gate) refusal(client string) Decision {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.slots.Free() == 0 {
		return Decision{Reason: g.all}
	}
	return Decision{Reason: g.own, Most: int64(g.slots.Of(client))}
}

// Leave passes a slot on.
func (g *Gate) Leave(client string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.slots.Release(client, 1)
	for n := range g.waiting {
		at := n
		if g.order == NewestFirst {
			at = len(g.waiting) - 1 - n
		}
		if g.take(g.waiting[at].client, time.Now()) {
			g.tell(at, true)
			return
		}
	}
}

// Counts returns how many slots are taken, and how many callers wait.
func (g *Gate) Counts() (taken, waiting int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.slots.Taken(), len(g.waiting)
}

// Waiting is how many callers of a client wait.
func (g *Gate) Waiting(client string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.of[client]
}

// Share is how many slots a client alone may have.
func (g *Gate) Share() int { return g.slots.Share() }
