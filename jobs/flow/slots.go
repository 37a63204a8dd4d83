package flow

import (
	"context"
	"sync"
	"time"

	"ringback/jobs/limit"
)

// Slots bounds the runs of all kinds of work at a time, and divides the slots among clients. Jobs
// outnumber runs, since a job spends most of its time waiting for Postgres, together with other
// jobs. Where runs take long, some of the jobs without a slot wait for one, and the rest are
// postponed. So a client with thousands of jobs leaves workers to other clients.
type Slots struct {
	count int
	room  *Room // for jobs that wait for a slot
	gate  *limit.Gate

	mu      sync.Mutex
	clients clientStates
}

// clientState is what this process knows of a client's runs, of all kinds of work or of one.
type clientState struct {
	line limit.Line    // jobs that were postponed
	took time.Duration // moving average of a run, 0 before the first
}

// clientStates are by client. There are no more states than clients.
type clientStates map[string]*clientState

func (all clientStates) of(client string) *clientState {
	c := all[client]
	if c == nil {
		c = &clientState{}
		all[client] = c
	}
	return c
}

// NewSlots returns count slots, of which each client has a share where shared is true.
func NewSlots(count int, room *Room, shared bool) *Slots {
	gate := limit.NewGate(limit.NewSlots(count, shared), limit.OldestFirst, WorkSlots, WorkSlots)
	return &Slots{count: count, room: room, gate: gate, clients: clientStates{}}
}

const (
	// WorkSlots is why a run waits: the slots of all runs are used up.
	WorkSlots limit.Reason = "work_slots"
	// slotPatience is how long a job waits for a slot at most.
	slotPatience = 10 * time.Second
	// assumedWork spaces a client's runs before the first has ended.
	assumedWork = time.Second
	// Soonest is the shortest time by which a job is postponed.
	Soonest = 10 * time.Millisecond
	// recallStep is the time between two jobs that come back without a reservation.
	recallStep = time.Millisecond
)

// Enter waits until a run of a client may start. The job must call leave after the run. Otherwise
// leave is nil, and postponed says when the job may come back. After the end of ctx, leave is nil
// and postponed means nothing. A job that came back has been postponed before.
func (s *Slots) Enter(ctx context.Context, client string, cameBack bool) (leave func(), postponed limit.Decision) {
	waited := false
	decision := s.gate.Enter(ctx, client, func(limit.Queue) time.Duration {
		if !cameBack && s.isPromised(client, time.Now()) || !s.room.enter(client) {
			return 0
		}
		waited = true
		return slotPatience
	})
	if waited {
		s.room.leave(client)
	}
	if !decision.OK() {
		if ctx.Err() != nil {
			return nil, limit.Decision{}
		}
		decision.RetryAt = s.postpone(client, time.Now())
		return nil, decision
	}
	began := time.Now()
	return func() { s.leave(client, time.Since(began)) }, limit.Decision{}
}

// isPromised tells whether postponed jobs of a client are yet to come back. Jobs that come for the
// first time queue behind them.
func (s *Slots) isPromised(client string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clients.of(client).line.Last().After(now)
}

// postpone returns the time for a job to come back. The first job comes back when half of its
// client's waiting jobs have run, and the next follow as slots become free. The time is at most
// about as far ahead as the client's jobs have had to wait so far: runs may take less time again.
func (s *Slots) postpone(client string, now time.Time) time.Time {
	waiting := s.gate.Waiting(client)
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients.of(client)
	took := c.took
	if took == 0 {
		took = assumedWork
	}
	gone := took * time.Duration(waiting) / time.Duration(2*s.count)
	near := limit.Near(c.line.Stood(now))
	return c.line.ReserveWithin(near, now.Add(max(Soonest, min(gone, near))), took/time.Duration(s.count), recallStep)
}

// leave gives the slot back, after a run that took so long.
func (s *Slots) leave(client string, took time.Duration) {
	s.gate.Leave(client)
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients.of(client)
	c.took = average(c.took, took)
}

// Running is the number of runs.
func (s *Slots) Running() int {
	running, _ := s.gate.Counts()
	return running
}

// average is a moving average with the next value, which is the average where it is the first.
func average(before, next time.Duration) time.Duration {
	if before == 0 {
		return next
	}
	return before + (next-before)/8
}
