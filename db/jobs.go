package db

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype/zeronull"
)

// Jobs are the columns that all jobs of a statement have in common.
type Jobs struct {
	Kind        string
	Queue       string
	MaxAttempts int
	Process     string // River's client id of the process that runs the jobs born running
	Running     int    // how many of the jobs, from the first on, are born running there
}

// insertJobs writes a job for each row of source that has a job_id. Its columns are id (the
// request's), job_id and position (from 1). River would take three round trips of its own
// (begin, insert, notify), while the request waits in this transaction for the id of its
// job. Columns that are left out have River's own defaults; a test compares the rows with
// River's. Like River's, the notification reaches the workers when the transaction commits.
//
// A job that is born running has the columns that River's fetch would have given
// it, and nobody is notified of it: Jobs.Process knows that it runs there.
//
// due is the expression for when a job is due. first is the expression for whether a job is the
// first of its ordering key; any other job is held back. A job that is due later is available all
// the same, since a fetch looks at the time itself. In the state scheduled it would be up to five
// seconds late.
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

// completeJobs ends the jobs with the ids of an array parameter that are in one of the
// states, as River's completer does. The ids are an array since a join may get a plan
// that reads the whole table. The cast keeps the planner from River's index of states,
// where it would read all running jobs. Jobs that are asleep, since their work went on
// elsewhere, are charged the attempt after all.
func completeJobs(ids, asleep string, states ...string) string {
	return `completed AS (
			UPDATE river_job
			SET state = 'completed',
			    attempt = attempt + CASE WHEN id = ANY (` + asleep + `::bigint[]) AND state::text <> 'running' THEN 1 ELSE 0 END,
			    finalized_at = now()
			WHERE id = ANY (` + ids + `::bigint[])
			  AND state::text IN ('` + strings.Join(states, "', '") + `')
			RETURNING 1
		)`
}

// requestOf is the id of the request that a job is about, by the job's arguments. It is null where
// they name none: the job is somebody else's, or was changed by hand.
func requestOf(args string) string {
	named := args + ` ->> 'request_id'`
	return `CASE WHEN ` + named + ` ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN (` + named + `)::uuid END`
}

// CompleteJob ends a job whose step was done before.
func CompleteJob(ctx context.Context, q Querier, id int64) error {
	sql := `WITH ` + completeJobs("$1", "'{}'", "running") + ` SELECT`
	if _, err := q.Exec(ctx, sql, []int64{id}); err != nil {
		return fmt.Errorf("completing a job: %w", err)
	}
	return nil
}

// MendJobs puts right the jobs of a queue that can't be fetched since somebody changed them by
// hand, and returns how many. They have a number of attempts that can't grow, or lists that River
// can't read, with a null or of several dimensions. A fetch that meets one of them fails with all
// its other jobs.
func MendJobs(ctx context.Context, q Querier, queue string) (int64, error) {
	list := func(column, empty string) string {
		return `CASE WHEN array_ndims(` + column + `) > 1 THEN ` + empty + ` ELSE array_remove(` + column + `, NULL) END`
	}
	sql := `
		WITH read AS MATERIALIZED (
			SELECT id,
			       CASE WHEN attempt < 32767 THEN attempt ELSE 0 END AS attempt,
			       ` + list("attempted_by", "NULL") + ` AS attempted_by,
			       ` + list("errors", "NULL") + ` AS errors,
			       ` + list("tags", "'{}'") + ` AS tags
			FROM river_job
			WHERE state IN ('available', 'running')
			  AND queue = $1
			ORDER BY priority, scheduled_at, id -- River's index for fetching
		)
		UPDATE river_job
		SET attempt = read.attempt,
		    attempted_by = read.attempted_by,
		    errors = read.errors,
		    tags = read.tags
		FROM read
		WHERE river_job.id = read.id
		  AND river_job.state IN ('available', 'running')
		  AND (river_job.attempt, river_job.attempted_by, river_job.errors, river_job.tags)
		      IS DISTINCT FROM (read.attempt, read.attempted_by, read.errors, read.tags)`
	tag, err := q.Exec(ctx, sql, queue)
	if err != nil {
		return 0, fmt.Errorf("mending jobs that can't be fetched: %w", err)
	}
	return tag.RowsAffected(), nil
}

