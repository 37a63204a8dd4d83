package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"ringback/db"
	"ringback/jobs/limit"
	"ringback/work"
)

// maxCrashes is how many times a work may take its process down with it. Nothing else
// charges a work job an attempt, but faults of our own, of which fewer end it.
const maxCrashes = 10

// processWorker does the work of an accepted request and finishes it.
type processWorker struct {
	river.WorkerDefaults[workArgs]
	queue   *Queue
	logger  *slog.Logger
	do      work.Func
	timeout time.Duration
	places  *places
}

// Timeout is none, for River: run keeps to limit by itself, and an answer in hand has
// no limit.
func (w *processWorker) Timeout(*river.Job[workArgs]) time.Duration { return -1 }

// limit leaves room for the steps around the work and the wait for a place.
func (w *processWorker) limit() time.Duration { return w.timeout + placePatience + stepTimeout }

// NextRetry is retryAt, for River.
func (w *processWorker) NextRetry(job *river.Job[workArgs]) time.Time { return w.retryAt(job.JobRow) }

// retryAt is when a job comes back after a fault.
func (w *processWorker) retryAt(job *rivertype.JobRow) time.Time {
	return time.Now().Add(faultWait(job))
}

// Work is River's way to run: it loads the request first.
func (w *processWorker) Work(ctx context.Context, job *river.Job[workArgs]) error {
	if faults, latest := faultsInARow(job.JobRow); faults >= maxFaults {
		return w.giveUp(ctx, job.JobRow, job.Args.RequestID, latest)
	}
	request, err := w.load(ctx, job.Args.RequestID)
	switch {
	case err != nil:
		return w.postpone(ctx, job.JobRow, job.Args.RequestID, err)
	case request.ID != job.Args.RequestID:
		return w.queue.complete(ctx, job.ID) // an earlier run finished it
	}
	return w.run(ctx, job.JobRow, request)
}

func (w *processWorker) load(ctx context.Context, id uuid.UUID) (db.Request, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	return w.queue.loads.Do(ctx, id)
}

// run does the work of a request and finishes it, with no transaction open.
func (w *processWorker) run(ctx context.Context, job *rivertype.JobRow, request db.Request) error {
	limited, cancel := context.WithTimeout(ctx, w.limit())
	defer cancel()
	outcome, putOff, err := w.begin(limited, job, request)
	if putOff > 0 {
		return river.JobSnooze(putOff)
	}
	if err == nil {
		err = w.finish(ctx, job, request, outcome)
	}
	if err != nil {
		return w.postpone(ctx, job, request.ID, err)
	}
	return nil
}

// finish records an outcome. An outcome that can't be stored for good is replaced by
// an error that says so.
func (w *processWorker) finish(ctx context.Context, job *rivertype.JobRow, request db.Request, outcome work.Outcome) error {
	err := w.record(request, outcome)
	var unencodable *fault
	if db.IsRefused(err) || errors.As(err, &unencodable) {
		outcome.Result, outcome.Cause = nil, err
		outcome.Error = &work.Error{Code: "result_not_storable", Message: "The result can't be stored. The operators see why in the log."}
		w.queue.metrics.faults.WithLabelValues(workQueue).Inc()
		err = w.record(request, outcome)
	}
	if err != nil {
		return err
	}
	w.queue.metrics.worked(outcome)
	w.log(ctx, job, request, outcome)
	return nil
}

func (w *processWorker) record(request db.Request, outcome work.Outcome) error {
	return w.queue.record.insist(func(ctx context.Context, _ bool) error { return w.queue.finish(ctx, request, outcome) })
}

