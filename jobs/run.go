package jobs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"ringback/db"
	"ringback/jobs/flow"
	"ringback/jobs/limit"
	"ringback/work"
)

// maxCrashes is how many times work may take its process down. A work job is also charged
// for runs that did not do the work, and for faults of Ringback's own; fewer of those end it.
const maxCrashes = 10

// runWorker does the work of an accepted request and finishes it.
type runWorker struct {
	river.WorkerDefaults[workArgs]
	queue   *Queue
	logger  *slog.Logger
	catalog *work.Catalog
	slots   *flow.Slots
}

// Timeout is none, for River: run keeps to longest by itself, and an outcome that waits to be
// recorded has no limit.
func (w *runWorker) Timeout(*river.Job[workArgs]) time.Duration { return -1 }

// longest is how long a run takes at most, with the steps around the work and the waits
// for slots.
func (w *runWorker) longest() time.Duration {
	return w.catalog.Longest() + flow.LongestWait + stepTimeout
}

// NextRetry is retryAt, for River.
func (w *runWorker) NextRetry(job *river.Job[workArgs]) time.Time { return w.retryAt(job.JobRow) }

// retryAt is when a job comes back after a run that did not do the work, or a
// fault.
func (w *runWorker) retryAt(job *rivertype.JobRow) time.Time {
	return time.Now().Add(workRetryDelay(job))
}

// Work is River's way to run: it loads the request first.
func (w *runWorker) Work(ctx context.Context, job *river.Job[workArgs]) error {
	if faults, latest := faultsInARow(job.JobRow); faults >= maxFaults {
		return w.giveUp(ctx, job.JobRow, job.Args.RequestID, latest)
	}
	request, err := w.load(ctx, job.Args.RequestID)
	switch {
	case err != nil:
		return w.queue.postpone(ctx, w.logger, job.JobRow, job.Args.RequestID, err)
	case request.ID != job.Args.RequestID, // an earlier run finished it
		request.WorkJobID != job.ID: // somebody made a job by hand, or changed what it is about
		return w.queue.complete(ctx, job.ID)
	}
	if offer := w.catalog.Find(request.Work); request.Elsewhere && offer != nil {
		return w.look(ctx, job.JobRow, offer, request)
	}
	return w.run(ctx, job.JobRow, request)
}

func (w *runWorker) load(ctx context.Context, id uuid.UUID) (db.Request, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	return w.queue.loads.Do(ctx, id)
}

// run does the work of a request and finishes it, with no transaction open.
func (w *runWorker) run(ctx context.Context, job *rivertype.JobRow, request db.Request) error {
	offer := w.catalog.Find(request.Work)
	here := w.here(request)
	if offer == nil && mayBeOffered(here, time.Now()) {
		return w.awaitOffer(ctx, job, request)
	}
	limited, cancel := context.WithTimeout(ctx, w.longest())
	defer cancel()
	outcome, wait, err := w.begin(limited, job, offer, here)
	if wait > 0 {
		return river.JobSnooze(wait)
	}
	if outcome.Elsewhere {
		return w.hold(ctx, job, offer, request, outcome)
	}
	if err == nil {
		final, next := w.again(ctx, job, offer, here, outcome)
		if next != nil {
			return next
		}
		if err = w.finish(ctx, job, request, final); err != nil {
			w.tellCutOff(ctx, job, request, final.StartedAt, "recording")
		}
	}
	if err != nil {
		return w.queue.postpone(ctx, w.logger, job, request.ID, err)
	}
	return nil
}

// finish records an outcome. An outcome that can't be stored for good is replaced by
// an error that says so.
func (w *runWorker) finish(ctx context.Context, job *rivertype.JobRow, request db.Request, outcome work.Outcome) error {
	err := w.queue.record.insist(w.recording(request, outcome))
	if isUnstorable(err) {
		w.queue.metrics.faults.WithLabelValues(workQueue).Inc()
		outcome, err = w.finishEither(request, outcome, unstorable(outcome, err))
	}
	if err != nil {
		return err
	}
	w.queue.metrics.worked(w.nameOf(request), cmp.Or(request.Mode, db.Async), outcome)
	w.log(ctx, job, request, outcome)
	return nil
}

