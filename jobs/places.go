package jobs

import (
	"context"
	"slices"
	"sync"
	"time"

	"ringback/work"
)

// places lets so many works run at a time, and divides them among clients. Jobs
// are many more than works, since most of a job's time is spent waiting for
// Postgres, together with others. Where works take long, some of those that find
// no place wait for one and the rest is put off, so that a client with thousands
// of them leaves workers, too, to the others.
type places struct {
	count int
	room  int // for those that wait

	mu      sync.Mutex
	places  work.Places
	waiting []*placeless          // oldest first
	clients map[string]*clientele // no more than there are clients
}

// placeless is a job that waits for a place.
type placeless struct {
	client string
	turn   chan struct{} // closed when it has a place
}

// clientele is what is known of a client's works in this process.
type clientele struct {
	waiting int
	slots   budget        // that jobs are put off to
	took    time.Duration // moving average of a work, 0 before the first
}

// newPlaces lets no more than half of the workers wait.
func newPlaces(count, workers int, shared bool) *places {
	return &places{count: count, room: workers / 2, places: work.NewPlaces(count, shared), clients: map[string]*clientele{}}
}

const (
	// placePatience is how long a job waits for a place at most.
	placePatience = 10 * time.Second
	// assumedWork spaces the works of a client of which none has ended yet.
	assumedWork = time.Second
	// soonest is what a job is put off by at least.
	soonest = 10 * time.Millisecond
)

// enter waits until a work of a client may run, which must call leave when it has
// run, or returns how long to put the job off. When ctx ends, it does neither. A
// job that came back has been put off before.
func (p *places) enter(ctx context.Context, client string, cameBack bool) (leave func(), putOff time.Duration) {
	w, putOff := p.join(client, cameBack, time.Now())
	if putOff > 0 {
		return nil, putOff
	}
	timer := time.NewTimer(placePatience)
	defer timer.Stop()
	select {
	case <-w.turn:
	case <-timer.C:
		if putOff = p.giveUp(w, time.Now()); putOff > 0 {
			return nil, putOff
		}
	case <-ctx.Done():
		if p.giveUp(w, time.Now()) > 0 {
			return nil, 0
		}
	}
	began := time.Now()
	return func() { p.leave(client, time.Since(began)) }, 0
}

// join takes a place or queues. Jobs that come for the first time queue behind
// those that were put off.
func (p *places) join(client string, cameBack bool, now time.Time) (w *placeless, putOff time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.of(client)
	w = &placeless{client, make(chan struct{})}
	if p.places.Take(client) {
		close(w.turn)
		return w, 0
	}
	if c.waiting >= p.room-len(p.waiting) || !cameBack && c.slots.promised.After(now) {
		return nil, p.putOff(c, now)
	}
	c.waiting++
	p.waiting = append(p.waiting, w)
	return w, 0
}

func (p *places) of(client string) *clientele {
	c := p.clients[client]
	if c == nil {
		c = &clientele{}
		p.clients[client] = c
	}
	return c
}

// putOff tells a job to come back when half of those of its client that wait are
// gone, and one after the other as places are left.
func (p *places) putOff(c *clientele, now time.Time) time.Duration {
	took := c.took
	if took == 0 {
		took = assumedWork
	}
	gone := took * time.Duration(c.waiting) / time.Duration(2*p.count)
	slot := c.slots.promise(now.Add(gone), limit{most: p.count, ceiling: fastest}, took)
	return max(soonest, slot.Sub(now))
}

// giveUp leaves the queue and is put off, unless it was given a place just now.
func (p *places) giveUp(w *placeless, now time.Time) (putOff time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := slices.Index(p.waiting, w)
	if at < 0 {
		return 0
	}
	return p.putOff(p.remove(at), now)
}

func (p *places) remove(at int) *clientele {
	c := p.of(p.waiting[at].client)
	c.waiting--
	p.waiting = slices.Delete(p.waiting, at, at+1)
	return c
}

// leave passes the place on to whoever waited longest and may have it.
func (p *places) leave(client string, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.of(client)
	if c.took == 0 {
		c.took = took
	}
	c.took += (took - c.took) / 8
	p.places.Leave(client)
	for at, w := range p.waiting {
		if p.places.Take(w.client) {
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
	return p.count - p.places.Free()
}
