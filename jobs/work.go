package jobs

import (
	"context"
	"time"

	"ringback/db"
	"ringback/jobs/flow"
	"ringback/jobs/limit"
	"ringback/work"
)

// workUnknown is why work waits that this process doesn't offer.
const workUnknown limit.Reason = "work_unknown"

// EnterWork lets a sync request run a work of the catalog, once it has its turn. The error is a
// *limit.Refusal. leave must be called with the outcome, the zero Outcome where the run says
// nothing of the work.
func (q *Queue) EnterWork(ctx context.Context, name, client string) (leave func(work.Outcome), err error) {
	leaveFlow, decision := q.flows[name].EnterSync(ctx, client)
	if err := decision.Err(); err != nil {
		return nil, err
	}
	return func(outcome work.Outcome) {
		leaveFlow(outcome)
		if !outcome.FinishedAt.IsZero() && !outcome.Elsewhere {
			q.metrics.worked(name, db.Sync, outcome)
		}
	}, nil
}

// WorkState is the state of a work of the catalog for a client.
func (q *Queue) WorkState(name, client string) flow.State {
	state := q.flows[name].State(client, time.Now())
	state.Since, state.Until = q.clock.At(state.Since), q.clock.At(state.Until)
	return state
}
