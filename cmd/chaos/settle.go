package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// settle waits until nothing is under way any more. What waits for its next
// try gets it now: nothing fails any more, so that every callback must arrive.
// It returns without an error when patience runs out, since the check tells
// what is missing.
func settle(ctx context.Context, d *database, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for {
		left, err := hasten(ctx, d)
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
func hasten(ctx context.Context, d *database) (left int, err error) {
	err = d.connect(ctx, func(conn *pgx.Conn) error {
		const due = `
			UPDATE river_job
			SET scheduled_at = now(), state = 'available'
			WHERE state IN ('available', 'retryable', 'scheduled') AND scheduled_at > now() + interval '1 second'`
		if _, err := conn.Exec(ctx, due); err != nil {
			return fmt.Errorf("hastening jobs: %w", err)
		}
		const sql = `
			SELECT (SELECT count(*) FROM requests WHERE callback_state IN ('waiting', 'pending'))
			     + (SELECT count(*) FROM river_job WHERE state NOT IN ('completed', 'cancelled', 'discarded'))`
		return conn.QueryRow(ctx, sql).Scan(&left)
	})
	return left, err
}
