package jobs

import (
	"context"
	"slices"
	"sync"
	"time"

	"ringback/jobs/limit"
)

// places lets so many works run at a time, and divides the slots among clients. Jobs
// are many more than works, since most of a job's time is spent waiting for
// Postgres, together with others. Where works take long, some of the jobs that find
// no slot wait for one and the rest is postponed, so that a client with thousands
// of them leaves workers, too, to the others.
type places struct {
	count int
	room  int // for jobs that wait

	mu      sync.Mutex
	slots   limit.Slots
	waiting []*placeless          // oldest first
	clients map[string]*clientele // no more than there are clients
}

// placeless is a job that waits for a slot.
type placeless struct {
	client string
	turn   chan struct{} // closed when it has a slot
}

// clientele is what is known of a client's works in this process.
type clientele struct {
	waiting int
	line    limit.Line    // of jobs that were postponed
	took    time.Duration // moving average of a work, 0 before the first
}

// newPlaces lets no more than half of the workers wait.
func newPlaces(count, workers int, shared bool) *places {
	return &places{count: count, room: workers / 2, slots: limit.NewSlots(count, shared), clients: map[string]*clientele{}}
}

const (
	// workSlots is why a work waits.
	workSlots limit.Reason = "work_slots"
	// placePatience is how long a job waits for a slot at most.
	placePatience = 10 * time.Second
	// assumedWork spaces the works of a client of which none has ended yet.
	assumedWork = time.Second
	// soonest is what a job is postponed by at least.
	soonest = 10 * time.Millisecond
	// recallStep is the time between two jobs that come back with nothing reserved.
	recallStep = time.Millisecond
)

// enter waits until a work of a client may run, which must call leave when it has
// run, or returns when the job may come back. When ctx ends, it does neither. A job
// that came back has been postponed before.
func (p *places) enter(ctx context.Context, client string, cameBack bool) (leave func(), postponed limit.Decision) {
	w, postponed := p.join(client, cameBack, time.Now())
	if !postponed.OK() {
		return nil, postponed
	}
	timer := time.NewTimer(placePatience)
	defer timer.Stop()
	select {
	case <-w.turn:
	case <-timer.C:
		if postponed = p.giveUp(w, time.Now()); !postponed.OK() {
			return nil, postponed
		}
	case <-ctx.Done():
		if !p.giveUp(w, time.Now()).OK() {
			return nil, limit.Decision{}
		}
	}
	began := time.Now()
	return func() { p.leave(client, time.Since(began)) }, limit.Decision{}
}

// join takes a slot or queues. Jobs that come for the first time queue behind those
// that were postponed.
func (p *places) join(client string, cameBack bool, now time.Time) (w *placeless, postponed limit.Decision) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.of(client)
	w = &placeless{client, make(chan struct{})}
	if p.slots.Take(client, 1) {
		close(w.turn)
		return w, limit.Decision{}
	}
	if c.waiting >= p.room-len(p.waiting) || !cameBack && c.line.Last().After(now) {
		return nil, p.postpone(c, now)
	}
	c.waiting++
	p.waiting = append(p.waiting, w)
	return w, limit.Decision{}
}

func (p *places) of(client string) *clientele {
	c := p.clients[client]
	if c == nil {
		c = &clientele{}
		p.clients[client] = c
	}
	return c
}

// postpone tells a job to come back when half of those of its client that wait are
// gone, and one after the other as slots are free.
func (p *places) postpone(c *clientele, now time.Time) limit.Decision {
	took := c.took
	if took == 0 {
		took = assumedWork
	}
	gone := took * time.Duration(c.waiting) / time.Duration(2*p.count)
	at := c.line.Reserve(now.Add(max(soonest, gone)), took/time.Duration(p.count), recallStep)
	return limit.Decision{Reason: workSlots, RetryAt: at}
}

// giveUp leaves the queue and is postponed, unless it was given a slot just now.
func (p *places) giveUp(w *placeless, now time.Time) (postponed limit.Decision) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := slices.Index(p.waiting, w)
	if at < 0 {
		return limit.Decision{}
	}
	return p.postpone(p.remove(at), now)
}

func (p *places) remove(at int) *clientele {
	c := p.of(p.waiting[at].client)
	c.waiting--
	p.waiting = slices.Delete(p.waiting, at, at+1)
	return c
}

// leave passes the slot on to the client's job that waited longest and may have it.
func (p *places) leave(client string, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.of(client)
	if c.took == 0 {
		c.took = took
	}
	c.took += (took - c.took) / 8
	p.slots.Release(client, 1)
	for at, w := range p.waiting {
		if p.slots.Take(w.client, 1) {
			close(w.turn)
			p.remove(at)
			return
		}
	}
}

// running is how many works run.
func (p *places) running() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.slots.Taken()
}
