package db

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
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
	Number    int // grows with each stored report, also from one run to the next; 1 for the first of the first run
	Value     jsontext.Value
}

// progressNumber is Progress.Number. A run that was given up leaves no row behind, and the
// row of the next run counts anew.
const progressNumber = "((turn - 1)::bigint << 32) + progress_number"

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
		    progress = CASE held.turn WHEN excluded.turn THEN held.progress END,
		    progress_at = CASE held.turn WHEN excluded.turn THEN held.progress_at END
		WHERE held.turn <= excluded.turn`
	tag, err := q.Exec(ctx, sql, lease.RequestID, lease.Run, lease.StartedAt, lease.Left)
	if err != nil {
		return false, fmt.Errorf("holding a lease: %w", err)
	}
	return tag.RowsAffected() > 0, nil
}

// FindLease returns the lease of a request.
func FindLease(ctx context.Context, q Querier, request uuid.UUID) (lease Lease, found bool, err error) {
	// No lease is longer than a day (work.Work.Lease), nor shorter than a moment ago.
	const sql = `
		SELECT request_id, turn, started_at, greatest(least(lease_until, now() + interval '1 day'), now() - interval '1 day') - now()
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

// noteRunning tells of listed requests which work goes on elsewhere.
func noteRunning(ctx context.Context, q Querier, listed []Request) error {
	const sql = `
		SELECT request_id, started_at
		FROM work_leases
		WHERE request_id = ANY ($1::uuid[])`
	at := map[uuid.UUID]*Request{}
	for i, r := range listed {
		if r.Status == Accepted {
			at[r.ID] = &listed[i]
		}
	}
	if len(at) == 0 {
		return nil
	}
	rows, err := q.Query(ctx, sql, column(slices.Collect(maps.Keys(at)), uuidOf))
	if err != nil {
		return err
	}
	var id uuid.UUID
	var since time.Time
	_, err = pgx.ForEachRow(rows, []any{&id, &since}, func() error {
		at[id].RunningSince = since
		return nil
	})
	return err
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

// Renewal is a report that a run goes on, with its progress, if the report has any.
type Renewal struct {
	RequestID uuid.UUID
	Run       int
	Lease     time.Duration // from now
	Progress  jsontext.Value
	Age       time.Duration // of the report
}

// Renewed names a run whose lease was renewed. Number is that of its progress.
type Renewed struct {
	RequestID uuid.UUID
	Run       int
	Number    int
}

// RenewLeases begins leases anew, stores the progress, and returns which it renewed. It
// stores no progress within pause of the latest stored progress, nor progress that is
// older. A report without progress renews no lease that was renewed within pause. No run may be in
// the set twice.
func RenewLeases(ctx context.Context, q Querier, renewals []Renewal, pause time.Duration) ([]Renewed, error) {
	// Locked in order, so that two processes don't wait for each other.
	const sql = `
		WITH due AS MATERIALIZED (
			SELECT told.*
			FROM unnest($1::uuid[], $2::integer[], $3::interval[], $4::json[], $5::interval[]) AS told (id, run, lease, progress, age)
			JOIN work_leases AS held ON held.request_id = told.id AND held.turn = told.run
			WHERE CASE
			      WHEN told.progress IS NULL THEN held.lease_until <= now() + told.lease - $6::interval
			      WHEN held.progress IS NULL THEN true
			      ELSE held.heard_at <= now() - $6::interval AND coalesce(held.progress_at < now() - told.age, true)
			      END
			ORDER BY held.request_id
			FOR UPDATE OF held
		)
		UPDATE work_leases
		SET lease_until = now() + due.lease,
		    heard_at = CASE WHEN due.progress IS NULL THEN heard_at ELSE now() END,
		    progress = coalesce(due.progress, work_leases.progress),
		    progress_at = CASE WHEN due.progress IS NULL THEN progress_at ELSE now() - due.age END,
		    progress_number = least(progress_number::bigint + CASE WHEN due.progress IS NULL THEN 0 ELSE 1 END, 2147483647)
		FROM due
		WHERE request_id = due.id
		  AND turn = due.run
		RETURNING request_id, turn, ` + progressNumber
	rows, err := q.Query(ctx, sql,
		column(renewals, func(r Renewal) pgtype.UUID { return uuidOf(r.RequestID) }),
		column(renewals, func(r Renewal) int { return r.Run }),
		column(renewals, func(r Renewal) time.Duration { return r.Lease }),
		column(renewals, func(r Renewal) []byte { return r.Progress }),
		column(renewals, func(r Renewal) time.Duration { return r.Age }),
		pause)
	if err != nil {
		return nil, fmt.Errorf("renewing leases: %w", err)
	}
	renewed, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Renewed])
	if err != nil {
		return nil, fmt.Errorf("renewing leases: %w", err)
	}
	return renewed, nil
}

// FindProgress returns the progress of the requests whose latest Number is above the known
// one.
func FindProgress(ctx context.Context, q Querier, requests []uuid.UUID, known []int) ([]Progress, error) {
	const sql = `
		SELECT work_leases.request_id, ` + progressNumber + `, progress
		FROM unnest($1::uuid[], $2::bigint[]) AS followed (request_id, known)
		JOIN work_leases ON work_leases.request_id = followed.request_id
		WHERE ` + progressNumber + ` > known
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