// giveUp ends a request as failed whose work we can't do or record.
func (w *processWorker) giveUp(ctx context.Context, job *rivertype.JobRow, id uuid.UUID, cause string) error {
	places, err := db.FindPlaces(ctx, w.queue.pool, []uuid.UUID{id})
	if err != nil {
		return w.postpone(ctx, job, id, err)
	}
	request := db.Request{ID: id, WorkJobID: job.ID}
	for _, place := range places {
		request.Client, request.OrderingKey = place.Client, place.OrderingKey
	}
	outcome := work.Outcome{FinishedAt: time.Now().UTC().Truncate(time.Microsecond), Cause: errors.New(cause), Error: &work.Error{
		Code: "fault", Message: "The service could not do its part of the work. The operators see why in the log.",
	}}
	if err := w.finish(ctx, job, request, outcome); err != nil {
		return w.postpone(ctx, job, id, err)
	}
	return nil
}

// postpone snoozes a job while the database is away, which charges no attempt: the job
// comes back until its outcome is written. A fault of our own is charged.
func (w *processWorker) postpone(ctx context.Context, job *rivertype.JobRow, request uuid.UUID, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err() // the process is stopping: another one takes the job up
	}
	if passes(err) {
		w.logger.ErrorContext(ctx, "work_postponed", "request_id", request, "job_id", job.ID, "error", err)
		return river.JobSnooze(faultDelay())
	}
	found := faultOf(err)
	w.queue.metrics.faults.WithLabelValues(workQueue).Inc()
	w.logger.ErrorContext(ctx, "work_not_done", "request_id", request, "job_id", job.ID, "fault", found.what, "error", found.cause)
	return found
}

// begin runs the work when there is a place for it, unless its time is over. Or
// it returns how long to put the job off.
func (w *processWorker) begin(ctx context.Context, job *rivertype.JobRow, request db.Request) (outcome work.Outcome, putOff time.Duration, err error) {
	request.ExpiresAt = w.queue.Here(request.ExpiresAt)
	if outcome, over := expire(request, time.Now()); over {
		return outcome, 0, nil
	}
	leave, postponed := w.places.enter(ctx, request.Client, ranBefore(job))
	if leave == nil {
		return work.Outcome{}, w.untilTurn(ctx, request, postponed), ctx.Err()
	}
	defer leave()
	if outcome, over := expire(request, time.Now()); over { // while it waited
		return outcome, 0, nil
	}
	outcome, err = w.work(ctx, job.Attempt, request.Input)
	return outcome, 0, err
}

// codeExpired is that of requests whose work had not begun in time.
const codeExpired = "expired"

// expire returns the outcome of a request whose work may not begin any more.
func expire(request db.Request, now time.Time) (outcome work.Outcome, over bool) {
	if request.ExpiresAt.IsZero() || now.Before(request.ExpiresAt) {
		return work.Outcome{}, false
	}
	return work.Outcome{FinishedAt: now.UTC().Truncate(time.Microsecond), Error: &work.Error{
		Code: codeExpired, Message: "The work had not begun when its time was over.",
	}}, true
}

// untilTurn is how long a job is postponed, 0 where ctx has ended. It comes back in
// time to say that it expired.
func (w *processWorker) untilTurn(ctx context.Context, request db.Request, postponed limit.Decision) time.Duration {
	if postponed.OK() {
		return 0
	}
	w.queue.metrics.postponed(postponed.Reason)
	w.logger.DebugContext(ctx, "work_waits", "request_id", request.ID.String(), "reason", postponed.Reason, "until", postponed.RetryAt)
	wait := time.Until(postponed.RetryAt)
	if !request.ExpiresAt.IsZero() {
		wait = min(wait, time.Until(request.ExpiresAt))
	}
	return max(soonest, wait)
}

func (w *processWorker) work(ctx context.Context, attempt int, input jsontext.Value) (work.Outcome, error) {
	if attempt > maxCrashes {
		now := time.Now()
		return work.Outcome{StartedAt: now, FinishedAt: now, Error: &work.Error{
			Code: "crashed", Message: "The process that did the work went down every time.",
		}}, nil
	}
	return work.Run(ctx, w.do, input, w.timeout)
}

