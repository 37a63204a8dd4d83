package jobs

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"ringback/db"
	"ringback/jobs/limit"
	"ringback/jobs/pacing"
	"ringback/jobs/webhook"
)

type callbackArgs requestArgs

func (callbackArgs) Kind() string { return "callback" }

// callbackWorker sends the callback of a finished request until it is
// delivered or dead.
type callbackWorker struct {
	river.WorkerDefaults[callbackArgs]
	queue   *Queue
	logger  *slog.Logger
	sender  *webhook.Sender
	secrets func(client string) ([]webhook.Secret, error)
	hosts   func(client string) webhook.Hosts // nil: all callbacks may name all hosts
	headers func(client, sealed string) (map[string]string, error)
}

// Timeout is none, for River: an attempt has attemptTimeout, and an answer that waits to be
// recorded has no limit.
func (w *callbackWorker) Timeout(*river.Job[callbackArgs]) time.Duration { return -1 }

// attemptTimeout leaves time for a whole exchange (10 s) and the steps before it.
const attemptTimeout = 10*time.Second + stepTimeout

// NextRetry is retryAt, for River.
func (w *callbackWorker) NextRetry(job *river.Job[callbackArgs]) time.Time {
	return w.retryAt(job.JobRow)
}

// retryAt tells when River runs a job again whose attempt was charged. nextStep decides
// whether it does, and logs the same delay.
func (w *callbackWorker) retryAt(job *rivertype.JobRow) time.Time {
	delay, _ := retryDelay(job.ID, job.Attempt)
	return time.Now().Add(delay)
}

// errNotDelivered makes River charge the attempt and ask NextRetry. It is
// stored in the job row, so it says no more than a caller may see.
var errNotDelivered = errors.New("not delivered")

// Work is River's way to run. What the callback waits for afterwards is stored with the job.
func (w *callbackWorker) Work(ctx context.Context, job *river.Job[callbackArgs]) error {
	err := w.loadAndRun(ctx, job)
	if err != nil {
		_ = river.RecordOutput(ctx, jobNote{reasonOf(err)}) // which fails only outside River
	}
	return err
}

// loadAndRun is run for a job whose request isn't in memory.
func (w *callbackWorker) loadAndRun(ctx context.Context, job *river.Job[callbackArgs]) error {
	if faults, latest := faultsInARow(job.JobRow); faults >= maxFaults {
		return w.giveUp(ctx, job.JobRow, db.Request{ID: job.Args.RequestID, CallbackJobID: job.ID}, latest)
	}
	request, err := w.load(ctx, job.Args.RequestID)
	switch {
	case err != nil:
		return w.queue.postpone(ctx, w.logger, job.JobRow, job.Args.RequestID, err)
	case request.ID != job.Args.RequestID, // an earlier run settled it
		request.CallbackJobID != job.ID: // back after a crash, and the callback has another job since a redelivery
		return w.queue.complete(ctx, job.ID)
	}
	return w.run(ctx, job.JobRow, request)
}

func (w *callbackWorker) load(ctx context.Context, id uuid.UUID) (db.Request, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	return w.queue.callbacks.Do(ctx, id)
}

// run sends an attempt, with no transaction open.
func (w *callbackWorker) run(ctx context.Context, job *rivertype.JobRow, request db.Request) error {
	next, err := w.attempt(ctx, job, request)
	if err != nil {
		return w.queue.postpone(ctx, w.logger, job, request.ID, err)
	}
	return next.jobResult()
}

// giveUp ends a callback as a dead letter that can't be sent or recorded here, with the
// cause in its log.
func (w *callbackWorker) giveUp(ctx context.Context, job *rivertype.JobRow, request db.Request, cause string) error {
	_, err := w.endUnsent(ctx, request, cause)
	if err != nil {
		return w.queue.postpone(ctx, w.logger, job, request.ID, err)
	}
	return nil
}

// attempt sends the callback once, if it may leave by now, and settles the answer. An answer
// that an earlier process left with the job is settled instead.
func (w *callbackWorker) attempt(ctx context.Context, job *rivertype.JobRow, request db.Request) (step, error) {
	if left, found := leftAnswer(job); found {
		return w.conclude(ctx, job, request, &sending{Attempt: left, isLeft: true})
	}
	sent, decision, err := w.sendIfAllowed(ctx, job, request)
	switch {
	case err != nil:
		return w.unmade(ctx, request, err)
	case sent == nil:
		return w.delayed(ctx, request, decision)
	}
	return w.conclude(ctx, job, request, sent)
}

