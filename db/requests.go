package db

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
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

// The statuses: a request begins as Accepted, and ends in another.
const (
	Accepted  Status = "accepted"
	Succeeded Status = "succeeded"
	Failed    Status = "failed"
	Expired   Status = "expired"
	Cancelled Status = "cancelled"
)

// CallbackState is where the callback of an async request stands.
type CallbackState string

// The callback states: Waiting for the work, then Pending, then an end.
const (
	CallbackWaiting   CallbackState = "waiting"
	CallbackPending   CallbackState = "pending"
	CallbackDelivered CallbackState = "delivered"
	CallbackDead      CallbackState = "dead"
	CallbackCancelled CallbackState = "cancelled"
)

// AsStored returns the options by which JSON of a row is encoded as it stands. No caller may
// send a name twice in an object, or half a surrogate pair, but Postgres takes them from SQL.
// Half a pair becomes U+FFFD.
func AsStored() json.Options {
	return json.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
}

// Request is a row of requests.
type Request struct {
	ID            uuid.UUID // UUIDv7
	Mode          Mode
	Work          string // empty for the default work, where the former version accepted the request
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
	ExpiresAt     time.Time      // work that has not started by then is skipped
	RedeliveredAt time.Time      // the latest redelivery
	RunningSince  time.Time      // the work goes on elsewhere since then; GetRequest and listings read it
	Progress      jsontext.Value // of work that goes on elsewhere; GetRequest alone reads it
	// CallbackHeaders are the receiver's own headers: JSON, sealed. LoadWork and
	// LoadCallbacks alone read them.
	CallbackHeaders string
	WorkAttempts    []WorkAttempt // runs that did not do the work; GetRequest alone reads them
	ProgressNumber  int           // the number of Progress
	Elsewhere       bool          // the work has a Lease; LoadWork reads it, and FinishRequests charges the attempt
}

// requestFields are the columns of requests. Only small columns are read together:
// inputs, results and errors are read where they are needed.
var requestFields = fields[Request]{
	written("id", "uuid", func(r Request) pgtype.UUID { return uuidOf(r.ID) }, func(r *Request) any { return &r.ID }),
	written("mode", "text", func(r Request) string { return string(r.Mode) }, func(r *Request) any { return &r.Mode }),
	written("client", "text", func(r Request) string { return r.Client }, func(r *Request) any { return &r.Client }),
	written("status", "text", func(r Request) string { return string(r.Status) }, func(r *Request) any { return &r.Status }),
	written("input", "json", func(r Request) []byte { return r.Input }, nil),
	written("result", "json", func(r Request) []byte { return r.Result }, nil),
	written("error", "json", func(r Request) []byte { return r.Error }, nil),
	written("callback_url", "text", func(r Request) zeronull.Text { return zeronull.Text(r.CallbackURL) },
		func(r *Request) any { return (*zeronull.Text)(&r.CallbackURL) }),
	written("callback_state", "text", func(r Request) zeronull.Text { return zeronull.Text(r.CallbackState) },
		func(r *Request) any { return (*zeronull.Text)(&r.CallbackState) }),
	written("ordering_key", "text", func(r Request) zeronull.Text { return zeronull.Text(r.OrderingKey) },
		func(r *Request) any { return (*zeronull.Text)(&r.OrderingKey) }),
	{
		name: "sequence", read: "CASE WHEN ordering_key IS NOT NULL THEN seq END",
		target: func(r *Request) any { return (*zeronull.Int8)(&r.Sequence) },
	},
	{name: "work_job_id", target: func(r *Request) any { return (*zeronull.Int8)(&r.WorkJobID) }},
	{name: "callback_job_id", target: func(r *Request) any { return (*zeronull.Int8)(&r.CallbackJobID) }},
	written("traceparent", "text", func(r Request) zeronull.Text { return zeronull.Text(r.Traceparent) },
		func(r *Request) any { return (*zeronull.Text)(&r.Traceparent) }),
	written("accepted_at", "timestamptz", func(r Request) time.Time { return r.AcceptedAt }, func(r *Request) any { return &r.AcceptedAt }),
	written("started_at", "timestamptz", func(r Request) zeronull.Timestamptz { return zeronull.Timestamptz(r.StartedAt) },
		func(r *Request) any { return (*zeronull.Timestamptz)(&r.StartedAt) }),
	written("finished_at", "timestamptz", func(r Request) zeronull.Timestamptz { return zeronull.Timestamptz(r.FinishedAt) },
		func(r *Request) any { return (*zeronull.Timestamptz)(&r.FinishedAt) }),
	{name: "settled_at", target: func(r *Request) any { return (*zeronull.Timestamptz)(&r.SettledAt) }},
	written("expires_at", "timestamptz", func(r Request) zeronull.Timestamptz { return zeronull.Timestamptz(r.ExpiresAt) },
		func(r *Request) any { return (*zeronull.Timestamptz)(&r.ExpiresAt) }),
	{name: "redelivered_at", target: func(r *Request) any { return (*zeronull.Timestamptz)(&r.RedeliveredAt) }},
	written("work", "text", func(r Request) zeronull.Text { return zeronull.Text(r.Work) },
		func(r *Request) any { return (*zeronull.Text)(&r.Work) }),
	written("run_at", "timestamptz", func(r Request) zeronull.Timestamptz { return zeronull.Timestamptz(r.RunAt) },
		func(r *Request) any { return (*zeronull.Timestamptz)(&r.RunAt) }),
	written("callback_headers", "text", func(r Request) zeronull.Text { return zeronull.Text(r.CallbackHeaders) }, nil),
}

