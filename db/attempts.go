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

// InsertAttempt adds the next attempt to a request's log and returns its
// number. The caller holds the request's row lock (LockRequest), so that two
// runs of the same job can't take the same number.
func InsertAttempt(ctx context.Context, tx pgx.Tx, request uuid.UUID, a Attempt) (int, error) {
	const sql = `
		INSERT INTO callback_attempts (
			request_id, attempt, started_at, ended_at, outcome, http_status, next_attempt_at,
			address, cause, dns_us, connect_us, tls_us, first_byte_us
		)
		SELECT $1, coalesce(max(attempt), 0) + 1, $2, $3, $4, $5, $6,
		       $7, $8, $9, $10, $11, $12
		FROM callback_attempts
		WHERE request_id = $1
		RETURNING attempt`
	var number int
	err := tx.QueryRow(ctx, sql,
		request, a.StartedAt, a.EndedAt, a.Outcome, zeronull.Int2(a.HTTPStatus), zeronull.Timestamptz(a.NextAttemptAt),
		zeronull.Text(a.Address), zeronull.Text(a.Cause),
		microseconds(a.DNS), microseconds(a.Connect), microseconds(a.TLS), microseconds(a.FirstByte)).Scan(&number)
	if err != nil {
		return 0, fmt.Errorf("inserting callback attempt: %w", err)
	}
	return number, nil
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