// conclude settles an attempt that was made, or leaves its answer to the next process.
func (w *callbackWorker) conclude(ctx context.Context, job *rivertype.JobRow, request db.Request, sent *sending) (step, error) {
	next, number, err := w.settle(ctx, job, request, sent)
	sent.settled(number)
	if err == nil && sent.isLeft && next.state == db.CallbackPending {
		err = w.forgetAnswer(ctx, job, request.Client) // else the next run would take it once more
	}
	if err != nil {
		w.cutOff(ctx, job, request, sent.Attempt)
		return step{}, err
	}
	w.queue.metrics.attempted(request, sent.Attempt, next)
	// As strings, which slog doesn't have to look into.
	w.logger.InfoContext(ctx, "callback_attempt", tellTrace([]any{
		"request_id", request.ID.String(), "job_id", job.ID, "attempt", number,
		"outcome", string(sent.Outcome), "http_status", sent.Status, "cause", sent.Cause, "address", sent.Address,
		"duration_ms", sent.EndedAt.Sub(sent.StartedAt).Milliseconds(),
		"state", string(next.state), "retry_in_ms", next.delay.Milliseconds(),
	}, request)...)
	if sent.Refused {
		w.queue.seldom.WarnContext(ctx, "callback_not_allowed",
			"request_id", request.ID.String(), "job_id", job.ID, "client", request.Client, "cause", sent.Cause, "remedy", remedyOfRefused)
	}
	return next, nil
}

// remedyOfRefused is for a URL that was allowed when its request was accepted.
const remedyOfRefused = "give all processes the same CALLBACK_PORTS, CALLBACK_ALLOW_CIDRS and PUBLIC_HOSTS, or allow what the cause names again, there or by ringback client set --callbacks; the callback is tried again, charged, and is a dead letter 48 hours after the work ended"

// shortage is why an attempt was not made: the process is out of a resource of its machine,
// such as open files. It charges nothing, since it says nothing of the receiver.
type shortage struct{ of error }

func (s *shortage) Error() string { return "sending callback: " + s.of.Error() }

func (s *shortage) Unwrap() error { return s.of }

// unmade is the step after an attempt that was not made. A shortage is counted, and ends
// the callback once it is too old, as any wait does.
func (w *callbackWorker) unmade(ctx context.Context, request db.Request, err error) (step, error) {
	short, ok := errors.AsType[*shortage](err)
	if !ok {
		return step{}, err
	}
	w.queue.metrics.faults.WithLabelValues(callbackQueue).Inc()
	if w.queue.Now().Sub(owedSince(request)) <= maxCallbackAge {
		return step{}, err
	}
	return w.endUnsent(ctx, request, short.of.Error())
}

// sendIfAllowed sends the callback, or returns nil and why it may not leave.
func (w *callbackWorker) sendIfAllowed(ctx context.Context, job *rivertype.JobRow, request db.Request) (*sending, limit.Decision, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	pass, decision := w.queue.pacing.Enter(ctx, pacing.Callback{
		Client: request.Client, URL: request.CallbackURL, CameBack: ranBefore(job),
	})
	if pass == nil {
		return nil, decision, ctx.Err()
	}
	sent, err := w.sendOnce(ctx, request, pass)
	switch {
	case err != nil:
		w.tellCutOff(ctx, job, request, "sending", "the attempt is made again")
	case sent.NotAdmitted:
		return nil, pass.Refused(), nil
	}
	return &sent, limit.Decision{}, err
}

// tellCutOff says that an attempt was cut off by the process stopping, while it was
// sending, or recording the answer. The receiver may have the callback.
func (w *callbackWorker) tellCutOff(ctx context.Context, job *rivertype.JobRow, request db.Request, while, then string) {
	if w.queue.cutsOff(ctx) {
		w.logger.InfoContext(ctx, "callback_cut_off", tellTrace([]any{
			"request_id", request.ID.String(), "job_id", job.ID,
			"while", while, "then", then,
		}, request)...)
	}
}

