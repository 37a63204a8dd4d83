package jobs

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

// held is which jobs run in this process, by id.
type held struct {
	ids     sync.Map
	running atomic.Int64
}

// around is what River calls around each job.
func (h *held) around() rivertype.WorkerMiddleware {
	return river.WorkerMiddlewareFunc(func(ctx context.Context, job *rivertype.JobRow, work func(context.Context) error) error {
		h.ids.Store(job.ID, true)
		defer h.ids.Delete(job.ID)
		h.running.Add(1)
		defer h.running.Add(-1)
		return work(ctx)
	})
}

func (h *held) has(id int64) bool {
	_, found := h.ids.Load(id)
	return found
}
