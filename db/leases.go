package db

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype/zeronull"
)

// Lease is a run of the work of a request that goes on elsewhere.
type Lease struct {
	RequestID uuid.UUID
	Run       int // no two runs of a request have the same number
	StartedAt time.Time
	Left      time.Duration // until the run is lost, unless it is heard of; negative afterwards
}

// Progress is the latest progress of work that goes on elsewhere.
type Progress struct {
	RequestID uuid.UUID
	Number    int // counts the request's reports of progress, from 1
	Value     jsontext.Value
}

// FinishKey returns the key that all processes share for the tokens of finish calls.
func FinishKey(ctx context.Context, q Querier) (key []byte, err error) {
	if err := q.QueryRow(ctx, "SELECT key FROM finish_key").Scan(&key); err != nil {
		return nil, fmt.Errorf("reading the key of finish calls: %w", err)
	}
	return key, nil
}

// HoldLease notes that a run goes on elsewhere, unless its request has ended, or a later run
// goes on: a process that was paused may come late. It replaces the lease of an earlier run.
func HoldLease(ctx context.Context, q Querier, lease Lease) (held bool, err error) {
	const sql = `
		INSERT INTO work_leases AS held (request_id, turn, started_at, lease_until, heard_at, progress_number)
		SELECT id, $2, $3, now() + $4::interval, now(), 0
		FROM requests
		WHERE id = $1
		  AND status = 'accepted'
		ON CONFLICT (request_id) DO UPDATE
		SET turn = excluded.turn,
		    started_at = excluded.started_at,
		    lease_until = excluded.lease_until,
		    heard_at = excluded.heard_at,
		    progress = CASE held.turn WHEN excluded.turn THEN held.progress END
		WHERE held.turn <= excluded.turn`
	tag, err := q.Exec(ctx, sql, lease.RequestID, lease.Run, lease.StartedAt, lease.Left)
	if err != nil {
		return false, fmt.Errorf("holding a lease: %w", err)
	}
	return tag.RowsAffected() > 0, nil
}

// FindLease returns the lease of a request.
func FindLease(ctx context.Context, q Querier, request uuid.UUID) (lease Lease, found bool, err error) {
	const sql = `
		SELECT request_id, turn, started_at, lease_until - now()
		FROM work_leases
		WHERE request_id = $1`
	err = q.QueryRow(ctx, sql, request).Scan(&lease.RequestID, &lease.Run, &lease.StartedAt, &lease.Left)
	if errors.Is(err, pgx.ErrNoRows) {
		return Lease{}, false, nil
	}
	if err != nil {
		return Lease{}, false, fmt.Errorf("finding a lease: %w", err)
	}
	return lease, true, nil
}

// FindRun returns the run of a request that is going on: the run of its lease, or else the
// run of its work job. Without a lease, isHeld is false and Run and StartedAt alone are
// set; Run is 0 where nothing runs.
func FindRun(ctx context.Context, q Querier, request Request) (lease Lease, isHeld bool, err error) {
	lease, isHeld, err = FindLease(ctx, q, request.ID)
	if err != nil || isHeld {
		return lease, isHeld, err
	}
	const sql = `
		SELECT attempt + coalesce((metadata ->> 'snoozes')::integer, 0), attempted_at
		FROM river_job
		WHERE id = $1
		  AND state::text = 'running'`
	err = q.QueryRow(ctx, sql, request.WorkJobID).Scan(&lease.Run, (*zeronull.Timestamptz)(&lease.StartedAt))
	if errors.Is(err, pgx.ErrNoRows) {
		return Lease{}, false, nil
	}
	if err != nil {
		return Lease{}, false, fmt.Errorf("finding the run of a request: %w", err)
	}
	return lease, false, nil
}

