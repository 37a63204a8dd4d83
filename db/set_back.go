package db

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// minSetBack is the least by which the database's clock must be set back for times to be
// moved. By less, everything waits longer by as much.
const minSetBack = 10 * time.Second

// SetTimesBack moves the times that the database's clock wrote before somebody set it back,
// and that are still ahead of it. Otherwise everything that waits would wait longer by as
// much: jobs that are queued, retries, leases, and the jobs of processes that died. It
// returns the number of jobs that wait less. A request with a time of its own (RunAt) is due
// at that time by the new clock. Rows that another transaction has locked are about to get
// another time.
func SetTimesBack(ctx context.Context, tx pgx.Tx, by time.Duration) (jobs int64, err error) {
	if _, err := tx.Exec(ctx, "SET LOCAL statement_timeout = 0"); err != nil { // a million jobs take half a minute
		return 0, fmt.Errorf("moving times: %w", err)
	}
	waiting := `
		UPDATE river_job
		SET scheduled_at = scheduled_at - $1::interval
		WHERE id = ANY (ARRAY(
			SELECT id
			FROM river_job
			WHERE state IN ('available', 'scheduled', 'retryable')
			  AND scheduled_at > now()
			  AND NOT EXISTS (
			      SELECT
			      FROM requests
			      WHERE requests.id = ` + requestOf("args") + `
			        AND run_at = scheduled_at
			  )
			FOR UPDATE SKIP LOCKED
		))`
	tag, err := tx.Exec(ctx, waiting, by)
	if err != nil {
		return 0, fmt.Errorf("moving the times of jobs that wait: %w", err)
	}
	for _, sql := range []string{
		// The heartbeat gives back what has been running for long.
		`UPDATE river_job
		SET attempted_at = attempted_at - $1::interval
		WHERE id = ANY (ARRAY(
			SELECT id
			FROM river_job
			WHERE state = 'running'
			  AND attempted_at > now()
			FOR UPDATE SKIP LOCKED
		))`,
		`UPDATE processes
		SET beat_at = beat_at - $1::interval
		WHERE beat_at > now()`,
		`UPDATE locked_processes
		SET locked_at = locked_at - $1::interval
		WHERE locked_at > now()`,
		// A service may have renewed its lease by the new clock.
		`UPDATE work_leases
		SET lease_until = CASE WHEN lease_until < now() + $1::interval - interval '10 seconds' THEN lease_until ELSE lease_until - $1::interval END,
		    heard_at = least(heard_at, now()),
		    progress_at = least(progress_at, now())`,
		`UPDATE ` + string(OldRequests) + `
		SET next_at = next_at - $1::interval
		WHERE next_at > now()`,
		`UPDATE ` + string(OldDeadLetters) + `
		SET next_at = next_at - $1::interval
		WHERE next_at > now()`,
		`UPDATE callback_origins
		SET closed_until = closed_until - $1::interval
		WHERE closed_until > now()`,
		// A leader that died would lead until then; a living leader says so every few seconds.
		`DELETE FROM river_leader
		WHERE expires_at - $1::interval < now()`,
	} {
		if _, err := tx.Exec(ctx, sql, by); err != nil {
			return 0, fmt.Errorf("moving times: %w", err)
		}
	}
	return tag.RowsAffected(), nil
}