// settle records an attempt, and decides the step after it. An attempt that the database
// refuses ends the callback.
func (w *callbackWorker) settle(ctx context.Context, job *rivertype.JobRow, request db.Request, made *sending) (next step, number int, err error) {
	sent := made.Attempt
	write := func(ctx context.Context, again bool) error {
		if sent.Outcome == webhook.Throttled {
			earlier, err := w.countThrottled(ctx, request)
			if err != nil {
				return err
			}
			sent.RetryAfter = max(sent.RetryAfter, throttleFloor(earlier))
		}
		next = nextStep(sent, job.ID, job.Attempt, sent.EndedAt.Sub(owedSince(request)))
		number, err = w.queue.settle(ctx, request, sent, next, again || made.isLeft)
		return err
	}
	if err = w.queue.record.insist(write); !db.IsRefused(err) {
		return next, number, err
	}
	w.logger.ErrorContext(ctx, "callback_not_recordable", "request_id", request.ID.String(), "job_id", job.ID, "error", err,
		"remedy", "undo what the error names: somebody changed a table, or this request's row")
	err = w.queue.record.insistOnEither(write, func(ctx context.Context, again bool) error {
		next = step{state: db.CallbackDead}
		number, err = w.queue.settle(ctx, request, unsent(sent.EndedAt, "an attempt can't be recorded"), next, again)
		return err
	})
	return next, number, err
}

// sendOnce gives back the pass of the callback once it is over, also when a fault panics. The
// span of a callback that was turned away is dropped.
func (w *callbackWorker) sendOnce(ctx context.Context, request db.Request, pass *pacing.Pass) (sent sending, err error) {
	defer func() { pass.Leave(sent.AboutReceiver()) }()
	sent.span = w.queue.traceCallback(request)
	sent.Attempt, err = w.send(ctx, request, sent.span.Traceparent(request.Traceparent), pass.Admission())
	sent.ended = time.Now()
	if err != nil {
		sent.span.NotMade(err)
	}
	return sent, err
}

// send returns an error when the callback could not be made, or was interrupted here, which
// says nothing about the receiver.
func (w *callbackWorker) send(ctx context.Context, request db.Request, traceparent string, admission webhook.Admission) (webhook.Attempt, error) {
	body, err := callbackBody(request)
	if err != nil {
		return webhook.Attempt{}, &fault{"the callback can't be encoded", err}
	}
	secrets, err := w.secrets(request.Client)
	if err != nil {
		return webhook.Attempt{}, &fault{unsigned, err}
	}
	message := webhook.Message{
		ID: "req_" + request.ID.String(), URL: request.CallbackURL, Body: body, Traceparent: traceparent, Secrets: secrets, Admission: admission,
	}
	if w.hosts != nil {
		message.Hosts = w.hosts(request.Client)
	}
	if request.CallbackHeaders != "" {
		if message.Headers, err = w.headers(request.Client, request.CallbackHeaders); err != nil {
			return webhook.Attempt{}, &fault{sealed, err}
		}
	}
	sent := w.sender.Send(ctx, message)
	sent.StartedAt, sent.EndedAt = w.queue.clock.At(sent.StartedAt), w.queue.clock.At(sent.EndedAt)
	if ctx.Err() != nil && sent.Outcome != webhook.Delivered {
		return webhook.Attempt{}, ctx.Err()
	}
	if sent.Shortage != nil {
		return webhook.Attempt{}, &shortage{sent.Shortage}
	}
	return sent, nil
}

// notSent is the outcome of a callback that was postponed, with no attempt made, until it
// was too old, or whose receiver the operator denied.
const notSent webhook.Outcome = "not_sent"

// delayed postpones a callback that may not leave. Nothing but its age or the operator
// ends that.
func (w *callbackWorker) delayed(ctx context.Context, request db.Request, decision limit.Decision) (step, error) {
	if ctx.Err() != nil {
		return step{}, ctx.Err()
	}
	now := time.Now()
	delay := max(0, decision.RetryAt.Sub(now))
	if decision.Reason != pacing.Denied && w.queue.clock.At(now).Sub(owedSince(request))+delay <= maxCallbackAge {
		w.queue.metrics.postponed(decision.Reason)
		w.logger.DebugContext(ctx, "callback_waits",
			"request_id", request.ID.String(), "reason", decision.Reason, "until", decision.RetryAt)
		return step{state: db.CallbackPending, delay: delay, reason: decision.Reason}, nil
	}
	return w.endUnsent(ctx, request, string(decision.Reason))
}

// endUnsent makes a callback a dead letter without sending it.
func (w *callbackWorker) endUnsent(ctx context.Context, request db.Request, cause string) (step, error) {
	now, ended := w.queue.Now(), step{state: db.CallbackDead}
	err := w.queue.record.insist(func(ctx context.Context, again bool) error {
		_, err := w.queue.settle(ctx, request, unsent(now, cause), ended, again)
		return err
	})
	if err != nil {
		return step{}, err
	}
	w.queue.metrics.ended.WithLabelValues(string(ended.state)).Inc()
	w.logger.InfoContext(ctx, "callback_not_sent",
		"request_id", request.ID.String(), "state", string(ended.state), "reason", cause)
	return ended, nil
}

