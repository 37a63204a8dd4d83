package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype/zeronull"
	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/jobs/webhook"
	"ringback/work"
)

// naiveRequest is a row of requests. Its JSON is what receivers get to see.
type naiveRequest struct {
	ID            uuid.UUID      `json:"id"`
	Mode          string         `json:"mode"`
	Status        string         `json:"status"`
	Input         jsontext.Value `json:"-"`
	Result        jsontext.Value `json:"result,omitzero"`
	CallbackURL   string         `json:"callback_url,omitzero"`
	CallbackState string         `json:"callback_state,omitzero"`
	WorkJobID     int64          `json:"-"`
	AcceptedAt    time.Time      `json:"accepted_at"`
	StartedAt     time.Time      `json:"started_at,omitzero"`
	FinishedAt    time.Time      `json:"finished_at,omitzero"`
}

func insertNaive(ctx context.Context, tx pgx.Tx, r naiveRequest) error {
	const sql = `
		INSERT INTO requests (id, mode, client, status, input, callback_url, callback_state, work_job_id, accepted_at)
		VALUES ($1, $2, 'local', $3, $4, $5, $6, $7, $8)`
	_, err := tx.Exec(ctx, sql,
		r.ID, r.Mode, r.Status, []byte(r.Input), r.CallbackURL, r.CallbackState, r.WorkJobID, r.AcceptedAt)
	if err != nil {
		return fmt.Errorf("inserting request: %w", err)
	}
	return nil
}

func loadNaiveWork(ctx context.Context, pool *pgxpool.Pool, id uuid.UUID) (input jsontext.Value, todo bool, err error) {
	const sql = `
		SELECT input
		FROM requests
		WHERE id = $1
		  AND status = 'accepted'`
	err = pool.QueryRow(ctx, sql, id).Scan((*[]byte)(&input))
	return input, err == nil, unlessNone(err, "loading work")
}

func loadNaiveCallback(ctx context.Context, pool *pgxpool.Pool, id uuid.UUID) (r naiveRequest, todo bool, err error) {
	const sql = `
		SELECT id, mode, status, callback_url, callback_state, accepted_at, started_at, finished_at, result
		FROM requests
		WHERE id = $1
		  AND callback_state = 'pending'`
	err = pool.QueryRow(ctx, sql, id).Scan(&r.ID, &r.Mode, &r.Status, &r.CallbackURL, &r.CallbackState,
		&r.AcceptedAt, &r.StartedAt, &r.FinishedAt, (*[]byte)(&r.Result))
	return r, err == nil, unlessNone(err, "loading callback")
}

// lockNaive holds the row until the transaction ends and tells where it stands.
func lockNaive(ctx context.Context, tx pgx.Tx, id uuid.UUID) (status, callback string, err error) {
	const sql = `
		SELECT status, callback_state
		FROM requests
		WHERE id = $1
		FOR NO KEY UPDATE`
	err = tx.QueryRow(ctx, sql, id).Scan(&status, &callback)
	return status, callback, unlessNone(err, "locking request")
}

func finishNaive(ctx context.Context, tx pgx.Tx, id uuid.UUID, outcome work.Outcome, callbackJob int64) error {
	const sql = `
		UPDATE requests
		SET status = 'succeeded',
		    result = $2,
		    callback_state = 'pending',
		    callback_job_id = $3,
		    started_at = $4,
		    finished_at = $5
		WHERE id = $1`
	_, err := tx.Exec(ctx, sql, id, []byte(outcome.Result), callbackJob, outcome.StartedAt, outcome.FinishedAt)
	if err != nil {
		return fmt.Errorf("finishing request: %w", err)
	}
	return nil
}

func insertNaiveAttempt(ctx context.Context, tx pgx.Tx, id uuid.UUID, sent webhook.Attempt) (number int, err error) {
	const sql = `
		INSERT INTO callback_attempts (
			request_id, attempt, started_at, ended_at, outcome, http_status,
			address, cause, dns_us, connect_us, tls_us, first_byte_us
		)
		SELECT $1, coalesce(max(attempt), 0) + 1, $2, $3, $4, $5,
		       $6, $7, $8, $9, $10, $11
		FROM callback_attempts
		WHERE request_id = $1
		RETURNING attempt`
	err = tx.QueryRow(ctx, sql, id, sent.StartedAt, sent.EndedAt, string(sent.Outcome), zeronull.Int2(sent.Status),
		zeronull.Text(sent.Address), zeronull.Text(sent.Cause), microseconds(sent.DNS), microseconds(sent.Connect),
		microseconds(sent.TLS), microseconds(sent.FirstByte)).Scan(&number)
	if err != nil {
		return 0, fmt.Errorf("inserting callback attempt: %w", err)
	}
	return number, nil
}

func microseconds(d time.Duration) zeronull.Int4 { return zeronull.Int4(d.Microseconds()) }

func settleNaive(ctx context.Context, tx pgx.Tx, id uuid.UUID, at time.Time) error {
	const sql = `
		UPDATE requests
		SET callback_state = 'delivered',
		    settled_at = $2
		WHERE id = $1`
	if _, err := tx.Exec(ctx, sql, id, at); err != nil {
		return fmt.Errorf("settling callback: %w", err)
	}
	return nil
}

// unlessNone is nil when there was no such row.
func unlessNone(err error, what string) error {
	if err == nil || errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
