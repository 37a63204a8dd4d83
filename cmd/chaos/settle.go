package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// settle waits until nothing is under way any more. A callback, or work, that waits for
// its next try gets it now: nothing fails any more, so that each must arrive.
// It returns without an error when patience runs out, since the check tells
// what is missing.
//
// Callbacks of requests whose input doesn't hold mine are storm's own, who
// may have left: it waits for those alone that were acknowledged.
func settle(ctx context.Context, d *database, mine string, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for {
		left, err := hasten(ctx, d, mine)
		if err != nil {
			return fmt.Errorf("waiting for what is under way: %w", err)
		}
		if left == 0 || time.Now().After(deadline) {
			return nil
		}
		wait(ctx, 500*time.Millisecond)
	}
}

// hasten returns how many requests have not come to their end, or jobs to
// theirs.
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