// finishEither records an outcome that was refused, or else another, and returns which.
func (w *runWorker) finishEither(request db.Request, outcome, instead work.Outcome) (recorded work.Outcome, err error) {
	recorded = outcome
	err = w.queue.record.insistOnEither(w.recording(request, outcome), func(ctx context.Context, again bool) error {
		err := w.recording(request, instead)(ctx, again)
		if err == nil {
			recorded = instead
		}
		return err
	})
	return recorded, err
}

// isUnstorable tells whether an outcome can't be stored for good.
func isUnstorable(err error) bool {
	var unencodable *fault
	return db.IsRefused(err) || errors.As(err, &unencodable)
}

// unstorable stands for an outcome that can't be stored.
func unstorable(outcome work.Outcome, cause error) work.Outcome {
	outcome.Result, outcome.Cause = nil, cause
	outcome.Error = &work.Error{Code: "result_not_storable", Message: "The result can't be stored. The operators see why in the log."}
	return outcome
}

const (
	// maxUnknownAge is how long a request waits for a process that offers its work.
	maxUnknownAge = maxCallbackAge
	// unknownPause is how often it is looked at meanwhile.
	unknownPause = 10 * time.Second
)

// mayBeOffered tells whether a request whose work this process doesn't offer waits for
// another process.
func mayBeOffered(request db.Request, now time.Time) bool {
	_, over := expire(request, now)
	return !over && now.Sub(request.AcceptedAt) < maxUnknownAge
}

// awaitOffer lets a job wait for a process that offers its work: during a rolling
// restart some don't yet, and after a mistake in the settings none does.
func (w *runWorker) awaitOffer(ctx context.Context, job *rivertype.JobRow, request db.Request) error {
	w.queue.metrics.postponed(workUnknown)
	w.queue.seldom.WarnContext(ctx, "work_unknown", "request_id", request.ID.String(), "job_id", job.ID, "work", request.Work,
		"remedy", "start a process that offers this kind of work, or put it back into WORKS (or WORK_URL, for upstream); without one the request fails 48 hours after it was accepted")
	return river.JobSnooze(jitter(unknownPause, 0.8, 1.2, rand.Float64()))
}

// nameOf is the name of a request's work.
func (w *runWorker) nameOf(request db.Request) string {
	return cmp.Or(request.Work, w.catalog.Default().Name)
}

// here is a request with the times that count for it, by this process's clock. It expires
// late rather than early: this process knows the database's clock from a reading, which is
// wrong by up to a second where the database is slow.
func (w *runWorker) here(request db.Request) db.Request {
	request.AcceptedAt, request.ExpiresAt = w.queue.Here(request.AcceptedAt), w.queue.Here(request.ExpiresAt)
	if !request.ExpiresAt.IsZero() {
		request.ExpiresAt = request.ExpiresAt.Add(w.queue.clock.Error())
	}
	return request
}

func (w *runWorker) recording(request db.Request, outcome work.Outcome) func(ctx context.Context, again bool) error {
	return func(ctx context.Context, again bool) error {
		if again {
			return w.queue.finishAgain(ctx, request, outcome)
		}
		return w.queue.finish(ctx, request, outcome)
	}
}

// giveUp ends a request as failed whose work can't be done or recorded here.
func (w *runWorker) giveUp(ctx context.Context, job *rivertype.JobRow, id uuid.UUID, cause string) error {
	var places []db.Place
	err := w.queue.singles.do(ctx, "", func(ctx context.Context) (err error) {
		places, err = db.FindPlaces(ctx, w.queue.pool, []uuid.UUID{id})
		return err
	})
	if err != nil {
		return w.queue.postpone(ctx, w.logger, job, id, err)
	}
	request := db.Request{ID: id, WorkJobID: job.ID}
	for _, place := range places {
		request.Client, request.OrderingKey = place.Client, place.OrderingKey
	}
	outcome := work.Outcome{FinishedAt: time.Now(), Cause: errors.New(cause), Error: &work.Error{
		Code: "fault", Message: "The service could not do its part of the work. The operators see why in the log.",
	}}
	if err := w.finish(ctx, job, request, outcome); err != nil {
		return w.queue.postpone(ctx, w.logger, job, id, err)
	}
	return nil
}

