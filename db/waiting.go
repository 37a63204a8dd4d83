package db

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype/zeronull"
)

// Wait is how the job of a callback waits.
type Wait struct {
	Waits  bool      // for its time or a worker
	State  string    // River's; empty where there is no such job
	Until  time.Time // when the job is due; zero where it is due, or doesn't wait
	Reason string    // stored by the last run of the job, empty for none
}

// FindWait returns how a callback's job waits.
func FindWait(ctx context.Context, q Querier, job int64) (Wait, error) {
	const sql = `
		SELECT waits, state::text, CASE WHEN waits AND scheduled_at > now() THEN scheduled_at END, metadata #>> '{output,waits_for}'
		FROM river_job
		CROSS JOIN LATERAL (SELECT state::text IN ('available', 'scheduled', 'retryable') AS waits) AS at_all
		WHERE id = $1`
	var w Wait
	err := q.QueryRow(ctx, sql, job).Scan(&w.Waits, &w.State, (*zeronull.Timestamptz)(&w.Until), (*zeronull.Text)(&w.Reason))
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Wait{}, nil
	case err != nil:
		return Wait{}, fmt.Errorf("finding how a callback waits: %w", err)
	}
	return w, nil
}

// WaitingPosition is a place in the order of the jobs of a queue, state and priority.
type WaitingPosition struct {
	Queue    string
	State    string
	Priority int
	DueAt    time.Time
	JobID    int64
}

// WaitingFrom are the positions from which all jobs of a queue are listed that are due
// after a time.
func WaitingFrom(queue string, after time.Time) (from []WaitingPosition) {
	for _, state := range []string{"scheduled", "retryable", "available"} {
		for priority := 1; priority <= 4; priority++ {
			from = append(from, WaitingPosition{queue, state, priority, after, 0})
		}
	}
	return from
}

// WaitingCallback is a callback whose job is due later.
type WaitingCallback struct {
	JobID  int64
	URL    string
	Reason string // as in Wait
}

// ListWaiting returns the next callbacks from a position on, at most so many, and the
// position after them.
func ListWaiting(ctx context.Context, q Querier, from WaitingPosition, most int) (waiting []WaitingCallback, next WaitingPosition, err error) {
	// A range of River's index for fetching. LIMIT 1 keeps Postgres from joining by reading
	// whole tables.
	sql := `
		SELECT job.id, job.scheduled_at, coalesce(request.callback_url, ''), coalesce(job.metadata #>> '{output,waits_for}', '')
		FROM (
			SELECT id, scheduled_at, args, metadata
			FROM river_job
			WHERE state = $1::text::river_job_state
			  AND queue = $2
			  AND priority = $3
			  AND (scheduled_at, id) > ($4, $5)
			ORDER BY scheduled_at, id
			LIMIT $6
		) AS job
		LEFT JOIN LATERAL (
			SELECT callback_url
			FROM requests
			WHERE requests.id = ` + requestOf("job.args") + `
			LIMIT 1
		) AS request ON true
		ORDER BY job.scheduled_at, job.id`
	next = from
	rows, err := q.Query(ctx, sql, from.State, from.Queue, from.Priority, from.DueAt, from.JobID, most)
	if err != nil {
		return nil, from, fmt.Errorf("listing waiting callbacks: %w", err)
	}
	var url, reason string
	_, err = pgx.ForEachRow(rows, []any{&next.JobID, &next.DueAt, &url, &reason}, func() error {
		waiting = append(waiting, WaitingCallback{next.JobID, url, reason})
		return nil
	})
	if err != nil {
		return nil, from, fmt.Errorf("listing waiting callbacks: %w", err)
	}
	return waiting, next, nil
}

// MakeDue makes jobs due that are due later. Jobs that somebody else has locked are about
// to run.
func MakeDue(ctx context.Context, q Querier, jobs []int64) error {
	const sql = `
		UPDATE river_job
		SET state = 'available',
		    scheduled_at = now()
		WHERE id = ANY (ARRAY(
			SELECT id
			FROM river_job
			WHERE id = ANY ($1::bigint[])
			  AND state::text IN ('available', 'scheduled', 'retryable')
			  AND scheduled_at > now()
			FOR UPDATE SKIP LOCKED
		))`
	if _, err := q.Exec(ctx, sql, jobs); err != nil {
		return fmt.Errorf("making jobs due: %w", err)
	}
	return nil
}

// AnyDue tells whether any of the jobs waits for a worker, or runs.
func AnyDue(ctx context.Context, q Querier, jobs []int64) (any bool, err error) {
	const sql = `
		SELECT EXISTS (
			SELECT
			FROM river_job
			WHERE id = ANY ($1::bigint[])
			  AND (state::text = 'running' OR state::text = 'available' AND scheduled_at <= now())
		)`
	if err := q.QueryRow(ctx, sql, jobs).Scan(&any); err != nil {
		return false, fmt.Errorf("looking for jobs that are due: %w", err)
	}
	return any, nil
}
