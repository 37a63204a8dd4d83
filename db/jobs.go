package db

import (
	"context"
	"fmt"
)

// CountUnfinished returns how many jobs of the queues have not ended, up to
// most: no more rows than that are looked at, however many there are.
func CountUnfinished(ctx context.Context, q Querier, queues []string, most int64) (int64, error) {
	// A part for each state and queue, each in the order of River's index for
	// fetching. With the order asked for, reading that index is the only cheap
	// plan, whatever the statistics say; without it, a table full of ended jobs
	// may be read from its start.
	const sql = `
		SELECT count(*)
		FROM (
			SELECT
			FROM unnest(ARRAY['available', 'running', 'retryable', 'scheduled']::river_job_state[]) AS unfinished (state)
			CROSS JOIN unnest($1::text[]) AS queues (name)
			CROSS JOIN LATERAL (
				SELECT
				FROM river_job
				WHERE river_job.state = unfinished.state
				  AND river_job.queue = queues.name
				ORDER BY priority, scheduled_at, id
				LIMIT $2
			) AS part
			LIMIT $2
		) AS counted`
	var count int64
	if err := q.QueryRow(ctx, sql, queues, most).Scan(&count); err != nil {
		return 0, fmt.Errorf("counting unfinished jobs: %w", err)
	}
	return count, nil
}
