package db

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// sampleMost is how many rows of each kind a sample counts. A larger number would tell an
// operator nothing more.
const sampleMost = 100_000

// sampleFirst is how many of the oldest requests are checked for being overdue for removal,
// and how many of the next jobs for the age of their requests.
const sampleFirst = 500

// Sample is how much there is to do, by the database's clock.
type Sample struct {
	Jobs        map[string]int64 // unfinished jobs, by state
	Unfinished  time.Duration    // since when the oldest request with a step to come was accepted or, if later, to run; 0 for none
	DueCallback time.Duration    // since when the oldest due callback has been due, 0 for none
	DeadLetters int64
	Ended       time.Duration // since when the longest ended of the oldest requests has ended, 0 for none
}

// LiveStates are the states of jobs that have not ended.
var LiveStates = []string{"available", "pending", "retryable", "running", "scheduled"}

// TakeSample looks at index entries of live jobs and dead letters, and at a few rows.
func TakeSample(ctx context.Context, q Querier, queues []string, callbacks string) (Sample, error) {
	s := Sample{Jobs: map[string]int64{}}
	for _, state := range LiveStates {
		s.Jobs[state] = 0
	}
	batch := &pgx.Batch{} // a batch is one transaction
	// A plan for a small table outlives the table's growth, so reading a table from its
	// start is ruled out. Each part has an index in its order.
	batch.Queue("SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)")
	// A part for each state, queue and priority, each a range of River's index for fetching,
	// as CountUnfinished reads it. Ids rise with time: the job with the lowest id leads to
	// the oldest request, but for callbacks whose work took long, and for requests that run
	// later. So the next jobs are looked at, too.
	batch.Queue(`
		WITH live AS (
			SELECT states.name AS state, queues.name AS queue, count(*) AS jobs, min(id) AS oldest,
			       min(scheduled_at) FILTER (WHERE scheduled_at <= now() AND states.name IN ('available', 'retryable', 'scheduled')) AS due
			FROM unnest($1::text[]) AS states (name)
			CROSS JOIN unnest($2::text[]) AS queues (name)
			CROSS JOIN generate_series(1, 4) AS priorities (priority)
			CROSS JOIN LATERAL (
				SELECT id, scheduled_at
				FROM river_job
				WHERE river_job.state = states.name::river_job_state
				  AND river_job.queue = queues.name
				  AND river_job.priority = priorities.priority
				ORDER BY scheduled_at, id
				LIMIT $3
			) AS part
			GROUP BY 1, 2
		)
		SELECT live.state, live.queue, live.jobs, coalesce(`+ageOf("live.due")+`, '0'), coalesce(`+ageOf("greatest(accepted_at, run_at)")+`, '0')
		FROM live
		LEFT JOIN river_job ON river_job.id = live.oldest
		LEFT JOIN requests ON requests.id = `+requestOf("river_job.args"),
		LiveStates, queues, sampleMost).Query(func(rows pgx.Rows) error {
		var state, queue string
		var jobs int64
		var due, age time.Duration
		_, err := pgx.ForEachRow(rows, []any{&state, &queue, &jobs, &due, &age}, func() error {
			s.Jobs[state] += jobs
			s.Unfinished = max(s.Unfinished, age)
			if queue == callbacks {
				s.DueCallback = max(s.DueCallback, due)
			}
			return nil
		})
		return err
	})
	batch.Queue(`
		SELECT coalesce(max(`+ageOf("greatest(accepted_at, run_at)")+`), '0')
		FROM unnest($1::text[]) AS states (name)
		CROSS JOIN unnest($2::text[]) AS queues (name)
		CROSS JOIN generate_series(1, 4) AS priorities (priority)
		CROSS JOIN LATERAL (
			SELECT args
			FROM river_job
			WHERE river_job.state = states.name::river_job_state
			  AND river_job.queue = queues.name
			  AND river_job.priority = priorities.priority
			ORDER BY scheduled_at, id
			LIMIT $3
		) AS next
		CROSS JOIN LATERAL (
			SELECT accepted_at, run_at
			FROM requests
			WHERE requests.id = `+requestOf("next.args")+`
			LIMIT 1
		) AS request`, LiveStates, queues, sampleFirst).QueryRow(func(row pgx.Row) error {
		var age time.Duration
		err := row.Scan(&age)
		s.Unfinished = max(s.Unfinished, age)
		return err
	})
	batch.Queue("SELECT count(*) FROM (SELECT FROM dead_letters ORDER BY client, request_id LIMIT $1) AS counted", sampleMost).QueryRow(func(row pgx.Row) error {
		return row.Scan(&s.DeadLetters)
	})
	batch.Queue(`
		SELECT coalesce(max(`+ageOf("coalesce(settled_at, finished_at)")+`), '0')
		FROM (SELECT status, callback_state, settled_at, finished_at FROM requests ORDER BY id LIMIT $1) AS first
		WHERE status <> 'accepted'
		  AND callback_state IS DISTINCT FROM 'pending'
		  AND callback_state IS DISTINCT FROM 'dead'`, sampleFirst).QueryRow(func(row pgx.Row) error {
		return row.Scan(&s.Ended)
	})
	if err := q.SendBatch(ctx, batch).Close(); err != nil {
		return Sample{}, fmt.Errorf("sampling jobs and requests: %w", err)
	}
	return s, nil
}
