package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"ringback/db"
	"ringback/jobs/limit"
	"ringback/jobs/pacing"
)

// Reasons for which a callback waits, besides pacing's reasons.
const (
	waitsForRetry      limit.Reason = "retry"      // an attempt failed
	waitsForOrder      limit.Reason = "order"      // the callback before it, of the same ordering key
	waitsForRedelivery limit.Reason = "redelivery" // its redelivery isn't due
)

// postponed is the result of a callback job that comes back later, for a reason. River reads
// it as a snooze.
type postponed struct {
	delay  time.Duration
	reason limit.Reason
}

func (p *postponed) Error() string { return "the callback waits: " + string(p.reason) }

// Unwrap is for River.
func (p *postponed) Unwrap() error { return river.JobSnooze(p.delay) }

// jobNote is stored as the output of a callback's job, by the statement that postpones the
// job. So every process knows why a callback waits, whichever process postponed it.
type jobNote struct {
	WaitsFor limit.Reason `json:"waits_for"`
}

// noteOf is the member of a job's metadata that River would store for a jobNote.
func noteOf(err error) string {
	return fmt.Sprintf(`"output": {"waits_for": %q}`, reasonOf(err)) // a reason needs no escaping
}

// reasonOf tells why a callback job comes back with an error.
func reasonOf(err error) limit.Reason {
	if p := (*postponed)(nil); errors.As(err, &p) {
		return p.reason
	}
	if snooze := (*rivertype.JobSnoozeError)(nil); errors.As(err, &snooze) {
		return pacing.Unknown // the database was away
	}
	return waitsForRetry
}

// Wait is why a pending callback has not left, and when its job comes back. The reason tells
// nothing of other clients. Both fields are zero where the callback is on its way.
type Wait struct {
	Reason limit.Reason
	Until  time.Time // by the database's clock; zero where nobody knows
}

// WaitOf tells how the pending callback of a request waits. last is its latest attempt, if
// any; reads is the pool for clients' reads.
func (q *Queue) WaitOf(ctx context.Context, reads db.Querier, request db.Request, last db.Attempt) (Wait, error) {
	job, err := db.FindWait(ctx, reads, request.CallbackJobID)
	if err != nil {
		return Wait{}, err
	}
	return Wait{q.whyWaits(job, request, last), job.Until}, nil
}

func (q *Queue) whyWaits(job db.Wait, request db.Request, last db.Attempt) limit.Reason {
	switch state := rivertype.JobState(job.State); {
	case state == rivertype.JobStatePending:
		return waitsForOrder
	case !job.Waits:
		return ""
	case q.IsDenied(request.CallbackURL):
		return pacing.Denied
	case state == rivertype.JobStateAvailable && job.Until.IsZero():
		return pacing.Workers
	case job.Reason != "":
		return limit.Reason(job.Reason)
	case !last.NextAttemptAt.IsZero():
		return waitsForRetry
	case !request.RedeliveredAt.IsZero():
		return waitsForRedelivery
	}
	return "" // it was postponed by a version that stored no reason
}