// insertFields are the columns that a request is inserted with. summaryFields are the
// columns that are read together: summaryColumns reads them from the table, summaryNames
// from a subquery. Their SQL is made once, since each step would need it.
var (
	insertFields   = requestFields.written()
	insertNames    = insertFields.names()
	insertArrays   = insertFields.arrays(len(Jobs{}.args()) + 1)
	summaryFields  = requestFields.read()
	summaryColumns = summaryFields.reads()
	summaryNames   = summaryFields.names()
)

func (r *Request) summary() []any { return summaryFields.targets(r) }

// callbackHost is the expression for the host of callback_url, which is in canonical form.
const callbackHost = `substring(callback_url FROM '^[a-z]+://([^/?#]+)')`

// LoadWork returns the requests that are still accepted, by id and with their inputs.
// Requests that have ended or don't exist are left out.
func LoadWork(ctx context.Context, q Querier, ids []uuid.UUID) (map[uuid.UUID]Request, error) {
	sql := `
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

// LoadCallbacks returns the requests whose callback is pending, by id, with results and
// errors, but without inputs.
func LoadCallbacks(ctx context.Context, q Querier, ids []uuid.UUID) (map[uuid.UUID]Request, error) {
	sql := `
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

// ErrNoRequest says that no request has an id, or that the request is another client's.
var ErrNoRequest = errors.New("no such request")

func orNoRequest(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrNoRequest
	}
	return err
}

// GetRequest returns a request of a client; ErrNoRequest if there is none.
func GetRequest(ctx context.Context, q Querier, client string, id uuid.UUID) (Request, error) {
	// No index of clients can answer IS TRUE. A plan that was made when there were few
	// requests would otherwise read all requests of the client.
	sql := `
		SELECT ` + summaryColumns + `, input, result, error,
		       (SELECT to_jsonb(errors) FROM river_job WHERE river_job.id = requests.work_job_id),
		       told.running_since, told.progress, coalesce(told.number, 0)
		FROM requests
		LEFT JOIN LATERAL (
			SELECT started_at AS running_since, progress, ` + progressNumber + ` AS number
			FROM work_leases
			WHERE request_id = requests.id
			  AND requests.status = 'accepted'
		) AS told ON true
		WHERE id = $1
		  AND (client = $2) IS TRUE`
	var r Request
	var runErrors jsontext.Value
	err := q.QueryRow(ctx, sql, id, client).
		Scan(append(r.summary(), (*[]byte)(&r.Input), (*[]byte)(&r.Result), (*[]byte)(&r.Error), (*[]byte)(&runErrors), (*zeronull.Timestamptz)(&r.RunningSince), (*[]byte)(&r.Progress), &r.ProgressNumber)...)
	if err == nil {
		r.WorkAttempts, err = workAttempts(runErrors)
	}
	if err != nil {
		return Request{}, fmt.Errorf("getting request: %w", orNoRequest(err))
	}
	return r, nil
}

// FindRequest returns a request of any client, for operators; ErrNoRequest if there is none.
func FindRequest(ctx context.Context, q Querier, id uuid.UUID) (Request, error) {
	sql := `
		SELECT ` + summaryColumns + `, input, result, error
		FROM requests
		WHERE id = $1`
	var r Request
	err := q.QueryRow(ctx, sql, id).
		Scan(append(r.summary(), (*[]byte)(&r.Input), (*[]byte)(&r.Result), (*[]byte)(&r.Error))...)
	if err != nil {
		return Request{}, fmt.Errorf("finding request: %w", orNoRequest(err))
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

// EndedWork returns which of the requests have ended.
func EndedWork(ctx context.Context, q Querier, ids []uuid.UUID) ([]uuid.UUID, error) {
	const sql = `
		SELECT id
		FROM requests
		WHERE id = ANY ($1::uuid[])
		  AND status <> 'accepted'`
	return readIDs(ctx, q, "looking for ended work", sql, column(ids, uuidOf))
}
