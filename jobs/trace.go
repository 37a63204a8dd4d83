package jobs

import (
	"context"
	"errors"
	"time"

	"ringback/db"
	"ringback/jobs/tracing"
	"ringback/jobs/webhook"
	"ringback/work"
)

// Work runs the work, as work.Run does, in a span of its own. Calls of the work get
// the span's traceparent.
func (q *Queue) Work(ctx context.Context, offer *work.Offer, call work.Call) (work.Outcome, error) {
	span := q.tracer.Work(tracing.WorkAttempt{
		Request: call.RequestID, Work: offer.Name, Number: call.Attempt, Outside: offer.Paced,
	}, call.Traceparent)
	call.Traceparent = span.Traceparent(call.Traceparent)
	outcome, err := work.Run(ctx, offer.Work, call)
	switch {
	case err != nil:
		span.NotMade(errCutOff)
	case outcome.Elsewhere:
		span.Worked("elsewhere", false, nil)
	case outcome.Error != nil:
		span.Worked(outcome.Error.Code, true, outcome.Cause)
	default:
		span.Worked("succeeded", false, nil)
	}
	return outcome, err
}

// errCutOff is why a run has no outcome.
var errCutOff = errors.New("cut off: the process is stopping, or nobody wants the outcome any more")

// sending is an attempt at a callback, with its span.
type sending struct {
	webhook.Attempt
	span  tracing.Span
	ended time.Time // by this process's clock, as the span's other times

	isLeft bool // an earlier process made the attempt
}

// settled ends the span of an attempt that has its number, or could not be recorded.
func (sent *sending) settled(number int) {
	sent.span.CalledBack(tracing.Callback{
		Number: number, Outcome: string(sent.Outcome), Status: sent.Status, Cause: sent.Cause,
		Delivered: sent.Outcome == webhook.Delivered, At: sent.ended,
	})
}

// traceCallback begins the span of an attempt at a request's callback.
func (q *Queue) traceCallback(request db.Request) tracing.Span {
	return q.tracer.Callback(request.ID, request.Work, request.CallbackURL, request.Traceparent)
}

// tellTrace adds the id of a request's trace, if any, to the attributes of a log line.
func tellTrace(attrs []any, request db.Request) []any {
	if id := tracing.TraceID(request.Traceparent); id != "" {
		return append(attrs, "trace_id", id)
	}
	return attrs
}
