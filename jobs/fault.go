package jobs

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"ringback/db"
	"ringback/db/batch"
)

// maxFaults is how many faults in a row end a step: of a new request after about 43
// minutes, by the retry schedule. That leaves an operator time to mend the cause, such as a
// key that was not deployed.
const maxFaults = 7

// fault is why Ringback could not do its part of a step, while the database was there. It is
// charged as an attempt, so that the waits grow and River UI shows it. Its text is stored
// in the job row and says no more than a caller may see.
type fault struct {
	what  string
	cause error
}

const faultPrefix = "fault: "

func (f *fault) Error() string { return faultPrefix + f.what }

func (f *fault) Unwrap() error { return f.cause }

// Faults for which SECRETS_KEY is the cause, or a row of clients.
const (
	unsigned = "the callback can't be signed"
	sealed   = "the headers of the callback can't be opened"
)

// remedy is what an operator may do about it.
func (f *fault) remedy() string {
	const bound = "the step is tried again, and given up after 7 faults in a row, about 43 minutes"
	switch f.what {
	case sealed:
		return "put the former SECRETS_KEY behind the new key, with a comma, and run ringback client reseal before it is dropped again; " + bound
	case unsigned:
		return "put the former SECRETS_KEY behind the new key, with a comma; or give the client a secret again: ringback client rotate, or ringback client add where its row was deleted; " + bound
	}
	return "mend what the error names; " + bound
}

// faultOf is the fault behind an error of a step.
func faultOf(err error) *fault {
	var known *fault
	if errors.As(err, &known) {
		return known
	}
	return &fault{"a step failed", err}
}

// passes tells whether a step may succeed once the database, or its batcher, is free
// again, or in another process.
func passes(err error) bool {
	return db.IsUnavailable(err) || errors.Is(err, batch.ErrFull) || errors.Is(err, batch.ErrLarge) ||
		errors.Is(err, batch.ErrLate) || errors.Is(err, batch.ErrStopped)
}

// faultLines are the log lines about a step that is not made, by the queue of its job.
var faultLines = map[string]struct{ postponed, failed string }{
	workQueue:     {"work_postponed", "work_not_done"},
	callbackQueue: {"callback_postponed", "callback_not_made"},
}

// postpone snoozes a job while the database is away, which charges no attempt: the job
// comes back until its step is made. A fault of Ringback's own is charged.
func (q *Queue) postpone(ctx context.Context, logger *slog.Logger, job *rivertype.JobRow, request uuid.UUID, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err() // the process is stopping: another process takes the job up
	}
	lines := faultLines[job.Queue]
	if passes(err) {
		q.seldom.ErrorContext(ctx, lines.postponed, "request_id", request, "job_id", job.ID, "error", err,
			"remedy", "none for the job: it comes back by itself; mend what the error or a line database_fault names")
		return river.JobSnooze(faultDelay())
	}
	found := faultOf(err)
	q.metrics.faults.WithLabelValues(job.Queue).Inc()
	logger.ErrorContext(ctx, lines.failed, "request_id", request, "job_id", job.ID, "fault", found.what, "error", found.cause, "remedy", found.remedy())
	return found
}

// faultsInARow counts the faults and panics since the last attempt without a fault or
// panic, and returns the latest.
func faultsInARow(job *rivertype.JobRow) (count int, latest string) {
	for i := len(job.Errors) - 1; i >= 0; i-- {
		failed := job.Errors[i]
		what, isFault := strings.CutPrefix(failed.Error, faultPrefix)
		switch {
		case failed.Trace != "":
			what = "panic"
		case !isFault:
			return count, latest
		}
		if count++; latest == "" {
			latest = what
		}
	}
	return count, latest
}

// workRetryDelay is how long a work job waits after a run that did not do the work,
// or a fault: longer each time.
func workRetryDelay(job *rivertype.JobRow) time.Duration {
	delay, _ := retryDelay(job.ID, min(endedRuns(job)+1, len(retrySchedule)))
	return delay
}
