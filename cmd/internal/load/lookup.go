package load

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/valyala/fasthttp"
)

// MaxReported bounds the missing requests in a report, and the pending requests.
const MaxReported = 1000

const (
	maxLookups     = 10_000 // requests of each fate that are looked up after a run
	lookupsAtATime = 8
	auditTimeout   = 10 * time.Second
)

// Lost is an acknowledged request that was not called back, and why
// that is so, as far as the server and its database tell: missing or pending.
type Lost struct {
	ID     uuid.UUID `json:"id"`
	Server string    `json:"server"`             // the answer of GET /requests/{id}
	Audit  string    `json:"database,omitempty"` // the row of the view request_trace
	state  string    // of the callback, as the server tells it
}

const unknown = "unknown" // the state where the server can't be asked

// isPending tells whether the server means to call back yet.
func (l Lost) isPending() bool { return l.state == "waiting" || l.state == "pending" }

// isExcused tells whether a receiver that takes nothing may not have been
// called even once.
func (l Lost) isExcused() bool {
	return l.isPending() || l.state == "dead" || l.state == unknown
}

// explain looks up the undelivered requests. A dead or pending request that the server
// doesn't know, or calls done, is missing as well.
func (r *Run) explain(told *Async, tally *tally) {
	if r.config.Unread {
		return
	}
	missing := lookUp(r.client, r.config, tally.missing)
	for _, request := range lookUp(r.client, r.config, tally.uncalled) {
		if !request.isExcused() {
			missing = append(missing, request)
			told.Dead, told.Missing = told.Dead-1, told.Missing+1
		}
	}
	var pending []Lost
	for _, request := range lookUp(r.client, r.config, tally.pending) {
		if request.isPending() {
			pending = append(pending, request)
			continue
		}
		missing = append(missing, request)
		told.Pending, told.Missing = told.Pending-1, told.Missing+1
	}
	if r.config.DatabaseURL != "" && len(missing) > 0 {
		if err := audit(context.Background(), r.config.DatabaseURL, missing); err != nil {
			told.AuditError = err.Error()
		}
	}
	told.MissingRequests = missing[:min(len(missing), MaxReported)]
	told.PendingRequests = pending[:min(len(pending), MaxReported)]
}

// lookUp asks the server for each of the ids, up to maxLookups.
func lookUp(client *fasthttp.HostClient, config Config, ids []uuid.UUID) []Lost {
	ids = ids[:min(len(ids), maxLookups)]
	lost := make([]Lost, len(ids))
	var group sync.WaitGroup
	for first := range lookupsAtATime {
		group.Go(func() {
			for i := first; i < len(ids); i += lookupsAtATime {
				lost[i] = lookUpOne(client, config, ids[i])
			}
		})
	}
	group.Wait()
	return lost
}

func lookUpOne(client *fasthttp.HostClient, config Config, id uuid.UUID) Lost {
	status, body, err := get(client, config, "/requests/"+id.String())
	if err != nil {
		return Lost{ID: id, Server: "the server doesn't answer: " + judgeError(err).reason, state: unknown}
	}
	switch {
	case status >= http.StatusInternalServerError:
		return Lost{ID: id, Server: fmt.Sprintf("the server answers status %d", status), state: unknown}
	case status != http.StatusOK:
		return Lost{ID: id, Server: fmt.Sprintf("the server answers status %d", status)}
	}
	var found foundRequest
	if err := json.Unmarshal(body, &found); err != nil {
		return Lost{ID: id, Server: "the server's answer can't be read"}
	}
	return Lost{ID: id, Server: found.explain(), state: found.CallbackState}
}

// foundRequest is the checked part of the answer to GET /requests/{id}.
type foundRequest struct {
	Status        string    `json:"status"`
	CallbackState string    `json:"callback_state"`
	Attempts      []attempt `json:"attempts"`
}

type attempt struct {
	Number     int       `json:"attempt"`
	At         time.Time `json:"at"`
	Outcome    string    `json:"outcome"`
	HTTPStatus int       `json:"http_status"`
}

// explain returns a line.
func (f foundRequest) explain() string {
	text := fmt.Sprintf("work %s, callback %s", f.Status, f.CallbackState)
	if len(f.Attempts) == 0 {
		return text + ", never attempted"
	}
	last := slices.MaxFunc(f.Attempts, func(a, b attempt) int { return a.Number - b.Number })
	text += fmt.Sprintf(", attempt %d at %s: %s", last.Number, last.At.Format(time.TimeOnly), last.Outcome)
	if last.HTTPStatus > 0 {
		text += fmt.Sprintf(" %d", last.HTTPStatus)
	}
	return text
}

// audit adds the database's row to each request, with the latest attempt at its callback.
// An error means that the database wasn't read.
func audit(ctx context.Context, databaseURL string, lost []Lost) error {
	ctx, cancel := context.WithTimeout(ctx, auditTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return fmt.Errorf("connecting to the database for the audit: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	ids := make([]uuid.UUID, len(lost))
	for i := range lost {
		ids[i] = lost[i].ID
	}
	traces, err := readTraces(ctx, conn, ids)
	if err != nil {
		return fmt.Errorf("reading request_trace: %w", err)
	}
	for i := range lost {
		lost[i].Audit = "no such request"
		if trace, found := traces[lost[i].ID]; found {
			lost[i].Audit = trace
		}
	}
	return nil
}

// readTraces returns a line for each request in the database.
func readTraces(ctx context.Context, conn *pgx.Conn, ids []uuid.UUID) (map[uuid.UUID]string, error) {
	rows, err := conn.Query(ctx, `
		SELECT DISTINCT ON (request_id)
		       request_id,
		       concat_ws(', ',
		           'work ' || status,
		           'callback ' || callback_state,
		           'work job ' || coalesce(work_job_state::text, 'gone'),
		           'callback job ' || coalesce(callback_job_state::text, 'none'),
		           'attempt ' || attempt || ' ' || outcome,
		           cause,
		           'next at ' || to_char(next_attempt_at AT TIME ZONE 'UTC', 'HH24:MI:SS'))
		FROM request_trace
		WHERE request_id = ANY($1)
		ORDER BY request_id, attempt DESC NULLS LAST`, ids)
	if err != nil {
		return nil, err
	}
	traces := make(map[uuid.UUID]string, len(ids))
	var id uuid.UUID
	var line string
	_, err = pgx.ForEachRow(rows, []any{&id, &line}, func() error {
		traces[id] = strings.Join(strings.Fields(line), " ")
		return nil
	})
	return traces, err
}