func (w *processWorker) log(ctx context.Context, job *rivertype.JobRow, request db.Request, outcome work.Outcome) {
	attrs := []any{"request_id", request.ID.String(), "job_id", job.ID, "status", string(statusOf(outcome))}
	if !outcome.StartedAt.IsZero() {
		attrs = append(attrs, "duration_ms", outcome.FinishedAt.Sub(outcome.StartedAt).Milliseconds())
	}
	if outcome.Error != nil {
		attrs = append(attrs, "code", outcome.Error.Code, "cause", outcome.Cause)
	}
	w.logger.InfoContext(ctx, "work_finished", attrs...)
}

// finish commits the outcome of a request together with its callback job, in a
// batch with others. A request that is finished already stays as it is: the
// outcome is exactly once.
func (q *Queue) finish(ctx context.Context, request db.Request, outcome work.Outcome) error {
	request.Input = nil // not written again, nor called back
	if err := q.WriteOutcome(&request, outcome); err != nil {
		return &fault{"the outcome can't be encoded", err}
	}
	_, err := q.finishes.Do(ctx, request)
	return err
}

// finishAll commits the outcomes with their callback jobs, and starts the jobs that
// are born running.
func (q *Queue) finishAll(ctx context.Context, outcomes []db.Request) ([]struct{}, error) {
	done := make([]struct{}, len(outcomes))
	outcomes = firstOfEach(outcomes)
	reserved := q.callback.reserve(len(outcomes), time.Now())
	finished, err := db.FinishRequests(ctx, q.pool, q.bornHere(callbackJobs, reserved), outcomes)
	running := slices.DeleteFunc(outcomes, func(r db.Request) bool { return !finished[r.ID].Running })
	q.callback.inserted(reserved, len(running))
	if err != nil {
		return nil, err
	}
	for _, request := range running {
		request.CallbackJobID, request.CallbackState = finished[request.ID].CallbackJobID, db.CallbackPending
		q.handoff.start(task{q.callback, q.caller, q.handoff.born(request.CallbackJobID, callbackJobs), request})
	}
	q.waits.wake(slices.Collect(maps.Keys(finished)))
	return done, nil
}

// firstOfEach drops a second outcome of the same request, of a job that runs
// twice.
func firstOfEach(outcomes []db.Request) []db.Request {
	seen := make(map[uuid.UUID]bool, len(outcomes))
	first := make([]db.Request, 0, len(outcomes))
	for _, outcome := range outcomes {
		if !seen[outcome.ID] {
			seen[outcome.ID] = true
			first = append(first, outcome)
		}
	}
	return first
}

// loadWork returns each request, the zero request where its work isn't to be
// done any more.
func (q *Queue) loadWork(ctx context.Context, ids []uuid.UUID) ([]db.Request, error) {
	requests, err := db.LoadWork(ctx, q.pool, ids)
	return inOrder(ids, requests), err
}

// inOrder is what was found for each id, zero where nothing was.
func inOrder[K comparable, V any](ids []K, found map[K]V) []V {
	ordered := make([]V, len(ids))
	for i, id := range ids {
		ordered[i] = found[id]
	}
	return ordered
}

// WriteOutcome puts the outcome of the work into a request: its status, result
// or error, and times, which become the database's.
func (q *Queue) WriteOutcome(request *db.Request, outcome work.Outcome) error {
	request.Status, request.Result = statusOf(outcome), outcome.Result
	request.StartedAt, request.FinishedAt = q.clock.At(outcome.StartedAt), q.clock.At(outcome.FinishedAt)
	if outcome.Error == nil {
		return nil
	}
	encoded, err := json.Marshal(outcome.Error)
	if err != nil {
		return fmt.Errorf("encoding work error: %w", err)
	}
	request.Error = encoded
	return nil
}

func statusOf(outcome work.Outcome) db.Status {
	switch {
	case outcome.Error == nil:
		return db.Succeeded
	case outcome.Error.Code == work.CodeAbandoned:
		return db.Cancelled
	case outcome.Error.Code == codeExpired && outcome.StartedAt.IsZero():
		return db.Expired // the work's own error of that name has begun
	default:
		return db.Failed
	}
}