// begin runs the work in a slot, unless its time is over. Where there is none, it returns
// how long to postpone the job.
func (w *runWorker) begin(ctx context.Context, job *rivertype.JobRow, offer *work.Offer, request db.Request) (outcome work.Outcome, wait time.Duration, err error) {
	if outcome, over := expire(request, time.Now()); over {
		return outcome, 0, nil
	}
	f := w.queue.flows[w.nameOf(request)]
	leaveDoor, waits := f.Await(ctx, request.Client)
	if leaveDoor == nil {
		return work.Outcome{}, w.waitOf(ctx, request, waits), ctx.Err()
	}
	defer leaveDoor()
	leave, postponed := w.slots.Enter(ctx, request.Client, ranBefore(job))
	if leave == nil {
		return work.Outcome{}, w.waitOf(ctx, request, postponed), ctx.Err()
	}
	defer leave()
	if outcome, over := expire(request, time.Now()); over { // while it waited
		return outcome, 0, nil
	}
	leaveFlow, waits := f.Enter(ctx, request.Client)
	if leaveFlow == nil {
		return work.Outcome{}, w.waitOf(ctx, request, waits), ctx.Err()
	}
	defer func() { leaveFlow(outcome) }()
	outcome, err = w.work(ctx, job, offer, request)
	return outcome, 0, err
}

// codeExpired is the code of requests whose work had not begun in time.
const codeExpired = "expired"

// expire returns the outcome of a request whose work may not begin any more.
func expire(request db.Request, now time.Time) (outcome work.Outcome, over bool) {
	if request.ExpiresAt.IsZero() || now.Before(request.ExpiresAt) {
		return work.Outcome{}, false
	}
	return work.Outcome{FinishedAt: now, Error: &work.Error{
		Code: codeExpired, Message: "The work had not begun when its time was over.",
	}}, true
}

// waitOf is how long a job is postponed, 0 where ctx has ended. It comes back in time to
// expire, unless thousands of its client's expire with it: all at one moment, they would be
// before the jobs of others.
func (w *runWorker) waitOf(ctx context.Context, request db.Request, postponed limit.Decision) time.Duration {
	if postponed.OK() {
		return 0
	}
	w.queue.metrics.postponed(postponed.Reason)
	w.logger.DebugContext(ctx, "work_waits", "request_id", request.ID.String(), "reason", postponed.Reason, "until", postponed.RetryAt)
	until := postponed.RetryAt
	if !request.ExpiresAt.IsZero() && request.ExpiresAt.Before(until) {
		until = w.queue.quotas.dueAt(request.Client, request.ExpiresAt, time.Now())
	}
	return max(flow.Soonest, time.Until(until))
}

func (w *runWorker) work(ctx context.Context, job *rivertype.JobRow, offer *work.Offer, request db.Request) (work.Outcome, error) {
	if offer == nil {
		now := time.Now()
		return work.Outcome{StartedAt: now, FinishedAt: now, Error: &work.Error{
			Code: "unknown_work", Message: "The work that was asked for is not offered any more.",
		}}, nil
	}
	if job.Attempt-endedRuns(job) > maxCrashes {
		now := time.Now()
		return work.Outcome{StartedAt: now, FinishedAt: now, Error: &work.Error{
			Code: "crashed", Message: "The process that did the work went down every time.",
		}}, nil
	}
	call, err := w.queue.call(ctx, offer, request, job.Attempt, runNumber(job))
	if err != nil {
		return work.Outcome{}, err
	}
	startedAt := time.Now()
	outcome, err := w.queue.Work(ctx, offer, call)
	if err != nil {
		w.tellCutOff(ctx, job, request, startedAt, "working")
	}
	return outcome, err
}

// callOf is the call for a run of the work of a request.
func callOf(request db.Request, attempt int) work.Call {
	return work.Call{
		Input: request.Input, RequestID: request.ID.String(), Attempt: attempt,
		Mode: string(request.Mode), Client: request.Client, Traceparent: request.Traceparent,
	}
}

