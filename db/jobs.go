package db

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Jobs is what the jobs that one statement inserts have in common.
type Jobs struct {
	Kind        string
	Queue       string
	MaxAttempts int
	Process     string // River's client id of the process that runs the jobs born running
	Running     int    // how many of the jobs, the first ones, are born running there
}

// insertJobs writes the jobs of a statement that has a source with the columns
// id, of the request, job_id and position, counted from 1. River would take three
// round trips of its own for it (begin, insert, notify), while the request waits in
// this transaction for the id of its job. The columns that are left out have
// River's own defaults; a test holds the rows against the rows that River writes.
// Like River's, the notification reaches the workers when the transaction commits.
//
// A job that is born running has the columns that River's fetch would have given
// it, and nobody is notified of it: Jobs.Process knows that it runs there.
//
// due is the column or expression that says when the jobs are due. first is an
// expression that says whether a job may be taken up now, or is held back for its
// ordering key. A job in the future is available all the same, since fetching looks
// at the time itself: River would hold jobs in the state scheduled back for up to
// five seconds more.
//
// The parameters are Jobs.args.
func insertJobs(source, due, first string) string {
	return `jobs AS (
			INSERT INTO river_job (id, state, args, kind, queue, max_attempts, scheduled_at, attempt, attempted_at, attempted_by)
			SELECT job_id, state, jsonb_build_object('request_id', id), $1, $2, $3, ` + due + `,
			       CASE state WHEN 'running' THEN 1 ELSE 0 END,
			       CASE state WHEN 'running' THEN now() END,
			       CASE state WHEN 'running' THEN ARRAY[$4::text] END
			FROM ` + source + `
			CROSS JOIN LATERAL (
				SELECT CASE WHEN NOT ` + first + ` THEN 'pending'
				            WHEN position <= $5 THEN 'running'
				            ELSE 'available' END::river_job_state AS state
			) AS born
			WHERE job_id IS NOT NULL
			RETURNING id, state
		), notified AS MATERIALIZED (
			SELECT pg_notify(current_schema() || '.river_insert', json_build_object('queue', $2::text)::text)
			WHERE EXISTS (SELECT FROM jobs WHERE state = 'available')
		)`
}

// args are the parameters $1 to $5 of insertJobs.
func (j Jobs) args() []any { return []any{j.Kind, j.Queue, j.MaxAttempts, j.Process, j.Running} }

// completeJobs ends the jobs whose ids the array parameter holds, as River's
// completer does, and leaves alone what doesn't run any more. The ids are an array
// since a join may get a plan that reads the whole table, and the cast keeps the
// planner from River's index of states, where it would read all that runs. A job that
// was snoozed while its work went on elsewhere is charged the attempt after all.
func completeJobs(ids string, states ...string) string {
	return `completed AS (
			UPDATE river_job
			SET state = 'completed',
			    attempt = attempt + CASE state::text WHEN 'scheduled' THEN 1 ELSE 0 END,
			    finalized_at = now()
			WHERE id = ANY (` + ids + `::bigint[])
			  AND state::text IN ('` + strings.Join(states, "', '") + `')
		)`
}

// CompleteJob ends a job whose step was done before.
func CompleteJob(ctx context.Context, q Querier, id int64) error {
	sql := `WITH ` + completeJobs("$1", "running") + ` SELECT`
	if _, err := q.Exec(ctx, sql, []int64{id}); err != nil {
		return fmt.Errorf("completing a job: %w", err)
	}
	return nil
}

// WakeQueue lets the processes fetch from a queue at once.
func WakeQueue(ctx context.Context, q Querier, queue string) error {
	const sql = `SELECT pg_notify(current_schema() || '.river_insert', json_build_object('queue', $1::text)::text)`
	if _, err := q.Exec(ctx, sql, queue); err != nil {
		return fmt.Errorf("waking a queue: %w", err)
	}
	return nil
}

