package db

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgtype/zeronull"
)

// Attempt is a row of callback_attempts: a callback that was sent.
type Attempt struct {
	RequestID     uuid.UUID // zero in the results of ListAttempts
	Attempt       int       // numbered from 1 within the request
	StartedAt     time.Time // when the connection was asked for
	EndedAt       time.Time
	Outcome       string    // a word of jobs/webhook
	HTTPStatus    int       // 0 when there was no answer
	NextAttemptAt time.Time // zero after the last attempt

	// For operators only: a caller who saw these could scan our network.
	Address                      string // the dialled address
	Cause                        string
	DNS, Connect, TLS, FirstByte time.Duration // zero when the phase didn't happen
}

// attemptFields are the columns of callback_attempts but for the request and the number,
// which SettleCallbacks gives them.
var attemptFields = fields[Attempt]{
	written("started_at", "timestamptz", func(a Attempt) time.Time { return a.StartedAt }, func(a *Attempt) any { return &a.StartedAt }),
	written("ended_at", "timestamptz", func(a Attempt) time.Time { return a.EndedAt }, func(a *Attempt) any { return &a.EndedAt }),
	written("outcome", "text", func(a Attempt) string { return a.Outcome }, func(a *Attempt) any { return &a.Outcome }),
	written("http_status", "smallint", func(a Attempt) zeronull.Int2 { return zeronull.Int2(a.HTTPStatus) },
		func(a *Attempt) any { return &a.HTTPStatus }).by("", "coalesce(http_status, 0)"),
	written("next_attempt_at", "timestamptz", func(a Attempt) zeronull.Timestamptz { return zeronull.Timestamptz(a.NextAttemptAt) },
		func(a *Attempt) any { return (*zeronull.Timestamptz)(&a.NextAttemptAt) }),
	written("address", "text", func(a Attempt) zeronull.Text { return zeronull.Text(a.Address) },
		func(a *Attempt) any { return (*zeronull.Text)(&a.Address) }),
	written("cause", "text", func(a Attempt) zeronull.Text { return zeronull.Text(a.Cause) },
		func(a *Attempt) any { return (*zeronull.Text)(&a.Cause) }),
	phase("dns_us", func(a *Attempt) *time.Duration { return &a.DNS }),
	phase("connect_us", func(a *Attempt) *time.Duration { return &a.Connect }),
	phase("tls_us", func(a *Attempt) *time.Duration { return &a.TLS }),
	phase("first_byte_us", func(a *Attempt) *time.Duration { return &a.FirstByte }),
}

// shownAttemptFields are the columns of which callers are told.
var shownAttemptFields = attemptFields.having(func(f field[Attempt]) bool {
	return slices.Contains([]string{"started_at", "ended_at", "outcome", "http_status", "next_attempt_at"}, f.name)
})

// The SQL of the columns, which each settling would need; five parameters come before.
var (
	attemptNames  = attemptFields.names()
	attemptArrays = attemptFields.arrays(6)
)

// phase is a column with the microseconds that a part of an attempt took.
func phase(name string, of func(*Attempt) *time.Duration) field[Attempt] {
	return written(name, "integer", func(a Attempt) zeronull.Int4 { return zeronull.Int4(of(&a).Microseconds()) },
		func(a *Attempt) any { return of(a) }).by("", "coalesce("+name+", 0) * interval '1 microsecond'")
}

// Settlement is an attempt, and the state that it leaves its request's callback in: the
// final state, or pending when there is another try.
type Settlement struct {
	Attempt
	JobID int64 // of the job that sent it; the job from before a redelivery ends nothing
	State CallbackState
	Place Place // of the request
	Again bool  // the attempt may have been written before: with the same times it is not added again
}

