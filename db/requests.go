package db

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype/zeronull"
)

// Mode is how a request was made.
type Mode string

// The modes.
const (
	Sync  Mode = "sync"
	Async Mode = "async"
)

// Status is where the work of a request stands.
type Status string

// The statuses: a request begins as Accepted and ends as one of the others.
const (
	Accepted  Status = "accepted"
	Succeeded Status = "succeeded"
	Failed    Status = "failed"
	Expired   Status = "expired"
	Cancelled Status = "cancelled"
)

// CallbackState is where the callback of an async request stands.
type CallbackState string

// The callback states: Waiting for the work, then Pending, then one of the
// others.
const (
	CallbackWaiting   CallbackState = "waiting"
	CallbackPending   CallbackState = "pending"
	CallbackDelivered CallbackState = "delivered"
	CallbackDead      CallbackState = "dead"
	CallbackCancelled CallbackState = "cancelled"
)

// Request is a row of requests. Its JSON is what callers and receivers get to
// see of it.
type Request struct {
	ID            uuid.UUID      `json:"id"` // UUIDv7
	Mode          Mode           `json:"mode"`
	Client        string         `json:"-"`
	Status        Status         `json:"status"`
	Input         jsontext.Value `json:"input,omitzero"`
	Result        jsontext.Value `json:"result,omitzero"`
	Error         jsontext.Value `json:"error,omitzero"` // {"code", "message"}
	CallbackURL   string         `json:"callback_url,omitzero"`
	CallbackState CallbackState  `json:"callback_state,omitzero"`
	WorkJobID     int64          `json:"-"`
	CallbackJobID int64          `json:"-"`
	Traceparent   string         `json:"traceparent,omitzero"`
	AcceptedAt    time.Time      `json:"accepted_at"`
	StartedAt     time.Time      `json:"started_at,omitzero"`
	FinishedAt    time.Time      `json:"finished_at,omitzero"`
	SettledAt     time.Time      `json:"settled_at,omitzero"`
}

// InsertRequest writes a new row: an accepted async request, whose work job is
// inserted in the same transaction, or a sync request that has already ended.
func InsertRequest(ctx context.Context, tx pgx.Tx, r Request) error {
	const sql = `
		INSERT INTO requests (
			id, mode, client, status, input, result, error,
			callback_url, callback_state, work_job_id, traceparent,
			accepted_at, started_at, finished_at
		) VALUES (
			$1, $2, $3, $4, $5, $6, $7,
			$8, $9, $10, $11,
			$12, $13, $14
		)`
	_, err := tx.Exec(ctx, sql,
		r.ID, r.Mode, r.Client, r.Status, []byte(r.Input), []byte(r.Result), []byte(r.Error),
		zeronull.Text(r.CallbackURL), zeronull.Text(r.CallbackState), zeronull.Int8(r.WorkJobID), zeronull.Text(r.Traceparent),
		r.AcceptedAt, zeronull.Timestamptz(r.StartedAt), zeronull.Timestamptz(r.FinishedAt))
	if err != nil {
		return fmt.Errorf("inserting request: %w", err)
	}
	return nil
}

// LoadWork returns the input of an accepted request and whether its work is
// still to be done: not so when it has ended or doesn't exist.
func LoadWork(ctx context.Context, q Querier, id uuid.UUID) (input jsontext.Value, todo bool, err error) {
	const sql = `
		SELECT input
		FROM requests
		WHERE id = $1
		  AND status = 'accepted'`
	err = q.QueryRow(ctx, sql, id).Scan((*[]byte)(&input))
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("loading work: %w", err)
	}
	return input, true, nil
}

// LockRequest locks a request until the transaction ends and returns where it
// stands, so that of two runs of the same step only one finds it to be done.
// Both are empty when there is no such request.
func LockRequest(ctx context.Context, tx pgx.Tx, id uuid.UUID) (Status, CallbackState, error) {
	const sql = `
		SELECT status, callback_state
		FROM requests
		WHERE id = $1
		FOR NO KEY UPDATE`
	var status Status
	var callback CallbackState
	err := tx.QueryRow(ctx, sql, id).Scan(&status, (*zeronull.Text)(&callback))
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", "", fmt.Errorf("locking request: %w", err)
	}
	return status, callback, nil
}

// FinishRequest writes the outcome of a request that LockRequest found
// accepted: Status, Result or Error, CallbackJobID, StartedAt and FinishedAt
// of r. Its callback is pending from then on.
func FinishRequest(ctx context.Context, tx pgx.Tx, r Request) error {
	const sql = `
		UPDATE requests
		SET status = $2,
		    result = $3,
		    error = $4,
		    callback_state = 'pending',
		    callback_job_id = $5,
		    started_at = $6,
		    finished_at = $7
		WHERE id = $1`
	_, err := tx.Exec(ctx, sql,
		r.ID, r.Status, []byte(r.Result), []byte(r.Error), r.CallbackJobID, r.StartedAt, r.FinishedAt)
	if err != nil {
		return fmt.Errorf("finishing request: %w", err)
	}
	return nil
}

