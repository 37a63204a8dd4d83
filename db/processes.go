package db

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Beat notes that a working process lives, and whether it is in local mode. It returns the
// time of the beat, by the database's clock.
func Beat(ctx context.Context, q Querier, process string, local bool) (at time.Time, err error) {
	const sql = `
		INSERT INTO processes (id, beat_at, is_local)
		VALUES ($1, now(), $2)
		ON CONFLICT (id) DO UPDATE
		SET beat_at = now()
		RETURNING beat_at`
	if err := q.QueryRow(ctx, sql, process, local).Scan(&at); err != nil {
		return time.Time{}, fmt.Errorf("writing a heartbeat: %w", err)
	}
	return at, nil
}

// FindOtherMode returns a living process that is in local mode where local is false, and the
// other way round; empty for none.
func FindOtherMode(ctx context.Context, q Querier, local bool) (process string, err error) {
	const sql = `
		SELECT coalesce(max(id), '')
		FROM processes
		WHERE is_local <> $1
		  AND beat_at BETWEEN now() - $2::interval AND now() + $2::interval`
	if err := q.QueryRow(ctx, sql, local, LostAfter).Scan(&process); err != nil {
		return "", fmt.Errorf("looking for processes in another mode: %w", err)
	}
	return process, nil
}

// RemoveProcess notes that a process has ended, unless jobs still run there by the
// database: then other processes find it dead, and give those jobs back.
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

// ReturnJobs gives back the jobs of processes that at the time of a beat had been silent for
// longer than silence, and returns how many jobs that were. A process whose beat was written
// by hand, a century ahead, counts as silent. Jobs of the refunded kind get their
// attempt back. Several processes may do it at the same time. The database's clock may
// have been set since the beat, which makes nobody silent.
//
// Only jobs that began longer ago than silence are given back: a process that was merely
// paused may have taken a job up just now, before its next heartbeat. A process without a
// row isn't known to have ended: see StrayJobs.
func ReturnJobs(ctx context.Context, q Querier, refunded string, beat time.Time, silence time.Duration) (int64, error) {
	sql := `
		WITH dead AS (
			SELECT id
			FROM processes
			WHERE beat_at NOT BETWEEN $2 AND $3
		), ` + returnLost("attempted_at < $2")
	var returned int64
	if err := q.QueryRow(ctx, sql, refunded, beat.Add(-silence), beat.Add(century)).Scan(&returned); err != nil {
		return 0, fmt.Errorf("returning jobs of silent processes: %w", err)
	}
	return returned, nil
}