// SettleCallbacks adds each attempt to its request's log and returns the attempts'
// numbers. Where an attempt ends a pending callback, the callback gets its final state,
// its job is completed, and the next callback of its ordering key is released. A callback
// that has ended stays as it is. It is one transaction of its own unless q is one.
//
// Two batches that log an attempt of the same request at the same time may take the same
// number. The later batch then fails with a violation of callback_attempts_pkey, and is
// to be tried again.
func SettleCallbacks(ctx context.Context, q Querier, settlements []Settlement) ([]int, error) {
	// position pairs the numbers with the attempts: Postgres returns rows in any order, and
	// a request may have two attempts.
	sql := `
		WITH made AS MATERIALIZED (
			SELECT *, CASE WHEN again THEN (
				SELECT attempt
				FROM callback_attempts
				WHERE request_id = made.request_id
				  AND started_at = made.started_at
				  AND ended_at = made.ended_at
				LIMIT 1
			) END AS logged_as
			FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::boolean[], ` + attemptArrays + `)
				WITH ORDINALITY AS made (request_id, state, job_id, again, ` + attemptNames + `, position)
		), ended AS (
			SELECT *, coalesce(
				logged_as,
				row_number() OVER (PARTITION BY request_id, logged_as IS NULL ORDER BY position)
				+ coalesce((SELECT max(attempt) FROM callback_attempts WHERE request_id = made.request_id AND attempt < 1000000000), 0) -- more were written by hand
			) AS attempt
			FROM made
		), inserted AS (
			INSERT INTO callback_attempts (request_id, attempt, ` + attemptNames + `)
			SELECT request_id, attempt, ` + attemptNames + `
			FROM ended
			WHERE logged_as IS NULL
			RETURNING 1
		), ending AS (
			-- One for each callback job, and sorted as in FinishRequests.
			SELECT DISTINCT ON (request_id, job_id) request_id, job_id, state, ended_at
			FROM ended
			WHERE state <> 'pending'
			ORDER BY request_id, job_id, position
		), settled AS (
			UPDATE requests
			SET callback_state = ending.state,
			    settled_at = ending.ended_at
			FROM ending
			WHERE requests.id = ending.request_id
			  AND requests.callback_job_id = ending.job_id
			  AND requests.callback_state = 'pending'
			RETURNING id, client, callback_url, callback_state, accepted_at
		), ` + completeJobs("$5", "'{}'", "running") + `, died AS (
			INSERT INTO dead_letters (client, request_id, callback_host, accepted_at)
			SELECT client, id, ` + callbackHost + `, accepted_at
			FROM settled
			WHERE callback_state = 'dead'
		)
		SELECT attempt
		FROM ended
		WHERE ` + wroteAll("inserted", "ended WHERE logged_as IS NULL") + `
		  AND ` + changedAll("settled", "ending", "$1", "$5") + `
		ORDER BY position`
	attempts := make([]Attempt, len(settlements))
	for i, s := range settlements {
		attempts[i] = s.Attempt
	}
	var numbers []int
	settle := statement{sql, append([]any{
		column(settlements, func(s Settlement) pgtype.UUID { return uuidOf(s.RequestID) }),
		column(settlements, func(s Settlement) string { return string(s.State) }),
		column(settlements, func(s Settlement) int64 { return s.JobID }),
		column(settlements, func(s Settlement) bool { return s.Again }),
		column(settlements, Settlement.endedJob),
	}, attemptFields.args(attempts)...), func(rows pgx.Rows) (err error) {
		numbers, err = pgx.CollectRows(rows, pgx.RowTo[int])
		return err
	}}
	places := placesOf(settlements, Settlement.ended)
	statements := slices.Concat(lockKeys(callbackLocks, places), []statement{settle}, leaveOrder(places))
	if err := runTogether(ctx, q, statements...); err != nil {
		return nil, fmt.Errorf("settling callbacks: %w", err)
	}
	return numbers, nil
}

// endedJob is the job that ends with the attempt, 0 where the callback goes on.
func (s Settlement) endedJob() int64 {
	if s.State == CallbackPending {
		return 0
	}
	return s.JobID
}

// ended is the place that leaves the order with the attempt, the zero Place if no place
// does.
func (s Settlement) ended() Place {
	if s.State == CallbackPending {
		return Place{}
	}
	return s.Place
}

// ListAttempts returns the latest attempts of a request in order, at most the given
// number of them, without the columns for operators.
func ListAttempts(ctx context.Context, q Querier, request uuid.UUID, most int) ([]Attempt, error) {
	return listAttempts(ctx, q, shownAttemptFields, request, most)
}

// InspectAttempts is ListAttempts with the columns for operators.
func InspectAttempts(ctx context.Context, q Querier, request uuid.UUID, most int) ([]Attempt, error) {
	return listAttempts(ctx, q, attemptFields, request, most)
}

func listAttempts(ctx context.Context, q Querier, of fields[Attempt], request uuid.UUID, most int) ([]Attempt, error) {
	sql := `
		SELECT attempt, ` + of.names() + `
		FROM (
			SELECT attempt, ` + of.reads() + `
			FROM callback_attempts
			WHERE request_id = $1
			ORDER BY attempt DESC
			LIMIT $2
		) AS latest
		ORDER BY attempt`
	rows, err := q.Query(ctx, sql, request, most)
	if err != nil {
		return nil, fmt.Errorf("listing callback attempts: %w", err)
	}
	attempts, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (a Attempt, err error) {
		return a, row.Scan(append([]any{&a.Attempt}, of.targets(&a)...)...)
	})
	if err != nil {
		return nil, fmt.Errorf("listing callback attempts: %w", err)
	}
	return attempts, nil
}

// CountAttempts returns how many attempts of a request since then had the given
// outcome.
func CountAttempts(ctx context.Context, q Querier, request uuid.UUID, since time.Time, outcome string) (int, error) {
	const sql = `
		SELECT count(*)
		FROM callback_attempts
		WHERE request_id = $1
		  AND started_at >= $2
		  AND outcome = $3`
	var count int
	if err := q.QueryRow(ctx, sql, request, since, outcome).Scan(&count); err != nil {
		return 0, fmt.Errorf("counting callback attempts: %w", err)
	}
	return count, nil
}

// LeaveAnswer keeps the answer of an attempt that can't be recorded with the job that made
// it, as long as the job runs.
func LeaveAnswer(ctx context.Context, q Querier, job int64, answer []byte) error {
	const sql = `
		UPDATE river_job
		SET metadata = metadata || jsonb_build_object('unrecorded', $2::jsonb)
		WHERE id = $1
		  AND state::text = 'running'`
	if _, err := q.Exec(ctx, sql, job, answer); err != nil {
		return fmt.Errorf("leaving an answer: %w", err)
	}
	return nil
}

// ForgetAnswer removes an answer that was left, once it is recorded.
func ForgetAnswer(ctx context.Context, q Querier, job int64) error {
	const sql = `
		UPDATE river_job
		SET metadata = metadata - 'unrecorded'
		WHERE id = $1`
	if _, err := q.Exec(ctx, sql, job); err != nil {
		return fmt.Errorf("forgetting an answer: %w", err)
	}
	return nil
}
