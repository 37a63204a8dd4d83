package db

import (
	"context"
	"fmt"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
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

// Request is a row of requests.
type Request struct {
	ID            uuid.UUID // UUIDv7
	Mode          Mode
	Work          string // empty for the default one, where the version before this one accepted it
	Client        string
	Status        Status
	Input         jsontext.Value
	Result        jsontext.Value
	Error         jsontext.Value // {"code", "message"}
	CallbackURL   string
	CallbackState CallbackState
	OrderingKey   string
	Sequence      int64 // acceptance order; only with an ordering key
	WorkJobID     int64
	CallbackJobID int64
	Traceparent   string
	AcceptedAt    time.Time
	StartedAt     time.Time
	FinishedAt    time.Time
	SettledAt     time.Time
	RunAt         time.Time      // when the work is due, zero for at once
	ExpiresAt     time.Time      // work that has not begun by then is not done
	RedeliveredAt time.Time      // the latest time
	Progress      jsontext.Value // of work that goes on elsewhere; GetRequest alone reads it
	// CallbackHeaders are what callbacks carry besides: JSON, sealed. LoadWork and
	// LoadCallbacks alone read them.
	CallbackHeaders string
	WorkAttempts    []WorkAttempt // that did not do the work; GetRequest alone reads them
	ProgressNumber  int           // that of Progress
	Elsewhere       bool          // the work has a Lease; LoadWork alone reads it
}

// Inserted is what a request got when it was inserted.
type Inserted struct {
	WorkJobID int64
	Sequence  int64 // Request.Sequence
}

// Finished is what a request got when its outcome was written.
type Finished struct {
	CallbackJobID int64 // 0 where there is no callback
	Running       bool  // the job was born running
}

// InsertRequests writes new rows: requests that are accepted, each with its
// work job, and sync requests that have already ended. It returns what the accepted
// ones got, by id; the work jobs of the first work.Running are born running, of which
// none may be due later. Those
// with an ordering key get their places in its order, as requests has them. It is
// one transaction of its own unless q is one.
func InsertRequests(ctx context.Context, q Querier, work Jobs, requests []Request) (map[uuid.UUID]Inserted, error) {
	places := placesOf(requests, Request.Place)
	// Nothing below sorts or joins what unnest returns, so that sequences rise in
	// the order of requests.
	sql := `
		WITH made AS MATERIALIZED (
			SELECT *,
			       nextval('requests_seq_seq') AS seq,
			       CASE status WHEN 'accepted' THEN nextval('river_job_id_seq') END AS job_id
			FROM unnest(
				$6::uuid[], $7::text[], $8::text[], $9::text[], $10::json[], $11::json[], $12::json[],
				$13::text[], $14::text[], $15::text[], $16::text[],
				$17::timestamptz[], $18::timestamptz[], $19::timestamptz[], $20::timestamptz[], $21::text[],
				$22::timestamptz[], $23::text[]
			) WITH ORDINALITY AS made (
				id, mode, client, status, input, result, error,
				callback_url, callback_state, ordering_key, traceparent,
				accepted_at, started_at, finished_at, expires_at, work, run_at, callback_headers, position
			)
		), ` + insertJobs("made", "coalesce(run_at, now())", "true") + insertPlaces("made", places) + `, inserted AS (
			INSERT INTO requests (
				id, seq, mode, client, status, input, result, error,
				callback_url, callback_state, ordering_key, work_job_id, traceparent,
				accepted_at, started_at, finished_at, expires_at, work, run_at, callback_headers
			)
			OVERRIDING SYSTEM VALUE
			SELECT id, seq, mode, client, status, input, result, error,
			       callback_url, callback_state, ordering_key, job_id, traceparent,
			       accepted_at, started_at, finished_at, expires_at, work, run_at, callback_headers
			FROM made
		)
		SELECT id, job_id, CASE WHEN ordering_key IS NOT NULL THEN seq ELSE 0 END
		FROM made
		WHERE job_id IS NOT NULL
		  AND (SELECT count(*) >= 0 FROM notified)`
	all := make(map[uuid.UUID]Inserted, len(requests))
	insert := statement{sql, append(work.args(),
		column(requests, func(r Request) pgtype.UUID { return uuidOf(r.ID) }),
		column(requests, func(r Request) string { return string(r.Mode) }),
		column(requests, func(r Request) string { return r.Client }),
		column(requests, func(r Request) string { return string(r.Status) }),
		column(requests, func(r Request) []byte { return r.Input }),
		column(requests, func(r Request) []byte { return r.Result }),
		column(requests, func(r Request) []byte { return r.Error }),
		column(requests, func(r Request) zeronull.Text { return zeronull.Text(r.CallbackURL) }),
		column(requests, func(r Request) zeronull.Text { return zeronull.Text(r.CallbackState) }),
		column(requests, func(r Request) zeronull.Text { return zeronull.Text(r.OrderingKey) }),
		column(requests, func(r Request) zeronull.Text { return zeronull.Text(r.Traceparent) }),
		column(requests, func(r Request) time.Time { return r.AcceptedAt }),
		column(requests, func(r Request) zeronull.Timestamptz { return zeronull.Timestamptz(r.StartedAt) }),
		column(requests, func(r Request) zeronull.Timestamptz { return zeronull.Timestamptz(r.FinishedAt) }),
		column(requests, func(r Request) zeronull.Timestamptz { return zeronull.Timestamptz(r.ExpiresAt) }),
		column(requests, func(r Request) zeronull.Text { return zeronull.Text(r.Work) }),
		column(requests, func(r Request) zeronull.Timestamptz { return zeronull.Timestamptz(r.RunAt) }),
		column(requests, func(r Request) zeronull.Text { return zeronull.Text(r.CallbackHeaders) }),
	), func(rows pgx.Rows) error {
		var id uuid.UUID
		var one Inserted
		_, err := pgx.ForEachRow(rows, []any{&id, &one.WorkJobID, &one.Sequence}, func() error {
			all[id] = one
			return nil
		})
		return err
	}}
	if err := runTogether(ctx, q, append(lockKeys(acceptLocks, places), insert)...); err != nil {
		return nil, fmt.Errorf("inserting requests: %w", err)
	}
	return all, nil
}

// column takes one value of each item. A statement that unnests such columns
// has one text, and so is prepared once, whatever the number of rows.
func column[T, V any](items []T, value func(T) V) pgtype.FlatArray[V] {
	values := make(pgtype.FlatArray[V], len(items)) // pgx would read a plain slice by reflection
	for i, item := range items {
		values[i] = value(item)
	}
	return values
}

// uuidOf is id as pgx encodes it without a detour over text.
func uuidOf(id uuid.UUID) pgtype.UUID { return pgtype.UUID{Bytes: id, Valid: true} }

// LoadWork returns, by id and with their inputs, the requests whose work is still
// to be done. Requests that have ended or don't exist are left out.
func LoadWork(ctx context.Context, q Querier, ids []uuid.UUID) (map[uuid.UUID]Request, error) {
	const sql = `
		SELECT ` + summaryColumns + `, input, callback_headers,
		       EXISTS (SELECT FROM work_leases WHERE request_id = requests.id)
		FROM requests
		WHERE id = ANY ($1::uuid[])
		  AND status = 'accepted'`
	rows, err := q.Query(ctx, sql, column(ids, uuidOf))
	if err != nil {
		return nil, fmt.Errorf("loading work: %w", err)
	}
	requests, err := collect(rows, len(ids), func(r *Request) []any {
		return append(r.summary(), (*[]byte)(&r.Input), (*zeronull.Text)(&r.CallbackHeaders), &r.Elsewhere)
	})
	if err != nil {
		return nil, fmt.Errorf("loading work: %w", err)
	}
	return requests, nil
}

// collect reads requests into the fields that targets names.
func collect(rows pgx.Rows, most int, targets func(*Request) []any) (map[uuid.UUID]Request, error) {
	defer rows.Close()
	requests := make(map[uuid.UUID]Request, most)
	for rows.Next() {
		var r Request
		if err := rows.Scan(targets(&r)...); err != nil {
			return nil, err
		}
		requests[r.ID] = r
	}
	return requests, rows.Err()
}

// FinishRequests writes the outcomes of those of the requests that have none
// yet, Status, Result or Error, StartedAt and FinishedAt, each with its callback
// job where it has a callback, and returns what they got, by id. It completes the work jobs of all of the
// requests. Callbacks are pending from then on: the jobs of the first
// callback.Running of the requests are born running, but a job that isn't the first
// of its ordering key is held back until LeaveOrder or SettleCallbacks releases it.
// No request may stand in it twice. It is one transaction of its own unless q is
// one.
func FinishRequests(ctx context.Context, q Querier, callback Jobs, requests []Request) (map[uuid.UUID]Finished, error) {
	places := placesOf(requests, Request.Place)
	// Sorted, so that two batches that share requests lock them in one order as
	// far as the plan keeps it. Where they meet in a deadlock all the same, one of
	// them fails with 40P01 and is tried again.
	sql := `
		WITH outcome AS MATERIALIZED (
			SELECT *, nextval('river_job_id_seq') AS job_id
			FROM unnest(
				$6::uuid[], $7::text[], $8::json[], $9::json[], $10::timestamptz[], $11::timestamptz[]
			) WITH ORDINALITY AS outcome (id, status, result, error, started_at, finished_at, position)
			ORDER BY id
		), finished AS (
			UPDATE requests
			SET status = outcome.status,
			    result = outcome.result,
			    error = outcome.error,
			    callback_state = CASE WHEN callback_url IS NOT NULL THEN 'pending' END,
			    callback_job_id = CASE WHEN callback_url IS NOT NULL THEN outcome.job_id END,
			    started_at = outcome.started_at,
			    finished_at = outcome.finished_at
			FROM outcome
			WHERE requests.id = outcome.id
			  AND requests.status = 'accepted'
			RETURNING requests.id, requests.callback_job_id AS job_id, client, ordering_key, seq, position
		), ` + completeJobs("$12", "running", "scheduled", "available") + `, ` + insertJobs("finished", "now()", isFirst("finished", places)) + `
		SELECT finished.id, coalesce(jobs.id, 0), coalesce(jobs.state = 'running', false)
		FROM finished
		LEFT JOIN jobs ON jobs.id = finished.job_id
		WHERE (SELECT count(*) >= 0 FROM notified)`
	all := make(map[uuid.UUID]Finished, len(requests))
	finish := statement{sql, append(callback.args(),
		column(requests, func(r Request) pgtype.UUID { return uuidOf(r.ID) }),
		column(requests, func(r Request) string { return string(r.Status) }),
		column(requests, func(r Request) []byte { return r.Result }),
		column(requests, func(r Request) []byte { return r.Error }),
		column(requests, func(r Request) zeronull.Timestamptz { return zeronull.Timestamptz(r.StartedAt) }),
		column(requests, func(r Request) time.Time { return r.FinishedAt }),
		column(requests, func(r Request) int64 { return r.WorkJobID }),
	), func(rows pgx.Rows) error {
		var id uuid.UUID
		var one Finished
		_, err := pgx.ForEachRow(rows, []any{&id, &one.CallbackJobID, &one.Running}, func() error {
			all[id] = one
			return nil
		})
		return err
	}}
	if err := runTogether(ctx, q, append(lockKeys(callbackLocks, places), finish)...); err != nil {
		return nil, fmt.Errorf("finishing requests: %w", err)
	}
	return all, nil
}

// LoadCallbacks returns what callbacks carry, by id, of those of the requests
// whose callback is still to be delivered: the requests without their inputs.
func LoadCallbacks(ctx context.Context, q Querier, ids []uuid.UUID) (map[uuid.UUID]Request, error) {
	const sql = `
		SELECT ` + summaryColumns + `, result, error, callback_headers
		FROM requests
		WHERE id = ANY ($1::uuid[])
		  AND callback_state = 'pending'`
	rows, err := q.Query(ctx, sql, column(ids, uuidOf))
	if err != nil {
		return nil, fmt.Errorf("loading callbacks: %w", err)
	}
	requests, err := collect(rows, len(ids), func(r *Request) []any {
		return append(r.summary(), (*[]byte)(&r.Result), (*[]byte)(&r.Error), (*zeronull.Text)(&r.CallbackHeaders))
	})
	if err != nil {
		return nil, fmt.Errorf("loading callbacks: %w", err)
	}
	return requests, nil
}

// GetRequest returns a request of a client; pgx.ErrNoRows if there is none.
func GetRequest(ctx context.Context, q Querier, client string, id uuid.UUID) (Request, error) {
	// No index of clients can answer IS TRUE. A plan of when there were few requests
	// would read all of the client's.
	const sql = `
		SELECT ` + summaryColumns + `, input, result, error,
		       (SELECT to_jsonb(errors) FROM river_job WHERE river_job.id = requests.work_job_id),
		       told.progress, coalesce(told.progress_number, 0)
		FROM requests
		LEFT JOIN LATERAL (
			SELECT progress, progress_number
			FROM work_leases
			WHERE request_id = requests.id
			  AND requests.status = 'accepted'
		) AS told ON true
		WHERE id = $1
		  AND (client = $2) IS TRUE`
	var r Request
	var errors jsontext.Value
	err := q.QueryRow(ctx, sql, id, client).
		Scan(append(r.summary(), (*[]byte)(&r.Input), (*[]byte)(&r.Result), (*[]byte)(&r.Error), (*[]byte)(&errors), (*[]byte)(&r.Progress), &r.ProgressNumber)...)
	if err == nil {
		r.WorkAttempts, err = workAttempts(errors)
	}
	if err != nil {
		return Request{}, fmt.Errorf("getting request: %w", err)
	}
	return r, nil
}

// Exists tells whether there is a request, of any client.
func Exists(ctx context.Context, q Querier, id uuid.UUID) (exists bool, err error) {
	if err := q.QueryRow(ctx, "SELECT EXISTS (SELECT FROM requests WHERE id = $1)", id).Scan(&exists); err != nil {
		return false, fmt.Errorf("looking for a request: %w", err)
	}
	return exists, nil
}

// summaryColumns are the small columns of a request, which the fields of
// summary take in the same order. summaryNames are those of a subquery with them.
const summaryColumns = `id, mode, client, status, callback_url, callback_state,
			ordering_key, CASE WHEN ordering_key IS NOT NULL THEN seq END AS sequence,
			work_job_id, callback_job_id, traceparent, accepted_at, started_at, finished_at, settled_at, expires_at, redelivered_at, work, run_at`

const summaryNames = `id, mode, client, status, callback_url, callback_state, ordering_key, sequence,
			work_job_id, callback_job_id, traceparent, accepted_at, started_at, finished_at, settled_at, expires_at, redelivered_at, work, run_at`

func (r *Request) summary() []any {
	return []any{
		&r.ID, &r.Mode, &r.Client, &r.Status,
		(*zeronull.Text)(&r.CallbackURL), (*zeronull.Text)(&r.CallbackState),
		(*zeronull.Text)(&r.OrderingKey), (*zeronull.Int8)(&r.Sequence),
		(*zeronull.Int8)(&r.WorkJobID), (*zeronull.Int8)(&r.CallbackJobID), (*zeronull.Text)(&r.Traceparent),
		&r.AcceptedAt, (*zeronull.Timestamptz)(&r.StartedAt),
		(*zeronull.Timestamptz)(&r.FinishedAt), (*zeronull.Timestamptz)(&r.SettledAt),
		(*zeronull.Timestamptz)(&r.ExpiresAt), (*zeronull.Timestamptz)(&r.RedeliveredAt), (*zeronull.Text)(&r.Work),
		(*zeronull.Timestamptz)(&r.RunAt),
	}
}
