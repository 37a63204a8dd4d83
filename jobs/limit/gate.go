package limit

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Gate is slots that callers wait for. No other type of this package locks or reads the clock.
type Gate struct {
	order    Order
	all, own Reason // of NewGate

	mu      sync.Mutex
	slots   Slots
	waiting []*waiter            // callers of Hurry first, and then callers of Enter; the oldest first of each
	hurried int                  // callers of Hurry that wait
	of      map[string]int       // callers that wait, by client
	since   time.Time            // since then callers have waited without a gap
	came    map[string]time.Time // when each client last came; no more entries than clients
}

// lately is for how long after a client has come other clients leave the last slot to it.
const lately = time.Minute

// Order is the order of waiting callers.
type Order int

// The orders. With NewestFirst, no more callers wait than there are slots: a new caller
// displaces the oldest.
const (
	OldestFirst Order = iota
	NewestFirst
)

// Queue is the callers that wait when another comes. For a caller of Hurry it is only the callers
// of Hurry.
type Queue struct {
	All, Own int           // callers of all clients, and of the caller's client
	Stands   time.Duration // for how long callers have waited without a gap
}

type waiter struct {
	client  string
	hurried bool
	turn    chan bool // true with a slot, false with a refusal
}

// NewGate returns a gate that refuses for the reason all where no slot is free, and
// for the reason own where the client has its share.
func NewGate(slots Slots, order Order, all, own Reason) *Gate {
	return &Gate{order: order, all: all, own: own, slots: slots, of: map[string]int{}, came: map[string]time.Time{}}
}

// Enter takes a slot for a client, which Leave gives back, or says why there is none. The caller
// waits for the slot no longer than patience says and ctx lasts.
func (g *Gate) Enter(ctx context.Context, client string, patience func(Queue) time.Duration) Decision {
	return g.enter(ctx, &waiter{client: client}, patience)
}

// Hurry is Enter for a caller whose turn comes before the turns of all callers of Enter. The order
// of the gate must be OldestFirst.
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

// join takes a free slot, or queues the caller for as long as patience says.
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

// take takes a slot, if the client may have one. Of clients that share, a client leaves the last
// slot to clients that came lately and have fewer. Otherwise, with few slots or with other clients
// that took all they could, the client's share would include that slot, for as long as a run takes.
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

// queue is the queue that a caller sees.
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

// tell ends the wait of the caller at a place in the queue.
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

// giveUp takes a caller out of the queue. It returns true where the caller got a slot just before.
func (g *Gate) giveUp(w *waiter) (turn bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if at := slices.Index(g.waiting, w); at >= 0 {
		g.tell(at, false)
	}
	return <-w.turn
}

// refusal tells why a client gets no slot.
func (g *Gate) refusal(client string) Decision {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.slots.Free() == 0 {
		return Decision{Reason: g.all}
	}
	return Decision{Reason: g.own, Most: int64(g.slots.Of(client))}
}

// Leave gives a client's slot back, and passes it on to a caller that waits.
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
