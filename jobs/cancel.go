package jobs

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river/rivertype"

	"ringback/db"
	"ringback/work"
)

// codeCancelled is the code of requests whose work was stopped by their caller.
const codeCancelled = "cancelled"

// Cancel stops the remaining steps of a request, and their job. A running job has its
// context ended, in any process, and finds nothing to write afterwards. No callback is
// sent, since the caller knows. The next callback of its ordering key is released. It
// returns the step that it stopped, or no step where the request has ended or the client
// has no such request.
func (q *Queue) Cancel(ctx context.Context, client string, id uuid.UUID) (stopped db.Stopped, err error) {
	reason, err := cancellation("The request was cancelled before its work ended.")
	if err != nil {
		return db.Stopped{}, err
	}
	wish := db.Cancellation{RequestID: id, Client: client, At: q.Now(), Error: reason}
	err = db.InTx(ctx, q.pool, func(tx pgx.Tx) error {
		places, err := db.FindPlaces(ctx, tx, []uuid.UUID{id})
		if err != nil {
			return err
		}
		places = slices.DeleteFunc(places, func(p db.Place) bool { return p.Client != client })
		if err := db.LockOrder(ctx, tx, places...); err != nil {
			return err
		}
		if stopped, err = db.CancelRequest(ctx, tx, wish); err != nil || stopped.JobID == 0 {
			return err
		}
		if stopped.Work {
			err = db.CancelLease(ctx, tx, id, stopped.JobID)
		}
		return errors.Join(err, db.LeaveOrder(ctx, tx, places...), q.cancelJob(ctx, tx, stopped.JobID))
	})
	if err != nil {
		return db.Stopped{}, err
	}
	if stopped.JobID != 0 { // else it may be the request of another client
		q.quotas.undue(client, stopped.RunAt)
		q.wake([]uuid.UUID{id})
	}
	return stopped, nil
}

// cancelJob cancels a job, if somebody hasn't removed it.
func (q *Queue) cancelJob(ctx context.Context, tx pgx.Tx, id int64) error {
	_, err := q.client.JobCancelTx(ctx, tx, id)
	if err != nil && !errors.Is(err, rivertype.ErrNotFound) {
		return fmt.Errorf("cancelling job: %w", err)
	}
	return nil
}

// cancellation is the error of a request that was cancelled.
func cancellation(message string) (jsontext.Value, error) {
	encoded, err := json.Marshal(work.Error{Code: codeCancelled, Message: message})
	if err != nil {
		return nil, fmt.Errorf("encoding cancellation: %w", err)
	}
	return encoded, nil
}