// returnLost gives back the jobs of the processes in dead that meet a condition, and
// selects their number. $1 is the kind whose attempt is refunded.
//
// The ids are an array, in the order of River's index for fetching: otherwise a plan made
// before the arguments are known may read the whole table. Where no process is dead,
// nothing is read: with an old snapshot open, the dead rows of all jobs that ran stand
// among the running ones. The notification is River's, so that the jobs are fetched at
// once.
//
// Work that takes its process down takes the other jobs of the process with it. If all of
// them always ran again together, each would be given up as the cause. So a job that was
// lost three times comes back at a random time, after 8 s at most, and twice as long each
// time, after 5 minutes at most.
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
			    scheduled_at = now() + CASE WHEN kind <> $1 AND ` + crashes + ` >= 3 THEN random() * least(2 ^ least(` + crashes + `, 9), 300) ELSE 0 END * interval '1 second',
			    attempt = CASE kind WHEN $1 THEN greatest(attempt - 1, 0) ELSE attempt END
			WHERE id = ANY (ARRAY(SELECT id FROM lost))
			RETURNING queue
		), notified AS MATERIALIZED (
			SELECT jobs, pg_notify(current_schema() || '.river_insert', json_build_object('queue', queue)::text)
			FROM (SELECT queue, count(*) AS jobs FROM returned GROUP BY queue) AS queues
		)
		SELECT coalesce(sum(jobs), 0)::bigint
		FROM notified`
}

// crashes is how many attempts of a job were charged for runs that never ended. A charged run that
// ends with work not done, a fault or a panic leaves an error in the job's row.
const crashes = `(attempt - (SELECT count(*) FROM unnest(errors) AS ended WHERE ended ->> 'error' NOT LIKE '` + WorkUncharged + `%'))`

// strayJobs are the unfinished jobs that the process $1 took up longer ago than $2, or a
// process that has no row.
const strayJobs = `
		      state = 'running'
		  AND attempted_at < now() - $2::interval
		  AND (attempted_by[array_upper(attempted_by, 1)] = $1
		       OR NOT EXISTS (SELECT FROM processes WHERE id = attempted_by[array_upper(attempted_by, 1)]))`

// StrayJobs returns the unfinished jobs that the process, or a process without a row, took up
// longer ago than longer. A process without a row doesn't live: a process that lives writes it
// again.
func StrayJobs(ctx context.Context, q Querier, process string, longer time.Duration) ([]int64, error) {
	const sql = `
		SELECT id
		FROM river_job
		WHERE ` + strayJobs + `
		ORDER BY queue, priority, scheduled_at, id` // River's index for fetching
	return readColumn[int64](ctx, q, "reading running jobs", sql, process, longer)
}

// JobsElsewhere returns which of the jobs run in another process than the given process.
func JobsElsewhere(ctx context.Context, q Querier, process string, ids []int64) ([]int64, error) {
	const sql = `
		SELECT id
		FROM river_job
		WHERE id = ANY ($1::bigint[])
		  AND state::text = 'running'
		  AND attempted_by[array_upper(attempted_by, 1)] <> $2`
	return readColumn[int64](ctx, q, "reading jobs of other processes", sql, ids, process)
}

// ReturnStrays gives back the jobs that StrayJobs would still return, with their
// attempt, and returns how many jobs that were.
func ReturnStrays(ctx context.Context, q Querier, process string, longer time.Duration, ids []int64) (int64, error) {
	const sql = `
		UPDATE river_job
		SET state = 'available',
		    scheduled_at = now(),
		    attempt = greatest(attempt - 1, 0)
		WHERE id = ANY ($3)
		  AND ` + strayJobs
	tag, err := q.Exec(ctx, sql, process, longer, ids)
	if err != nil {
		return 0, fmt.Errorf("returning stray jobs: %w", err)
	}
	return tag.RowsAffected(), nil
}

// ForgetProcesses removes the processes that at the time of a beat had been silent for
// longer than silence.
func ForgetProcesses(ctx context.Context, q Querier, beat time.Time, silence time.Duration) error {
	const sql = `
		DELETE FROM processes
		WHERE beat_at NOT BETWEEN $1 AND $2`
	if _, err := q.Exec(ctx, sql, beat.Add(-silence), beat.Add(century)); err != nil {
		return fmt.Errorf("forgetting silent processes: %w", err)
	}
	return nil
}

// anyoneWaits tells whether a job of a request is due, or was left running.
func anyoneWaits(ctx context.Context, q Querier) (bool, error) {
	const sql = `
		SELECT EXISTS (
			SELECT
			FROM river_job
			WHERE state IN ('available', 'running', 'retryable', 'scheduled')
			  AND queue IN ('work', 'callback')
			  AND priority IN (1, 2, 3, 4) -- all that there are, so that the index finds what is due
			  AND scheduled_at < now()
		)`
	var waits bool
	if err := q.QueryRow(ctx, sql).Scan(&waits); err != nil {
		return false, fmt.Errorf("looking for jobs that wait: %w", err)
	}
	return waits, nil
}

// PausedQueues returns the queues that somebody paused, as by River UI.
func PausedQueues(ctx context.Context, q Querier) ([]string, error) {
	const sql = `
		SELECT name
		FROM river_queue
		WHERE paused_at IS NOT NULL
		ORDER BY name`
	return readColumn[string](ctx, q, "reading which queues are paused", sql)
}

// WorkingProcess is a working process and the age of its heartbeat.
type WorkingProcess struct {
	ID     string
	Silent time.Duration // since its last heartbeat, by the database's clock
}

// LostAfter is the silence after which the jobs of a process go to other processes.
const LostAfter = 10 * time.Second

// Lost tells that a process has been silent for too long.
func (p WorkingProcess) Lost() bool { return p.Silent > LostAfter }

// NobodyWorks tells that a job of a request is due, or was left running, and none of the
// listed processes works.
func NobodyWorks(ctx context.Context, q Querier, processes []WorkingProcess) (bool, error) {
	if slices.ContainsFunc(processes, func(p WorkingProcess) bool { return !p.Lost() }) {
		return false, nil
	}
	return anyoneWaits(ctx, q)
}

// ListProcesses returns the processes that have not ended.
func ListProcesses(ctx context.Context, q Querier) ([]WorkingProcess, error) {
	sql := `
		SELECT id, coalesce(` + ageOf("beat_at") + `, '1 year')
		FROM processes
		ORDER BY id
		LIMIT 1000`
	rows, err := q.Query(ctx, sql)
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	processes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[WorkingProcess])
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	return processes, nil
}