// CountUnfinished returns how many jobs of the queues are under way or due within
// the given time, up to most: no more rows than that are looked at, however many
// there are. What is due later is no load yet, nor is what is held back by an
// ordering key (in the state pending).
func CountUnfinished(ctx context.Context, q Querier, queues []string, within time.Duration, most int64) (int64, error) {
	// A part for each state, queue and priority, each a range of River's index for
	// fetching. With the order asked for, reading that index is the only cheap
	// plan, whatever the statistics say; without it, a table full of ended jobs
	// may be read from its start.
	const sql = `
		SELECT count(*)
		FROM (
			SELECT
			FROM unnest(ARRAY['available', 'running', 'retryable', 'scheduled']::river_job_state[]) AS unfinished (state)
			CROSS JOIN unnest($1::text[]) AS queues (name)
			CROSS JOIN generate_series(1, 4) AS priorities (priority)
			CROSS JOIN LATERAL (
				SELECT
				FROM river_job
				WHERE river_job.state = unfinished.state
				  AND river_job.queue = queues.name
				  AND river_job.priority = priorities.priority
				  AND river_job.scheduled_at <= now() + $2::interval
				ORDER BY scheduled_at, id
				LIMIT $3
			) AS part
			LIMIT $3
		) AS counted`
	var count int64
	if err := q.QueryRow(ctx, sql, queues, within, most).Scan(&count); err != nil {
		return 0, fmt.Errorf("counting unfinished jobs: %w", err)
	}
	return count, nil
}

// Destination is where a client has callbacks sent to.
type Destination struct {
	Client string
	Origin string // host, and port where it isn't the scheme's; empty without callbacks
}

// maxCounted is how many ids of jobs CountByDestination reads of each state and
// queue: index entries alone, of which Postgres reads two million a second.
const maxCounted = 2_000_000

// CountByDestination counts the requests that have a job of the queues that has
// not ended, whenever that is due, by client and destination. To look a job's
// request up costs many times what its index entry does. So where there are more
// jobs than sample, one in two is looked up, or one in four and so on, and stands
// for the others: a count of n is then off by about √(n × jobs ÷ sample). The same
// jobs are chosen each time, which keeps counts steady.
func CountByDestination(ctx context.Context, q Querier, queues []string, sample int) (map[Destination]int64, error) {
	// The limits of one row keep Postgres from joining by reading whole tables: each
	// is looked up. The arguments are another look-up, since a filter is applied to
	// index entries only where nothing else of the row is wanted.
	ids := fmt.Sprintf(`
			SELECT part.id
			FROM unnest(ARRAY['available', 'running', 'retryable', 'scheduled', 'pending']::river_job_state[]) AS unfinished (state)
			CROSS JOIN unnest($1::text[]) AS queues (name)
			CROSS JOIN LATERAL (
				SELECT id
				FROM river_job
				WHERE river_job.state = unfinished.state
				  AND river_job.queue = queues.name
				ORDER BY priority, scheduled_at, id
				LIMIT %d
			) AS part`, maxCounted)
	sql := `
		WITH share AS MATERIALIZED (
			SELECT power(2, ceil(log(2, greatest(1, count(*)::numeric / $2::integer))))::integer AS jobs
			FROM (` + ids + `
			) AS counted
		)
		SELECT request.client, split_part(coalesce(request.callback_url, ''), '/', 3) AS origin, count(*) * (SELECT jobs FROM share)
		FROM (` + ids + `
			WHERE hashint8(part.id) & ((SELECT jobs FROM share) - 1) = 0
		) AS chosen
		CROSS JOIN LATERAL (
			SELECT args
			FROM river_job
			WHERE river_job.id = chosen.id
			LIMIT 1
		) AS job
		CROSS JOIN LATERAL (
			SELECT client, callback_url
			FROM requests
			WHERE requests.id = (job.args ->> 'request_id')::uuid
			LIMIT 1
		) AS request
		GROUP BY request.client, origin`
	rows, err := q.Query(ctx, sql, queues, sample)
	if err != nil {
		return nil, fmt.Errorf("counting requests by destination: %w", err)
	}
	counts := map[Destination]int64{}
	var d Destination
	var count int64
	if _, err := pgx.ForEachRow(rows, []any{&d.Client, &d.Origin, &count}, func() error { counts[d] = count; return nil }); err != nil {
		return nil, fmt.Errorf("counting requests by destination: %w", err)
	}
	return counts, nil
}