func (w *runWorker) log(ctx context.Context, job *rivertype.JobRow, request db.Request, outcome work.Outcome) {
	attrs := []any{"request_id", request.ID.String(), "job_id", job.ID, "work", w.nameOf(request), "status", string(statusOf(outcome))}
	if !outcome.StartedAt.IsZero() {
		attrs = append(attrs, "duration_ms", outcome.FinishedAt.Sub(outcome.StartedAt).Milliseconds())
	}
	if outcome.Error != nil {
		attrs = append(attrs, "code", outcome.Error.Code, "cause", outcome.Cause)
	}
	w.logger.InfoContext(ctx, "work_finished", tellTrace(attrs, request)...)
}

// cutOffTimeout bounds the note of a run that was cut off: the process is to end soon.
const cutOffTimeout = time.Second

// tellCutOff says in the log and in the trace that a run was cut off by the process
// stopping, while it was working, or recording the outcome.
func (w *runWorker) tellCutOff(ctx context.Context, job *rivertype.JobRow, request db.Request, startedAt time.Time, while string) {
	if !w.queue.cutsOff(ctx) {
		return
	}
	w.logger.InfoContext(ctx, "work_cut_off", tellTrace([]any{
		"request_id", request.ID.String(), "job_id", job.ID,
		"work", w.nameOf(request), "attempt", job.Attempt, "while", while, "then", "the attempt is made again",
	}, request)...)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cutOffTimeout)
	defer cancel()
	_ = w.note(ctx, job, request.Client, startedAt, codeCutOff) // the log has it, where the database is away
}

// finish commits the outcome of a request together with its callback job, in a
// batch with others. A request that is finished already stays as it is: the
// outcome is exactly once.
func (q *Queue) finish(ctx context.Context, request db.Request, outcome work.Outcome) error {
	_, err := q.finishFirst(ctx, request, outcome)
	return err
}

// finishFirst is finish, and tells whether the request was not finished already.
func (q *Queue) finishFirst(ctx context.Context, request db.Request, outcome work.Outcome) (first bool, err error) {
	if err := q.prepareFinish(&request, outcome); err != nil {
		return false, err
	}
	return q.finishes.Do(ctx, request)
}

// finishAgain is finish after a failure.
func (q *Queue) finishAgain(ctx context.Context, request db.Request, outcome work.Outcome) error {
	if err := q.prepareFinish(&request, outcome); err != nil {
		return err
	}
	return q.record.finishes.do(ctx, request.Client, func(ctx context.Context) error {
		_, err := q.finishAll(ctx, []db.Request{request})
		return err
	})
}

func (q *Queue) prepareFinish(request *db.Request, outcome work.Outcome) error {
	request.Input = nil // not written again, nor called back
	if err := q.WriteOutcome(request, outcome); err != nil {
		return &fault{"the outcome can't be encoded", err}
	}
	return nil
}

// finishAll commits the outcomes with their callback jobs, and starts the jobs that are
// born running. It returns the outcomes that were written.
func (q *Queue) finishAll(ctx context.Context, all []db.Request) ([]bool, error) {
	outcomes := firstOfEach(all)
	reserved := q.callback.reserve(len(outcomes), time.Now())
	finished, err := db.FinishRequests(ctx, q.pool, q.bornHere(callbackJobs, reserved), outcomes)
	running := slices.DeleteFunc(outcomes, func(r db.Request) bool { return !finished[r.ID].Running })
	q.callback.inserted(reserved, len(running))
	if err != nil {
		return nil, err
	}
	for _, request := range running {
		request.CallbackJobID, request.CallbackState = finished[request.ID].CallbackJobID, db.CallbackPending
		q.handoff.start(task{q.callback, q.callbackWorker, q.handoff.born(request.CallbackJobID, callbackJobs), request})
	}
	q.wake(slices.Collect(maps.Keys(finished)))
	written := make([]bool, len(all))
	for i, outcome := range all {
		_, written[i] = finished[outcome.ID]
		delete(finished, outcome.ID) // a second outcome of a request was dropped
	}
	return written, nil
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

// inOrder orders values by their ids, with the zero value for an id without a value.
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
	// As fine as Postgres keeps them, so that an answer and the record agree.
	stored := func(at time.Time) time.Time { return q.clock.At(at).UTC().Truncate(time.Microsecond) }
	request.StartedAt, request.FinishedAt = stored(outcome.StartedAt), stored(outcome.FinishedAt)
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
		return db.Expired // work may return the code itself: such a run has begun
	default:
		return db.Failed
	}
}
