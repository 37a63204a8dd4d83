package db

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
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

// InsertAttempts adds each attempt to its request's log and returns their
// numbers. The caller holds the requests' row locks (LockRequests), so that two
// runs of the same job can't take the same number.
func InsertAttempts(ctx context.Context, tx pgx.Tx, attempts []Attempt) ([]int, error) {
	// position pairs the numbers with the attempts: Postgres promises no order of
	// what is returned, and two attempts may be of one request.
	const sql = `
		WITH numbered AS (
			SELECT ended.*,
			       row_number() OVER (PARTITION BY request_id ORDER BY position)
			       + coalesce((SELECT max(attempt) FROM callback_attempts WHERE request_id = ended.request_id), 0) AS attempt
			FROM unnest(
				$1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::text[], $5::smallint[], $6::timestamptz[],
				$7::text[], $8::text[], $9::integer[], $10::integer[], $11::integer[], $12::integer[]
			) WITH ORDINALITY AS ended (
				request_id, started_at, ended_at, outcome, http_status, next_attempt_at,
				address, cause, dns_us, connect_us, tls_us, first_byte_us, position
			)
		), inserted AS (
			INSERT INTO callback_attempts (
				request_id, attempt, started_at, ended_at, outcome, http_status, next_attempt_at,
				address, cause, dns_us, connect_us, tls_us, first_byte_us
			)
			SELECT request_id, attempt, started_at, ended_at, outcome, http_status, next_attempt_at,
			       address, cause, dns_us, connect_us, tls_us, first_byte_us
			FROM numbered
		)
		SELECT attempt
		FROM numbered
		ORDER BY position`
	rows, err := tx.Query(ctx, sql,
		column(attempts, func(a Attempt) uuid.UUID { return a.RequestID }),
		column(attempts, func(a Attempt) time.Time { return a.StartedAt }),
		column(attempts, func(a Attempt) time.Time { return a.EndedAt }),
		column(attempts, func(a Attempt) string { return a.Outcome }),
		column(attempts, func(a Attempt) zeronull.Int2 { return zeronull.Int2(a.HTTPStatus) }),
		column(attempts, func(a Attempt) zeronull.Timestamptz { return zeronull.Timestamptz(a.NextAttemptAt) }),
		column(attempts, func(a Attempt) zeronull.Text { return zeronull.Text(a.Address) }),
		column(attempts, func(a Attempt) zeronull.Text { return zeronull.Text(a.Cause) }),
		column(attempts, func(a Attempt) zeronull.Int4 { return microseconds(a.DNS) }),
		column(attempts, func(a Attempt) zeronull.Int4 { return microseconds(a.Connect) }),
		column(attempts, func(a Attempt) zeronull.Int4 { return microseconds(a.TLS) }),
		column(attempts, func(a Attempt) zeronull.Int4 { return microseconds(a.FirstByte) }))
	if err != nil {
		return nil, fmt.Errorf("inserting callback attempts: %w", err)
	}
	numbers, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return nil, fmt.Errorf("inserting callback attempts: %w", err)
	}
	return numbers, nil
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

// CountAttempts returns how many attempts of a request had the given outcome.
func CountAttempts(ctx context.Context, q Querier, request uuid.UUID, outcome string) (int, error) {
	const sql = `
		SELECT count(*)
		FROM callback_attempts
		WHERE request_id = $1
		  AND outcome = $2`
	var count int
	if err := q.QueryRow(ctx, sql, request, outcome).Scan(&count); err != nil {
		return 0, fmt.Errorf("counting callback attempts: %w", err)
	}
	return count, nil
}
