package jobs

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

// localJobs are the jobs that run in this process, by id: fetched by River or born
// running.
type localJobs struct {
	mu   sync.Mutex
	jobs map[int64]localJob
}

type localJob struct {
	cancel context.CancelCauseFunc // nil for a job that River runs
	ended  chan struct{}           // closed at its end; nil where nobody waits for that
}

// add notes that a job runs, unless it runs already. Then it returns the end of that run.
func (l *localJobs) add(id int64, cancel context.CancelCauseFunc) (earlier <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.jobs == nil {
		l.jobs = map[int64]localJob{}
	}
	runs, already := l.jobs[id]
	if !already {
		l.jobs[id] = localJob{cancel: cancel}
		return nil
	}
	if runs.ended == nil {
		runs.ended = make(chan struct{})
		l.jobs[id] = runs
	}
	return runs.ended
}

func (l *localJobs) remove(id int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ended := l.jobs[id].ended; ended != nil {
		close(ended)
	}
	delete(l.jobs, id)
}

// around wraps each job that River runs. A job that runs here already was made available
// by hand. Once that run has ended, the job is as the run left it.
func (l *localJobs) around(lanes map[string]*lane) rivertype.WorkerMiddleware {
	return river.WorkerMiddlewareFunc(func(ctx context.Context, job *rivertype.JobRow, work func(context.Context) error) error {
		defer lanes[job.Queue].fetchedEnded()
		if earlier := l.add(job.ID, nil); earlier != nil {
			select {
			case <-earlier:
				return river.JobSnooze(0) // no effect where the run has set the job's state
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		defer l.remove(job.ID)
		return work(ctx)
	})
}

func (l *localJobs) has(id int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, found := l.jobs[id]
	return found
}

func (l *localJobs) running() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.jobs)
}

// cancel ends the context of a job that was born running here, as River does with
// the context of a job that it runs.
func (l *localJobs) cancel(id int64) {
	l.mu.Lock()
	cancel := l.jobs[id].cancel
	l.mu.Unlock()
	if cancel != nil {
		cancel(rivertype.ErrJobCancelledRemotely)
	}
}

// born returns the jobs that were born running.
func (l *localJobs) born() []int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids := maps.Clone(l.jobs)
	maps.DeleteFunc(ids, func(_ int64, job localJob) bool { return job.cancel == nil })
	return slices.Collect(maps.Keys(ids))
}

// ranBefore tells whether a job was taken up before, by any process.
func ranBefore(job *rivertype.JobRow) bool { return len(job.AttemptedBy) > 1 }
