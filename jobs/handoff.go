package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivertype"

	"ringback/db"
	"ringback/db/batch"
)

// handoff runs jobs that are born running.
//
// The usual way from one step to the next has three statements, and waits between them. One
// inserts a job and notifies River, River fetches the job when its cooldown is over, and its
// completer writes that the job has ended. The short way is for a process that has a free worker
// while nothing older waits in the queue. The statement inserts the job as River's fetch would
// leave it: running, at its first attempt, in the name of this process. Once that is committed,
// handoff runs the job at once, with the request that is in memory anyway. The statement that ends
// the step completes the job, too.
//
//	accept ── commit {request, work job} ──┬─ available ─► River fetches ─► load ─┐
//	                                       └─ running ─────────► handoff ─────────┴─► worker ─► finish
//
// River's table stays the queue of record. All else stays River's: jobs beyond the free workers,
// retries, snoozes, jobs that other processes insert or leave behind, and River UI's view. A job
// that was born running and doesn't end with its step goes back to River by River's own statement.
// Where this process dies or loses such a job (the answer to an insert that committed may get
// lost), the heartbeat gives it back like any other.
//
// Workers don't see a job's way. A lane decides it.
type handoff struct {
	process string // River's client id
	exec    riverdriver.Executor
	local   *localJobs
	logger  *slog.Logger

	ctx   context.Context // of the jobs
	stop  context.CancelCauseFunc
	tasks chan task
	ends  *batch.Batcher[*riverdriver.JobSetStateIfRunningParams, struct{}]
}

// worker does a step, for River and for handoff alike.
type worker interface {
	// run does the step of a request. It answers as a River worker does. A nil error says that the
	// job is over, and completed by the statement that ended the step. river.JobSnooze postpones
	// it, and any other error charges the attempt.
	run(ctx context.Context, job *rivertype.JobRow, request db.Request) error
	retryAt(job *rivertype.JobRow) time.Time
}

// task is a job that was born running.
type task struct {
	lane    *lane
	worker  worker
	job     *rivertype.JobRow
	request db.Request
}

// errStopping is why the context of a job ends when the process stops.
var errStopping = errors.New("the process is stopping")

func newHandoff(process string, exec riverdriver.Executor, local *localJobs, logger *slog.Logger) *handoff {
	h := &handoff{process: process, exec: exec, local: local, logger: logger, tasks: make(chan task)}
	h.ctx, h.stop = context.WithCancelCause(context.Background())
	return h
}

// born is the row of a job that was born running, as far as the workers look at it.
func (h *handoff) born(id int64, jobs db.Jobs) *rivertype.JobRow {
	now := time.Now()
	return &rivertype.JobRow{
		ID: id, Kind: jobs.Kind, Queue: jobs.Queue, State: rivertype.JobStateRunning,
		Attempt: 1, AttemptedAt: &now, AttemptedBy: []string{h.process}, MaxAttempts: jobs.MaxAttempts,
		CreatedAt: now, ScheduledAt: now,
	}
}

// start runs a job on a free goroutine that has run jobs before, if there is one. Growing a new
// stack each time would cost a tenth of the server's CPU. There are no more goroutines than
// workers.
func (h *handoff) start(t task) {
	select {
	case h.tasks <- t:
	default:
		go h.work(t)
	}
}

func (h *handoff) work(t task) {
	for {
		h.execute(t)
		select {
		case t = <-h.tasks:
		case <-h.ctx.Done():
			return
		}
	}
}

func (h *handoff) execute(t task) {
	defer t.lane.ended()
	ctx, cancel := context.WithCancelCause(h.ctx)
	defer cancel(nil)
	h.local.add(t.job.ID, cancel)
	defer h.local.remove(t.job.ID)
	began := time.Now()
	trace, err := h.try(ctx, t)
	if err == nil {
		return
	}
	end, err := ending(ctx, t, began, err, trace)
	if err == nil {
		err = h.write(end)
	}
	if err != nil {
		h.logger.ErrorContext(ctx, "job_not_given_back", "job_id", t.job.ID, "error", err)
	}
}

// try calls the worker and returns a panic as an error, with its trace.
func (h *handoff) try(ctx context.Context, t task) (trace string, err error) {
	defer func() {
		if value := recover(); value != nil {
			trace, err = string(debug.Stack()), fmt.Errorf("%v", value)
			h.logger.ErrorContext(ctx, "job_panicked", "job_id", t.job.ID, "kind", t.job.Kind, "panic", value, "trace", trace)
		}
	}()
	return "", t.worker.run(ctx, t.job, t.request)
}

// schedulerInterval is River's. A job that is due sooner is made available at once, since
// River's scheduler might come too late for it.
const schedulerInterval = 5 * time.Second

