package jobs

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

// held is the registry of the jobs that run in this process, by id, on either way.
// For a job that was born running it has the function that cancels the job.
type held struct {
	mu   sync.Mutex
	jobs map[int64]context.CancelCauseFunc // nil for a job that River runs
}

func (h *held) add(id int64, cancel context.CancelCauseFunc) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.jobs == nil {
		h.jobs = map[int64]context.CancelCauseFunc{}
	}
	h.jobs[id] = cancel
}

func (h *held) remove(id int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.jobs, id)
}

// around is what River calls around each job.
func (h *held) around(lanes map[string]*lane) rivertype.WorkerMiddleware {
	return river.WorkerMiddlewareFunc(func(ctx context.Context, job *rivertype.JobRow, work func(context.Context) error) error {
		defer lanes[job.Queue].fetchedEnded()
		h.add(job.ID, nil)
		defer h.remove(job.ID)
		return work(ctx)
	})
}

func (h *held) has(id int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, found := h.jobs[id]
	return found
}

func (h *held) running() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.jobs)
}

// cancel ends the context of a job that was born running here, as River does with
// the context of a job that it runs.
func (h *held) cancel(id int64) {
	h.mu.Lock()
	cancel := h.jobs[id]
	h.mu.Unlock()
	if cancel != nil {
		cancel(rivertype.ErrJobCancelledRemotely)
	}
}

// born returns the jobs that were born running.
func (h *held) born() []int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	ids := maps.Clone(h.jobs)
	maps.DeleteFunc(ids, func(_ int64, cancel context.CancelCauseFunc) bool { return cancel == nil })
	return slices.Collect(maps.Keys(ids))
}

// ranBefore tells whether a job was taken up before, by any process.
func ranBefore(job *rivertype.JobRow) bool { return len(job.AttemptedBy) > 1 }
