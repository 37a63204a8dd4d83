package jobs

import (
	"context"
	"strings"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"ringback/db"
	"ringback/work"
)

// notDone is the error of a run that did not do the work. It makes River charge the run and ask
// NextRetry. River stores the error's text in the job's row, and callers see the text.
type notDone struct{ code string }

func (e notDone) Error() string { return db.WorkNotDone + e.code }

// failedRuns is how many runs of a job were charged because they did not do the work.
func failedRuns(job *rivertype.JobRow) (failed int) {
	for _, attempt := range job.Errors {
		if strings.HasPrefix(attempt.Error, db.WorkNotDone) {
			failed++
		}
	}
	return failed
}

// endedRuns is how many runs of a job were charged and ended, each with an error in the job's row.
// The error is of work that was not done, a fault or a panic. All other charged runs crashed.
func endedRuns(job *rivertype.JobRow) (ended int) {
	for _, attempt := range job.Errors {
		if !strings.HasPrefix(attempt.Error, db.WorkUncharged) {
			ended++
		}
	}
	return ended
}

// codeCutOff is the code of a run that a stopping process broke off.
const codeCutOff = "cut_off"

// throttledRuns is how many runs of a job a Retry-After ended, which charge nothing.
func throttledRuns(job *rivertype.JobRow) (throttled int) {
	for _, attempt := range job.Errors {
		if code, isUncharged := strings.CutPrefix(attempt.Error, db.WorkUncharged); isUncharged && code != codeCutOff {
			throttled++
		}
	}
	return throttled
}

// note adds a run that charges nothing to the request's trace.
func (w *runWorker) note(ctx context.Context, job *rivertype.JobRow, client string, startedAt time.Time, code string) error {
	run := db.WorkAttempt{Attempt: job.Attempt, At: w.queue.clock.At(startedAt), Code: code}
	return w.queue.singles.do(ctx, client, func(ctx context.Context) error {
		return db.NoteUncharged(ctx, w.queue.pool, job.ID, run)
	})
}

// again decides whether another run of the work follows an outcome. If so, it returns the error by
// which River schedules that run. Otherwise it returns nil and the final outcome: the run's own, or
// an expiry where no other run could start in time. The request's times are by this process's
// clock. A callback's retry is decided elsewhere: nextStep.
func (w *runWorker) again(ctx context.Context, job *rivertype.JobRow, offer *work.Offer, request db.Request, outcome work.Outcome) (final work.Outcome, next error) {
	if outcome.Again == nil {
		return outcome, nil
	}
	failed := failedRuns(job) + 1
	delay := workRetryDelay(job)
	next = notDone{outcome.Error.Code}
	if after := outcome.Again.After; after > 0 { // a Retry-After: the run charges nothing
		delay = throttleDelay(max(after, workFloor(throttledRuns(job))))
		next = river.JobSnooze(delay)
		if time.Since(request.AcceptedAt)+delay > maxCallbackAge {
			return outcome, nil
		}
	} else if failed > offer.Retry.Most() {
		return outcome, nil
	}
	if ended, over := expire(request, time.Now().Add(delay)); over {
		ended.FinishedAt, ended.Cause = outcome.FinishedAt, outcome.Cause
		ended.Error.Message = "The work was not done, and another attempt would have come after its time."
		return ended, nil
	}
	if outcome.Again.After > 0 {
		_ = w.queue.record.insist(func(ctx context.Context, _ bool) error {
			return w.note(ctx, job, request.Client, outcome.StartedAt, outcome.Error.Code)
		}) // fails only where the process stops
	}
	w.queue.metrics.failed.WithLabelValues(w.nameOf(request)).Inc()
	w.logger.InfoContext(ctx, "work_tried_again", tellTrace([]any{
		"request_id", request.ID.String(), "job_id", job.ID, "work", w.nameOf(request),
		"attempt", job.Attempt, "code", outcome.Error.Code, "cause", outcome.Cause, "charged", outcome.Again.After == 0, "retry_in_ms", delay.Milliseconds(),
	}, request)...)
	return outcome, next
}