// ending is the state that River would write of a job that has not ended with its step.
func ending(ctx context.Context, t task, began time.Time, failure error, trace string) (*riverdriver.JobSetStateIfRunningParams, error) {
	job, now := t.job, time.Now()
	var snooze *rivertype.JobSnoozeError
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, rivertype.ErrJobCancelledRemotely):
		failed, err := attemptError(job, began, cause, trace)
		return riverdriver.JobSetStateCancelled(job.ID, now, failed, nil), err
	case errors.As(failure, &snooze):
		return snoozed(job, now, snooze.Duration, failure), nil
	case errors.Is(cause, errStopping) && errors.Is(failure, context.Canceled):
		return riverdriver.JobSetStateInterrupted(job.ID, now, job.Attempt-1, nil), nil
	}
	failed, err := attemptError(job, began, failure, trace)
	at, set := t.worker.retryAt(job), riverdriver.JobSetStateErrorRetryable
	if time.Until(at) <= schedulerInterval {
		set = riverdriver.JobSetStateErrorAvailable
	}
	if job.Queue != callbackQueue || trace != "" { // River stores no output of a job that panicked
		return set(job.ID, at, failed, nil), err
	}
	return set(job.ID, at, failed, fmt.Appendf(nil, "{%s}", noteOf(failure))), err
}

func snoozed(job *rivertype.JobRow, now time.Time, delay time.Duration, failure error) *riverdriver.JobSetStateIfRunningParams {
	metadata := []byte(`{"snoozes": 1}`)
	if job.Queue == callbackQueue {
		metadata = fmt.Appendf(nil, `{"snoozes": 1, %s}`, noteOf(failure))
	}
	set := riverdriver.JobSetStateSnoozed
	if delay <= schedulerInterval {
		set = riverdriver.JobSetStateSnoozedAvailable
	}
	return set(job.ID, now.Add(delay), job.Attempt-1, metadata)
}

func attemptError(job *rivertype.JobRow, began time.Time, failure error, trace string) ([]byte, error) {
	encoded, err := json.Marshal(rivertype.AttemptError{At: began, Attempt: job.Attempt, Error: failure.Error(), Trace: trace})
	if err != nil {
		return nil, fmt.Errorf("encoding the error of an attempt: %w", err)
	}
	return encoded, nil
}

// write gives a job back to River, again and again while the database is away. When
// the process stops meanwhile, the heartbeat gives it back.
func (h *handoff) write(end *riverdriver.JobSetStateIfRunningParams) error {
	for {
		_, err := h.ends.Do(context.Background(), end)
		if err == nil || !db.IsUnavailable(err) {
			return err
		}
		retry := time.NewTimer(faultDelay())
		select {
		case <-retry.C:
		case <-h.ctx.Done():
			retry.Stop()
			return err
		}
	}
}

// complete ends a job for which there is nothing to do, or lets it come back. Nobody knows
// its client.
func (q *Queue) complete(ctx context.Context, job int64) error {
	err := q.singles.do(ctx, "", func(ctx context.Context) error { return db.CompleteJob(ctx, q.pool, job) })
	if err != nil {
		return river.JobSnooze(faultDelay())
	}
	return nil
}

// endAll writes the states of jobs that didn't end with their step, with River's own
// statement.
func (h *handoff) endAll(ctx context.Context, ends []*riverdriver.JobSetStateIfRunningParams) ([]struct{}, error) {
	params := &riverdriver.JobSetStateIfRunningManyParams{}
	for _, end := range ends {
		params.ID = append(params.ID, end.ID)
		params.Attempt = append(params.Attempt, end.Attempt)
		params.ErrData = append(params.ErrData, end.ErrData)
		params.FinalizedAt = append(params.FinalizedAt, end.FinalizedAt)
		params.MetadataDoMerge = append(params.MetadataDoMerge, end.MetadataDoMerge)
		params.MetadataUpdates = append(params.MetadataUpdates, end.MetadataUpdates)
		params.ScheduledAt = append(params.ScheduledAt, end.ScheduledAt)
		params.State = append(params.State, end.State)
	}
	_, err := h.exec.JobSetStateIfRunningMany(ctx, params)
	return make([]struct{}, len(ends)), err
}

// cancelInterval is how often cancellations are looked for whose notification was
// lost.
const cancelInterval = 10 * time.Second

// watchCancellations cancels jobs whose cancellation was not heard of, until the
// process stops.
func (h *handoff) watchCancellations() {
	tick := time.NewTicker(cancelInterval)
	defer tick.Stop()
	var before []int64 // ran at the last look
	for {
		select {
		case <-tick.C:
		case <-h.ctx.Done():
			return
		}
		now := h.local.born()
		h.cancelRequested(slices.DeleteFunc(before, func(id int64) bool { return !slices.Contains(now, id) }))
		before = now
	}
}

func (h *handoff) cancelRequested(ids []int64) {
	if len(ids) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(h.ctx, stepTimeout)
	defer cancel()
	cancelled, err := h.exec.JobGetCancelRequested(ctx, &riverdriver.JobGetCancelRequestedParams{ID: ids})
	if err != nil {
		return // the next look finds them
	}
	for _, id := range cancelled {
		h.local.cancel(id)
	}
}

// end waits for the jobs of closed lanes, as long as the grace lasts, and then interrupts
// them. It fails when ctx ends before the last job.
func (h *handoff) end(ctx context.Context, grace time.Duration, lanes ...*lane) error {
	timer := time.AfterFunc(grace, func() { h.stop(errStopping) })
	defer timer.Stop()
	defer h.stop(errStopping)
	var drained []<-chan struct{}
	for _, l := range lanes {
		drained = append(drained, l.stop())
	}
	for _, done := range drained {
		select {
		case <-done:
		case <-ctx.Done():
			return fmt.Errorf("waiting for running jobs: %w", ctx.Err())
		}
	}
	return nil
}
