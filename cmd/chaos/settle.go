package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// settle waits until no request is under way. A callback, or work, that waits for its
// next try runs now: no fault is left, so each must succeed. settle returns without an
// error when patience runs out, since the check names the missing callbacks. Callbacks of
// requests whose input doesn't hold mine are storm's, which may have left: settle waits
// only for its acknowledged requests.
func settle(ctx context.Context, d *database, mine string, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for {
		left, err := hasten(ctx, d, mine)
		if err != nil {
			return fmt.Errorf("waiting for calls under way: %w", err)
		}
		if left == 0 || time.Now().After(deadline) {
			return nil
		}
		wait(ctx, 500*time.Millisecond)
	}
}

// hasten returns how many requests or jobs have not ended.
func hasten(ctx context.Context, d *database, mine string) (left int, err error) {
	err = d.connect(ctx, func(conn *pgx.Conn) error {
		const due = `
			UPDATE river_job
			SET scheduled_at = now(), state = 'available'
			WHERE kind IN ('work', 'callback') AND state IN ('available', 'retryable', 'scheduled') AND scheduled_at > now() + interval '1 second'`
		if _, err := conn.Exec(ctx, due); err != nil {
			return fmt.Errorf("hastening jobs: %w", err)
		}
		const sql = `
			WITH storms AS (
				SELECT callback_job_id
				FROM requests
				WHERE callback_state = 'pending'
				  AND strpos(input::text, $1) = 0
			)
			SELECT (SELECT count(*) FROM requests WHERE callback_state IN ('waiting', 'pending'))
			     + (SELECT count(*) FROM river_job
			        WHERE state NOT IN ('completed', 'cancelled', 'discarded')
			          AND id NOT IN (SELECT callback_job_id FROM storms))
			     - (SELECT count(*) FROM storms)`
		return conn.QueryRow(ctx, sql, mine).Scan(&left)
	})
	return left, err
}
