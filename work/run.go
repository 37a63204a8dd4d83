package work

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// MaxResultBytes bounds a result, so that a callback with the request's other fields stays
// below 64 KiB.
const MaxResultBytes = 56 << 10

// Outcome is how a run of the work ended.
type Outcome struct {
	Result    jsontext.Value // JSON; nil unless the work succeeded
	Error     *Error         // nil when it succeeded
	Again     *Again         // where the error isn't final
	Elsewhere bool           // the run has not ended: it goes on elsewhere
	Cause     error          // for operators: the error behind Error, with the stack of a panic

	// With a monotonic reading: a clock that is set meanwhile changes neither how long the run
	// took, nor when it was by the database's clock.
	StartedAt, FinishedAt time.Time
}

// Again says that a run did not do the work, and that another run may.
type Again struct {
	// After is the least wait before it, for which no attempt is charged. 0 leaves it to
	// the retry schedule, which charges the attempt.
	After time.Duration
}

// Error tells a caller why the work failed. Do may return an Error; callers see any other
// error as "work_failed".
type Error struct {
	Code    string `json:"code"`    // stable, snake_case
	Message string `json:"message"` // a sentence
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// SettingError is the error of a run that any input would end in, until the operator acts.
type SettingError struct {
	Status int    // that the service of the work answered
	Remedy string // for the operator
	Err    error
}

func (e *SettingError) Error() string { return e.Err.Error() }
func (e *SettingError) Unwrap() error { return e.Err }

// UnreachedError is the error of a run of which nothing was sent: no input is the cause.
type UnreachedError struct{ Err error }

func (e *UnreachedError) Error() string { return e.Err.Error() }
func (e *UnreachedError) Unwrap() error { return e.Err }

// Codes that mean more than that the work failed.
const (
	CodeDeadline  = "deadline_exceeded" // stopped at its deadline
	CodeAbandoned = "abandoned"         // the caller went away, or the process stopped
	CodeRefused   = "refused"           // the work refuses this input, for good
	CodeNotDone   = "not_done"          // of a sync request: another call may do it
)

// Abandoned is the outcome of sync work that ended because its caller went
// away or the process is stopping.
func Abandoned(startedAt time.Time) Outcome {
	return Outcome{StartedAt: startedAt, FinishedAt: time.Now(), Error: &Error{
		CodeAbandoned, "The caller went away, or the service stopped, before the work ended.",
	}}
}

// Run runs the work once, for at most w.Timeout, and turns an error, a panic, a missed
// deadline or an oversized result into an outcome. It fails with the error of ctx alone,
// and then there is no outcome: the caller went away or the process is stopping.
func Run(ctx context.Context, w Work, call Call) (Outcome, error) {
	outcome := Outcome{StartedAt: time.Now()}
	limited, cancel := context.WithTimeout(ctx, w.Timeout)
	defer cancel()
	result, err := contain(limited, w.Do, call)
	outcome.FinishedAt = time.Now()
	if err != nil && ctx.Err() != nil {
		return Outcome{}, ctx.Err()
	}
	if w.Lease > 0 && call.FinishURL != "" && errors.Is(err, ErrElsewhere) {
		outcome.Elsewhere = true
		return outcome, nil
	}
	if err == nil {
		err = checkResult(result)
	}
	if err != nil {
		outcome.Error, outcome.Cause, outcome.Again = explain(err), err, w.Retry.again(err)
		return outcome, nil
	}
	outcome.Result = result
	return outcome, nil
}

// checkResult refuses a result that could be neither stored nor called back.
func checkResult(result jsontext.Value) error {
	switch {
	case len(result) > MaxResultBytes:
		return &Error{"result_too_large", fmt.Sprintf("The result is larger than %d bytes.", MaxResultBytes)}
	case !result.IsValid():
		return &Error{"invalid_result", "The result is not valid JSON."}
	case depthOf(result) > maxDepth:
		return &Error{"invalid_result", fmt.Sprintf("The result is nested more than %d deep.", maxDepth)}
	}
	return nil
}

// panicError carries a panic out of contain, so that it reads like any error.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.value, e.stack) }

// contain calls do and returns a panic as an error.
func contain(ctx context.Context, do Func, call Call) (result jsontext.Value, err error) {
	defer func() {
		if value := recover(); value != nil {
			result, err = nil, &panicError{value, debug.Stack()}
		}
	}()
	return do(ctx, call)
}

func explain(err error) *Error {
	var told *Error
	var panicked *panicError
	switch {
	case errors.As(err, &told):
		return &Error{storable(told.Code), storable(told.Message)}
	case errors.As(err, &panicked):
		return &Error{"panic", "The work broke down. The operators see why in the log."}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{CodeDeadline, "The work did not end before its deadline."}
	default:
		return &Error{"work_failed", "The work failed. The operators see why in the log."}
	}
}

// storable makes a text that the work wrote fit for the record and the callback.
func storable(text string) string {
	const most = 1024 // bytes
	return strings.ToValidUTF8(strings.ReplaceAll(text[:min(len(text), most)], "\x00", ""), "")
}
