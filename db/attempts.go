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

// Attempt is a row of callback_attempts: one callback that was sent.
type Attempt struct {
	RequestID     uuid.UUID // zero in what ListAttempts returns
	Attempt       int       // numbered from 1 within the request
	StartedAt     time.Time // when the connection was asked for
	EndedAt       time.Time
	Outcome       string    // one of the words of jobs/webhook
	HTTPStatus    int       // 0 when there was no answer
	NextAttemptAt time.Time // zero when this was the last one

	// For operators only: a caller who saw these could scan our network.
	Address                      string // what was dialled
	Cause                        string
	DNS, Connect, TLS, FirstByte time.Duration // zero when the phase didn't happen
}

// Settlement is an attempt that was made and what it means for its request's
// callback: the state in which it ends, or pending when there is another try.
type Settlement struct {
	Attempt
	JobID int64 // that sent it: one from before a redelivery ends nothing
	State CallbackState
	Place Place // of the request
	Again bool  // it may have been written before: an attempt with its times is not added again
}

// SettleCallbacks adds each attempt to its request's log, ends the callbacks
// that are pending where the attempt ended them, and returns the attempts'
// numbers. It completes the jobs of callbacks that the attempts ended. What has
// ended stays as it is, so that a step that runs again does no harm. Where the attempt
// ended the callback of a request with an ordering key, the next of the key may leave.
// It is one transaction of its own unless q is one.
//
// Two batches that log an attempt of the same request at the same time may take
// the same number: the later one then fails with a violation of
// callback_attempts_pkey and is to be tried again.
func SettleCallbacks(ctx context.Context, q Querier, settlements []Settlement) ([]int, error) {
	// position pairs the numbers with the attempts: Postgres promises no order of
	// what is returned, and two attempts may be of one request.
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
			FROM unnest(
				$1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::smallint[], $7::timestamptz[],
				$8::text[], $9::text[], $10::integer[], $11::integer[], $12::integer[], $13::integer[], $14::bigint[], $15::boolean[]
			) WITH ORDINALITY AS made (
				request_id, state, started_at, ended_at, outcome, http_status, next_attempt_at,
				address, cause, dns_us, connect_us, tls_us, first_byte_us, job_id, again, position
			)
		), ended AS (
			SELECT *, coalesce(
				logged_as,
				row_number() OVER (PARTITION BY request_id, logged_as IS NULL ORDER BY position)
				+ coalesce((SELECT max(attempt) FROM callback_attempts WHERE request_id = made.request_id), 0)
			) AS attempt
			FROM made
		), inserted AS (
			INSERT INTO callback_attempts (
				request_id, attempt, started_at, ended_at, outcome, http_status, next_attempt_at,
				address, cause, dns_us, connect_us, tls_us, first_byte_us
			)
			SELECT request_id, attempt, started_at, ended_at, outcome, http_status, next_attempt_at,
			       address, cause, dns_us, connect_us, tls_us, first_byte_us
			FROM ended
			WHERE logged_as IS NULL
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
		), ` + completeJobs("$16", "running") + `, died AS (
			INSERT INTO dead_letters (client, request_id, callback_host, accepted_at)
			SELECT client, id, ` + callbackHost + `, accepted_at
			FROM settled
			WHERE callback_state = 'dead'
		)
		SELECT attempt
		FROM ended
		ORDER BY position`
	var numbers []int
	settle := statement{sql, []any{
		column(settlements, func(s Settlement) pgtype.UUID { return uuidOf(s.RequestID) }),
		column(settlements, func(s Settlement) string { return string(s.State) }),
		column(settlements, func(s Settlement) time.Time { return s.StartedAt }),
		column(settlements, func(s Settlement) time.Time { return s.EndedAt }),
		column(settlements, func(s Settlement) string { return s.Outcome }),
		column(settlements, func(s Settlement) zeronull.Int2 { return zeronull.Int2(s.HTTPStatus) }),
		column(settlements, func(s Settlement) zeronull.Timestamptz { return zeronull.Timestamptz(s.NextAttemptAt) }),
		column(settlements, func(s Settlement) zeronull.Text { return zeronull.Text(s.Address) }),
		column(settlements, func(s Settlement) zeronull.Text { return zeronull.Text(s.Cause) }),
		column(settlements, func(s Settlement) zeronull.Int4 { return microseconds(s.DNS) }),
		column(settlements, func(s Settlement) zeronull.Int4 { return microseconds(s.Connect) }),
		column(settlements, func(s Settlement) zeronull.Int4 { return microseconds(s.TLS) }),
		column(settlements, func(s Settlement) zeronull.Int4 { return microseconds(s.FirstByte) }),
		column(settlements, func(s Settlement) int64 { return s.JobID }),
		column(settlements, func(s Settlement) bool { return s.Again }),
		column(settlements, Settlement.endedJob),
	}, func(rows pgx.Rows) (err error) {
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

// endedJob is the job that ends with the attempt, 0 where it goes on.
func (s Settlement) endedJob() int64 {
	if s.State == CallbackPending {
		return 0
	}
	return s.JobID
}

// ended is the place that the attempt makes free, if any.
func (s Settlement) ended() Place {
	if s.State == CallbackPending {
		return Place{}
	}
	return s.Place
}

func microseconds(d time.Duration) zeronull.Int4 { return zeronull.Int4(d.Microseconds()) }

// ListAttempts returns the latest attempts of a request in order, at most the
// given number of them, without what is for operators only.
func ListAttempts(ctx context.Context, q Querier, request uuid.UUID, most int) ([]Attempt, error) {
	const sql = `
		SELECT attempt, started_at, ended_at, outcome, http_status, next_attempt_at
		FROM (
			SELECT attempt, started_at, ended_at, outcome, http_status, next_attempt_at
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
		var status zeronull.Int2
		err = row.Scan(&a.Attempt, &a.StartedAt, &a.EndedAt, &a.Outcome, &status,
			(*zeronull.Timestamptz)(&a.NextAttemptAt))
		a.HTTPStatus = int(status)
		return a, err
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