// unsent stands in the log for a callback that ended without an attempt.
func unsent(now time.Time, cause string) webhook.Attempt {
	return webhook.Attempt{StartedAt: now, EndedAt: now, Outcome: notSent, Cause: cause}
}

// countThrottled counts how often the callback was throttled since it is owed.
func (w *callbackWorker) countThrottled(ctx context.Context, request db.Request) (throttled int, err error) {
	err = w.queue.singles.do(ctx, request.Client, func(ctx context.Context) error {
		throttled, err = db.CountAttempts(ctx, w.queue.pool, request.ID, owedSince(request), string(webhook.Throttled))
		return err
	})
	return throttled, err
}

// step follows an attempt.
type step struct {
	state   db.CallbackState // pending when there is another attempt
	delay   time.Duration    // until the next attempt; for a charged attempt, retryAt's
	charged bool             // whether this attempt counts against the schedule
	reason  limit.Reason     // of a wait that isn't charged
}

// nextStep decides on the step after the attempt of the given number, counted from 1 by
// the schedule. age is the time for which the callback has been owed.
func nextStep(sent webhook.Attempt, jobID int64, attempt int, age time.Duration) step {
	switch sent.Outcome {
	case webhook.Delivered:
		return step{state: db.CallbackDelivered}
	case webhook.Gone:
		return step{state: db.CallbackDead}
	case webhook.Throttled:
		delay := throttleDelay(sent.RetryAfter)
		if age+delay > maxCallbackAge {
			return step{state: db.CallbackDead}
		}
		return step{state: db.CallbackPending, delay: delay, reason: pacing.Paused}
	}
	delay, again := retryDelay(jobID, attempt)
	if !again || age+delay > maxCallbackAge {
		return step{state: db.CallbackDead}
	}
	return step{state: db.CallbackPending, delay: delay, charged: true}
}

// owedSince is when the work ended or, if that was later, when the callback was
// redelivered.
func owedSince(request db.Request) time.Time {
	if request.RedeliveredAt.After(request.FinishedAt) {
		return request.RedeliveredAt
	}
	return request.FinishedAt
}

// jobResult turns the step into the job's result for River.
func (s step) jobResult() error {
	switch {
	case s.state != db.CallbackPending:
		return nil
	case s.charged:
		return errNotDelivered
	default:
		return &postponed{s.delay, s.reason}
	}
}

// settle commits an attempt together with the callback's new state, in a batch with
// others, and returns the attempt's number in the request's log. A callback that is
// settled already stays so, but the attempt happened and is logged: once, where it may
// have been written before.
func (q *Queue) settle(ctx context.Context, request db.Request, sent webhook.Attempt, next step, again bool) (number int, err error) {
	attempt := db.Attempt{
		RequestID: request.ID,
		StartedAt: sent.StartedAt, EndedAt: sent.EndedAt, Outcome: string(sent.Outcome), HTTPStatus: sent.Status,
		Address: sent.Address, Cause: sent.Cause,
		DNS: sent.DNS, Connect: sent.Connect, TLS: sent.TLS, FirstByte: sent.FirstByte,
	}
	if next.state == db.CallbackPending {
		attempt.NextAttemptAt = sent.EndedAt.Add(next.delay)
	}
	settlement := db.Settlement{
		Attempt: attempt, JobID: request.CallbackJobID, State: next.state, Place: request.Place(), Again: again,
	}
	if !again {
		return q.settles.Do(ctx, settlement)
	}
	err = q.record.settles.do(ctx, request.Client, func(ctx context.Context) error {
		numbers, err := q.settleAll(ctx, []db.Settlement{settlement})
		if err == nil {
			number = numbers[0]
		}
		return err
	})
	return number, err
}

func (q *Queue) settleAll(ctx context.Context, settlements []db.Settlement) ([]int, error) {
	return db.SettleCallbacks(ctx, q.pool, settlements)
}

// loadCallbacks returns each request as its callback carries it, the zero
// request where there is nothing to deliver any more.
func (q *Queue) loadCallbacks(ctx context.Context, ids []uuid.UUID) ([]db.Request, error) {
	requests, err := db.LoadCallbacks(ctx, q.pool, ids)
	return inOrder(ids, requests), err
}
