package jobs

import (
	"context"
	"sync"
	"time"

	"ringback/jobs/limit"
)

// places bounds the runs at a time, and divides the slots among clients. Jobs outnumber
// runs, since a job spends most of its time waiting for Postgres, together with other
// jobs. Where runs take long, some of the jobs without a slot wait for a slot and the
// rest are postponed, so that a client with thousands of jobs leaves workers to other
// clients.
type places struct {
	count int
	room  int // for jobs that wait
	gate  *limit.Gate

	mu      sync.Mutex
	clients map[string]*clientele // no more than there are clients
}

// clientele is a client's runs in this process.
type clientele struct {
	line limit.Line    // of jobs that were postponed
	took time.Duration // moving average of a work, 0 before the first
}

// newPlaces lets no more than half of the workers wait.
func newPlaces(count, workers int, shared bool) *places {
	gate := limit.NewGate(limit.NewSlots(count, shared), limit.OldestFirst, workSlots, workSlots)
	return &places{count: count, room: workers / 2, gate: gate, clients: map[string]*clientele{}}
}

const (
	// workSlots is why a work waits.
	workSlots limit.Reason = "work_slots"
	// placePatience is how long a job waits for a slot at most.
	placePatience = 10 * time.Second
	// assumedWork spaces a client's runs before the first has ended.
	assumedWork = time.Second
	// soonest is the shortest time by which a job is postponed.
	soonest = 10 * time.Millisecond
	// recallStep is the time between two jobs that come back with nothing reserved.
	recallStep = time.Millisecond
)

// enter waits until a work of a client may run, which must call leave when it has
// run, or returns when the job may come back. When ctx ends, it does neither. A job
// that came back has been postponed before.
func (p *places) enter(ctx context.Context, client string, cameBack bool) (leave func(), postponed limit.Decision) {
	decision := p.gate.Enter(ctx, client, func(queue limit.Queue) time.Duration {
		if queue.Own >= p.room-queue.All || !cameBack && p.isPromised(client, time.Now()) {
			return 0
		}
		return placePatience
	})
	if !decision.OK() {
		if ctx.Err() != nil {
			return nil, limit.Decision{}
		}
		decision.RetryAt = p.postpone(client, time.Now())
		return nil, decision
	}
	began := time.Now()
	return func() { p.leave(client, time.Since(began)) }, limit.Decision{}
}

// isPromised tells whether jobs of a client that were postponed are yet to come back.
// Jobs that come for the first time queue behind them.
func (p *places) isPromised(client string, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.of(client).line.Last().After(now)
}

func (p *places) of(client string) *clientele {
	c := p.clients[client]
	if c == nil {
		c = &clientele{}
		p.clients[client] = c
	}
	return c
}

// postpone returns the time for a job to come back: when half of its client's waiting
// jobs are gone, and then one after the other as slots are free.
func (p *places) postpone(client string, now time.Time) time.Time {
	waiting := p.gate.Waiting(client)
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.of(client)
	took := c.took
	if took == 0 {
		took = assumedWork
	}
	gone := took * time.Duration(waiting) / time.Duration(2*p.count)
	return c.line.Reserve(now.Add(max(soonest, gone)), took/time.Duration(p.count), recallStep)
}

// leave gives the slot back.
func (p *places) leave(client string, took time.Duration) {
	p.gate.Leave(client)
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.of(client)
	if c.took == 0 {
		c.took = took
	}
	c.took += (took - c.took) / 8
}

// running is the number of runs.
func (p *places) running() int {
	running, _ := p.gate.Counts()
	return running
}