// GiveUpLease ends a lease whose time is over, and tells false where it was renewed.
func GiveUpLease(ctx context.Context, q Querier, lease Lease) (over bool, err error) {
	const sql = `
		DELETE FROM work_leases
		WHERE request_id = $1
		  AND turn = $2
		  AND lease_until <= now()`
	tag, err := q.Exec(ctx, sql, lease.RequestID, lease.Run)
	if err != nil {
		return false, fmt.Errorf("giving a lease up: %w", err)
	}
	return tag.RowsAffected() > 0, nil
}

// EndLease removes the lease of a request that has ended.
func EndLease(ctx context.Context, q Querier, request uuid.UUID) error {
	if _, err := q.Exec(ctx, "DELETE FROM work_leases WHERE request_id = $1", request); err != nil {
		return fmt.Errorf("ending a lease: %w", err)
	}
	return nil
}

// CancelLease is EndLease for a request whose work is cancelled. The run that went on
// elsewhere is charged, as where it ends by a report.
func CancelLease(ctx context.Context, q Querier, request uuid.UUID, workJob int64) error {
	const sql = `
		WITH ended AS (
			DELETE FROM work_leases
			WHERE request_id = $1
			RETURNING request_id
		)
		UPDATE river_job
		SET attempt = attempt + 1
		WHERE id = $2
		  AND state::text <> 'running'
		  AND EXISTS (SELECT FROM ended)`
	if _, err := q.Exec(ctx, sql, request, workJob); err != nil {
		return fmt.Errorf("ending a lease: %w", err)
	}
	return nil
}

// RenewLease begins a lease anew, and stores the progress, if there is any. Within pause
// of the latest report nothing is stored and renewed is false, as where the run has no
// lease any more.
func RenewLease(ctx context.Context, q Querier, lease Lease, progress jsontext.Value, pause time.Duration) (renewed bool, err error) {
	const sql = `
		UPDATE work_leases
		SET lease_until = now() + $3::interval,
		    heard_at = now(),
		    progress = coalesce($4, progress),
		    progress_number = progress_number + CASE WHEN $4::json IS NULL THEN 0 ELSE 1 END
		WHERE request_id = $1
		  AND turn = $2
		  AND (heard_at <= now() - $5::interval OR $4::json IS NOT NULL AND progress IS NULL)`
	tag, err := q.Exec(ctx, sql, lease.RequestID, lease.Run, lease.Left, []byte(progress), pause)
	if err != nil {
		return false, fmt.Errorf("renewing a lease: %w", err)
	}
	return tag.RowsAffected() > 0, nil
}

// FindProgress returns the progress of the requests whose latest Number is above the known
// one.
func FindProgress(ctx context.Context, q Querier, requests []uuid.UUID, known []int) ([]Progress, error) {
	const sql = `
		SELECT work_leases.request_id, progress_number, progress
		FROM unnest($1::uuid[], $2::integer[]) AS followed (request_id, known)
		JOIN work_leases ON work_leases.request_id = followed.request_id
		WHERE progress_number > known
		  AND progress IS NOT NULL`
	rows, err := q.Query(ctx, sql, column(requests, uuidOf), known)
	if err != nil {
		return nil, fmt.Errorf("finding progress: %w", err)
	}
	progress, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p Progress, err error) {
		return p, row.Scan(&p.RequestID, &p.Number, (*[]byte)(&p.Value))
	})
	if err != nil {
		return nil, fmt.Errorf("finding progress: %w", err)
	}
	return progress, nil
}

// DropLeases removes up to most leases of requests that ended without a finish call, and
// returns how many.
func DropLeases(ctx context.Context, q Querier, most int) (int, error) {
	const sql = `
		DELETE FROM work_leases
		WHERE request_id IN (
			SELECT request_id
			FROM work_leases
			WHERE lease_until < now()
			  AND NOT EXISTS (SELECT FROM requests WHERE id = work_leases.request_id AND status = 'accepted')
			LIMIT $1
		)`
	tag, err := q.Exec(ctx, sql, most)
	if err != nil {
		return 0, fmt.Errorf("dropping leases: %w", err)
	}
	return int(tag.RowsAffected()), nil
}
