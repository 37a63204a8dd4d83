package db

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Beat says that a working process lives, by the database's clock.
func Beat(ctx context.Context, q Querier, process string) error {
	const sql = `
		INSERT INTO processes (id, beat_at)
		VALUES ($1, now())
		ON CONFLICT (id) DO UPDATE
		SET beat_at = now()`
	if _, err := q.Exec(ctx, sql, process); err != nil {
		return fmt.Errorf("writing a heartbeat: %w", err)
	}
	return nil
}

// RemoveProcess says that a process has ended, unless the database still takes
// jobs to run there: then other processes give them back.
func RemoveProcess(ctx context.Context, q Querier, process string) error {
	const sql = `
		DELETE FROM processes
		WHERE id = $1
		  AND NOT EXISTS (
		      SELECT
		      FROM river_job
		      WHERE state = 'running'
		        AND attempted_by[array_upper(attempted_by, 1)] = $1
		  )`
	if _, err := q.Exec(ctx, sql, process); err != nil {
		return fmt.Errorf("removing a heartbeat: %w", err)
	}
	return nil
}

// ReturnJobs gives back the jobs that run in processes that have been silent for
// longer than silence, and returns how many those are. Jobs of the refunded kind
// get their attempt back. Several processes may do it at the same time.
//
// Only jobs that began longer ago than silence are given back: a process that was
// merely paused may have taken one up just now, before it said that it lives. One
// that is in no row isn't known to have ended, so its jobs are left to River's
// rescue.
func ReturnJobs(ctx context.Context, q Querier, refunded string, silence time.Duration) (int64, error) {
	sql := `
		WITH dead AS (
			SELECT id
			FROM processes
			WHERE beat_at < now() - $2::interval
		), ` + returnLost("attempted_at < now() - $2::interval")
	var returned int64
	if err := q.QueryRow(ctx, sql, refunded, silence).Scan(&returned); err != nil {
		return 0, fmt.Errorf("returning jobs of silent processes: %w", err)
	}
	return returned, nil
}

// returnLost gives back the jobs of the processes dead that meet a condition, and
// selects how many those are. $1 is the kind whose attempt is refunded.
//
// The ids as an array, and the order of River's index for fetching: without them, a
// plan made before anything is known may read the whole table. Where nobody is dead,
// nothing is read: with an old snapshot open, the dead rows of all jobs that ran
// stand among the running ones. The notification is River's, so that the jobs are
// fetched at once.
func returnLost(condition string) string {
	return `lost AS MATERIALIZED (
			SELECT id
			FROM river_job
			WHERE EXISTS (SELECT FROM dead)
			  AND state = 'running'
			  AND attempted_by[array_upper(attempted_by, 1)] = ANY (ARRAY(SELECT id FROM dead))
			  AND ` + condition + `
			ORDER BY queue, priority, scheduled_at, id
			FOR UPDATE SKIP LOCKED
		), returned AS (
			UPDATE river_job
			SET state = 'available',
			    scheduled_at = now(),
			    attempt = CASE kind WHEN $1 THEN attempt - 1 ELSE attempt END
			WHERE id = ANY (ARRAY(SELECT id FROM lost))
			RETURNING queue
		), notified AS MATERIALIZED (
			SELECT jobs, pg_notify(current_schema() || '.river_insert', json_build_object('queue', queue)::text)
			FROM (SELECT queue, count(*) AS jobs FROM returned GROUP BY queue) AS queues
		)
		SELECT coalesce(sum(jobs), 0)::bigint
		FROM notified`
}

// RunningJobs returns the jobs that a process took up longer ago than that, and
// that haven't ended.
func RunningJobs(ctx context.Context, q Querier, process string, longer time.Duration) ([]int64, error) {
	const sql = `
		SELECT id
		FROM river_job
		WHERE state = 'running'
		  AND attempted_by[array_upper(attempted_by, 1)] = $1
		  AND attempted_at < now() - $2::interval
		ORDER BY queue, priority, scheduled_at, id` // River's index for fetching
	rows, err := q.Query(ctx, sql, process, longer)
	if err != nil {
		return nil, fmt.Errorf("reading running jobs: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("reading running jobs: %w", err)
	}
	return ids, nil
}

// HeldJobs returns those of the jobs that run in a process that has not been silent
// for longer than silence, and that was given the job at most so long ago.
func HeldJobs(ctx context.Context, q Querier, ids []int64, silence, most time.Duration) ([]int64, error) {
	const sql = `
		SELECT river_job.id
		FROM river_job
		JOIN processes ON processes.id = attempted_by[array_upper(attempted_by, 1)]
		WHERE river_job.id = ANY ($1::bigint[])
		  AND beat_at >= now() - $2::interval
		  AND attempted_at >= now() - $3::interval`
	rows, err := q.Query(ctx, sql, ids, silence, most)
	if err != nil {
		return nil, fmt.Errorf("reading held jobs: %w", err)
	}
	held, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("reading held jobs: %w", err)
	}
	return held, nil
}

// ReturnStrays gives back those of the jobs that RunningJobs would still return,
// with their attempt, and returns how many those are.
func ReturnStrays(ctx context.Context, q Querier, process string, longer time.Duration, ids []int64) (int64, error) {
	const sql = `
		UPDATE river_job
		SET state = 'available',
		    scheduled_at = now(),
		    attempt = attempt - 1
		WHERE id = ANY ($3)
		  AND state = 'running'
		  AND attempted_by[array_upper(attempted_by, 1)] = $1
		  AND attempted_at < now() - $2::interval`
	tag, err := q.Exec(ctx, sql, process, longer, ids)
	if err != nil {
		return 0, fmt.Errorf("returning stray jobs: %w", err)
	}
	return tag.RowsAffected(), nil
}

// ForgetProcesses removes the processes that have been silent for longer than silence.
func ForgetProcesses(ctx context.Context, q Querier, silence time.Duration) error {
	const sql = `
		DELETE FROM processes
		WHERE beat_at < now() - $1::interval`
	if _, err := q.Exec(ctx, sql, silence); err != nil {
		return fmt.Errorf("forgetting silent processes: %w", err)
	}
	return nil
}
