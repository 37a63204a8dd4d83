package db

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Cancellation is a wish to stop what is still to be done for a request.
type Cancellation struct {
	RequestID uuid.UUID
	Client    string
	At        time.Time
	Error     jsontext.Value // of work that had not ended
}

// Stopped is what a cancellation has stopped: nothing where JobID is 0.
type Stopped struct {
	Work     bool
	Callback bool
	JobID    int64 // that would have taken the next step
}

// CancelRequest ends the callback of a request whose callback is owed, and its
// work where that has not ended. Whatever has ended stays as it is. The caller
// cancels the job, in the same transaction.
func CancelRequest(ctx context.Context, q Querier, c Cancellation) (Stopped, error) {
	// IS TRUE is for the reason that GetRequest has.
	const sql = `
		UPDATE requests
		SET status = CASE status WHEN 'accepted' THEN 'cancelled' ELSE status END,
		    error = CASE status WHEN 'accepted' THEN $3 ELSE error END,
		    finished_at = coalesce(finished_at, $4),
		    callback_state = CASE WHEN callback_url IS NOT NULL THEN 'cancelled' END,
		    settled_at = CASE WHEN callback_url IS NOT NULL THEN $4 END
		WHERE id = $1
		  AND (client = $2) IS TRUE
		  AND (status = 'accepted' OR callback_state = 'pending')
		RETURNING callback_job_id IS NULL, callback_url IS NOT NULL, coalesce(callback_job_id, work_job_id)`
	var stopped Stopped
	err := q.QueryRow(ctx, sql, c.RequestID, c.Client, []byte(c.Error), c.At).Scan(&stopped.Work, &stopped.Callback, &stopped.JobID)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return Stopped{}, fmt.Errorf("cancelling request: %w", err)
	}
	return stopped, nil
}
