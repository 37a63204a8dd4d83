package flow

import (
	"sync"

	"ringback/jobs/limit"
)

// Room is the waiting room: it bounds the jobs that hold a worker while they wait for a run, of
// all kinds of work together. Clients share it. With a room for each kind of work, the jobs of
// one client could hold all workers.
type Room struct {
	mu    sync.Mutex
	slots limit.Slots
}

// NewRoom returns a room for half of the workers that runs leave. The other half takes up the
// jobs of the next client, which run or are postponed at once.
func NewRoom(workers, runs int, shared bool) *Room {
	return &Room{slots: limit.NewHalves(max(0, workers-runs)/2, shared)}
}

// enter tells whether a job of a client may wait. If so, leave must follow.
func (r *Room) enter(client string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.slots.Take(client, 1)
}

func (r *Room) leave(client string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.slots.Release(client, 1)
}

// MostRuns is how many async requests may run at a time: where clients share the workers,
// runs that take long leave workers to jobs of others.
func MostRuns(workLimit, workers int, shared bool) int {
	if !shared {
		return workLimit
	}
	return min(workLimit, max(1, workers*3/4))
}