// SettleCallback ends the callback of a request that LockRequest found
// pending.
func SettleCallback(ctx context.Context, tx pgx.Tx, id uuid.UUID, state CallbackState, at time.Time) error {
	const sql = `
		UPDATE requests
		SET callback_state = $2,
		    settled_at = $3
		WHERE id = $1`
	if _, err := tx.Exec(ctx, sql, id, state, at); err != nil {
		return fmt.Errorf("settling callback: %w", err)
	}
	return nil
}

// LoadCallback returns what the callback of a request carries, that is, the
// request without its input, and whether it is still to be delivered.
func LoadCallback(ctx context.Context, q Querier, id uuid.UUID) (r Request, todo bool, err error) {
	const sql = `
		SELECT ` + summaryColumns + `, result, error
		FROM requests
		WHERE id = $1
		  AND callback_state = 'pending'`
	err = q.QueryRow(ctx, sql, id).Scan(append(r.summary(), (*[]byte)(&r.Result), (*[]byte)(&r.Error))...)
	if errors.Is(err, pgx.ErrNoRows) {
		return Request{}, false, nil
	}
	if err != nil {
		return Request{}, false, fmt.Errorf("loading callback: %w", err)
	}
	return r, true, nil
}

// GetRequest returns a request of a client; pgx.ErrNoRows if there is none.
func GetRequest(ctx context.Context, q Querier, client string, id uuid.UUID) (Request, error) {
	const sql = `
		SELECT ` + summaryColumns + `, input, result, error
		FROM requests
		WHERE id = $1
		  AND client = $2`
	var r Request
	err := q.QueryRow(ctx, sql, id, client).
		Scan(append(r.summary(), (*[]byte)(&r.Input), (*[]byte)(&r.Result), (*[]byte)(&r.Error))...)
	if err != nil {
		return Request{}, fmt.Errorf("getting request: %w", err)
	}
	return r, nil
}

// Filter selects requests for a listing. Zero fields don't filter.
type Filter struct {
	Client        string // required
	Mode          Mode
	Status        Status
	CallbackState CallbackState
	Before        uuid.UUID // only ids below it: the last one of the page before
	Limit         int       // how many at most, required
}

// ListRequests returns the requests of a client, newest first, without their
// inputs and results.
func ListRequests(ctx context.Context, q Querier, filter Filter) ([]Request, error) {
	// The index holds each mode in the order of ids. Taking a page from either
	// mode and merging the two reads no more than two pages, however long the
	// table is.
	const sql = `
		SELECT page.*
		FROM unnest($1::text[]) AS modes (mode)
		CROSS JOIN LATERAL (
			SELECT ` + summaryColumns + `
			FROM requests
			WHERE requests.client = $2
			  AND requests.mode = modes.mode
			  AND ($3::uuid IS NULL OR id < $3)
			  AND ($4::text IS NULL OR status = $4)
			  AND ($5::text IS NULL OR callback_state = $5)
			ORDER BY id DESC
			LIMIT $6
		) AS page
		ORDER BY id DESC
		LIMIT $6`
	modes := []Mode{Sync, Async}
	if filter.Mode != "" {
		modes = []Mode{filter.Mode}
	}
	rows, err := q.Query(ctx, sql, modes, filter.Client, zeronull.UUID(filter.Before),
		zeronull.Text(filter.Status), zeronull.Text(filter.CallbackState), filter.Limit)
	if err != nil {
		return nil, fmt.Errorf("listing requests: %w", err)
	}
	requests, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r Request, err error) {
		return r, row.Scan(r.summary()...)
	})
	if err != nil {
		return nil, fmt.Errorf("listing requests: %w", err)
	}
	return requests, nil
}

// summaryColumns are the small columns of a request, which the fields of
// summary take in the same order.
const summaryColumns = `id, mode, client, status, callback_url, callback_state,
			work_job_id, callback_job_id, traceparent, accepted_at, started_at, finished_at, settled_at`

func (r *Request) summary() []any {
	return []any{
		&r.ID, &r.Mode, &r.Client, &r.Status,
		(*zeronull.Text)(&r.CallbackURL), (*zeronull.Text)(&r.CallbackState),
		(*zeronull.Int8)(&r.WorkJobID), (*zeronull.Int8)(&r.CallbackJobID), (*zeronull.Text)(&r.Traceparent),
		&r.AcceptedAt, (*zeronull.Timestamptz)(&r.StartedAt),
		(*zeronull.Timestamptz)(&r.FinishedAt), (*zeronull.Timestamptz)(&r.SettledAt),
	}
}
