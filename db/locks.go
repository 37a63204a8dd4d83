package db

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// lockKey is the key of a process's advisory lock; id is the column or parameter
// that holds its id.
func lockKey(id string) string { return "hashtextextended('ringback process ' || " + id + ", 0)" }

// HoldLock takes the lock of a process for the session of q, unless the session has it, and writes
// whether it is held, which it returns. If somebody removed the process's row in processes,
// nothing is written until the next heartbeat. backend is the process id of the session's backend,
// as the server told it when q was connected.
//
// A pooler tells another id. Behind a pooler, a lock may outlive its process or end before
// it, so no lock is taken. The lock counts as held only where Postgres lists it for the
// backend: some databases accept such calls and do nothing.
func HoldLock(ctx context.Context, q Querier, process string, backend uint32) (bool, error) {
	take := `
		SELECT pg_try_advisory_lock(` + lockKey("$1::text") + `)
		WHERE pg_backend_pid() = $2::bigint`
	if _, err := q.Exec(ctx, take, process, backend); err != nil {
		return false, fmt.Errorf("locking a process: %w", err)
	}
	say := `
		WITH held AS MATERIALIZED (
			SELECT
			FROM pg_locks
			WHERE pid = pg_backend_pid()
			  AND locktype = 'advisory'
			  AND objsubid = 1 -- a key of 64 bits, in two halves
			  AND classid::bigint << 32 | objid::bigint = ` + lockKey("$1::text") + `
			  AND mode = 'ExclusiveLock'
			  AND granted
		), withdrawn AS (
			DELETE FROM locked_processes
			WHERE id = $1
			  AND NOT EXISTS (SELECT FROM held)
		), said AS (
			INSERT INTO locked_processes (id, locked_at, database_started_at)
			SELECT id, now(), pg_postmaster_start_time()
			FROM processes
			WHERE id = $1
			  AND EXISTS (SELECT FROM held)
			ON CONFLICT (id) DO UPDATE
			SET locked_at = EXCLUDED.locked_at,
			    database_started_at = EXCLUDED.database_started_at
		)
		SELECT EXISTS (SELECT FROM held)`
	var held bool
	if err := q.QueryRow(ctx, say, process).Scan(&held); err != nil {
		return false, fmt.Errorf("saying that a process is locked: %w", err)
	}
	return held, nil
}

// Process is a process and when it last lived.
type Process struct {
	ID     string
	SeenAt time.Time // when it last wrote a heartbeat, or held its lock
}

// FreeLocks returns the other processes whose rows say that they hold their lock, but
// whose lock is free. Such a process has ended, or its connection broke just now. q must
// not be in a transaction, which would keep the locks.
func FreeLocks(ctx context.Context, q Querier, process string) ([]Process, error) {
	sql := `
		SELECT id, greatest(beat_at, locked_at)
		FROM locked_processes
		JOIN processes USING (id)
		WHERE id <> $1
		  AND database_started_at = pg_postmaster_start_time()
		  AND pg_try_advisory_xact_lock_shared(` + lockKey("id") + `)`
	rows, err := q.Query(ctx, sql, process)
	if err != nil {
		return nil, fmt.Errorf("looking for free locks: %w", err)
	}
	free, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Process])
	if err != nil {
		return nil, fmt.Errorf("looking for free locks: %w", err)
	}
	return free, nil
}

// ReturnJobsOf gives back the jobs of processes whose lock is still free and that gave no
// heartbeat or lock since SeenAt. Like ReturnJobs, it refunds the attempts of a kind of job,
// and returns how many jobs it gave back. Jobs that turn out later to run in such a
// process are left to ReturnJobs. q must not be in a transaction.
func ReturnJobsOf(ctx context.Context, q Querier, refunded string, processes []Process) (int64, error) {
	// The lock is kept until the jobs are given back, so a process that is alive after
	// all can't take it in between.
	sql := `
		WITH dead AS (
			DELETE FROM locked_processes
			USING processes, unnest($2::text[], $3::timestamptz[]) AS seen (id, at)
			WHERE locked_processes.id = seen.id
			  AND processes.id = seen.id
			  AND greatest(beat_at, locked_at) = seen.at
			  AND pg_try_advisory_xact_lock_shared(` + lockKey("locked_processes.id") + `)
			RETURNING locked_processes.id
		), ` + returnLost("true")
	ids := column(processes, func(p Process) string { return p.ID })
	seen := column(processes, func(p Process) time.Time { return p.SeenAt })
	var returned int64
	if err := q.QueryRow(ctx, sql, refunded, ids, seen).Scan(&returned); err != nil {
		return 0, fmt.Errorf("returning jobs of ended processes: %w", err)
	}
	return returned, nil
}