// WakeQueue lets the processes fetch from a queue at once.
func WakeQueue(ctx context.Context, q Querier, queue string) error {
	const sql = `SELECT pg_notify(current_schema() || '.river_insert', json_build_object('queue', $1::text)::text)`
	if _, err := q.Exec(ctx, sql, queue); err != nil {
		return fmt.Errorf("waking a queue: %w", err)
	}
	return nil
}

// CountUnfinished counts the jobs of the queues that are under way or due within the given
// time, up to most, and reads no more rows than that. Jobs that are due later are no load
// yet, nor are jobs that an ordering key holds back (in the state pending).
func CountUnfinished(ctx context.Context, q Querier, queues []string, within time.Duration, most int64) (int64, error) {
	// A part for each state, queue and priority, each a range of River's index for fetching.
	// With ORDER BY, reading that index is the only cheap plan, for any statistics; without
	// it, a table full of ended jobs may be read from its start.
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

// Destination is a host that a client has callbacks sent to.
type Destination struct {
	Client string
	Host   string // with the port where it isn't the scheme's; empty without callbacks
}

// maxCounted is how many ids of jobs CountByDestination reads of each state and
// queue: index entries alone, of which Postgres reads two million a second.
const maxCounted = 2_000_000

// CountByDestination counts the requests with an unfinished job of the queues, whenever the job is
// due, by client and destination. Looking up a job's request costs many times as much as reading
// its index entry. So where there are more jobs than sample, every second job is looked up, or
// every fourth and so on, and stands for the jobs skipped. A count of n is then off by about √(n ×
// jobs ÷ sample). The same jobs are chosen each time, which keeps counts steady.
func CountByDestination(ctx context.Context, q Querier, queues []string, sample int) (map[Destination]int64, error) {
	// LIMIT 1 keeps Postgres from joining by reading whole tables: each row is looked up.
	// The arguments are a separate look-up, since Postgres filters by index entries only
	// where it reads no other column of the row.
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
		SELECT request.client, split_part(coalesce(request.callback_url, ''), '/', 3) AS host, count(*) * (SELECT jobs FROM share)
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
			WHERE requests.id = ` + requestOf("job.args") + `
			LIMIT 1
		) AS request
		GROUP BY request.client, host`
	rows, err := q.Query(ctx, sql, queues, sample)
	if err != nil {
		return nil, fmt.Errorf("counting requests by destination: %w", err)
	}
	counts := map[Destination]int64{}
	var d Destination
	var count int64
	if _, err := pgx.ForEachRow(rows, []any{&d.Client, &d.Host, &count}, func() error { counts[d] = count; return nil }); err != nil {
		return nil, fmt.Errorf("counting requests by destination: %w", err)
	}
	return counts, nil
}

// JobState is where a job of River stands.
type JobState struct {
	ID          int64
	Kind        string
	State       string
	Attempt     int
	MaxAttempts int
	Process     string // of the latest attempt; empty before the first
	AttemptedAt time.Time
	ScheduledAt time.Time
	FinalizedAt time.Time
	Errors      int
}

// InspectJobs returns the jobs with these ids that exist, in the order of their ids.
func InspectJobs(ctx context.Context, q Querier, ids []int64) ([]JobState, error) {
	const sql = `
		SELECT id, kind, state::text, attempt, max_attempts, attempted_by[array_upper(attempted_by, 1)],
		       attempted_at, scheduled_at, finalized_at, coalesce(array_length(errors, 1), 0)
		FROM river_job
		WHERE id = ANY ($1::bigint[])
		ORDER BY id`
	rows, err := q.Query(ctx, sql, ids)
	if err != nil {
		return nil, fmt.Errorf("inspecting jobs: %w", err)
	}
	jobs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (j JobState, err error) {
		err = row.Scan(&j.ID, &j.Kind, &j.State, &j.Attempt, &j.MaxAttempts, (*zeronull.Text)(&j.Process),
			(*zeronull.Timestamptz)(&j.AttemptedAt), &j.ScheduledAt, (*zeronull.Timestamptz)(&j.FinalizedAt), &j.Errors)
		return j, err
	})
	if err != nil {
		return nil, fmt.Errorf("inspecting jobs: %w", err)
	}
	return jobs, nil
}
