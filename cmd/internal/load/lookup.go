package load

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
)

// MaxReported bounds the missing requests in a report, and the pending requests.
const MaxReported = 1000

const (
	maxLookups     = 10_000 // requests of each fate that are looked up after a run
	lookupsAtATime = 8
)

// Undelivered is an acknowledged request that was not called back, and what GET
// /requests/{id} says of it.
type Undelivered struct {
	ID     uuid.UUID `json:"id"`
	Server string    `json:"server"` // the server's answer, in a line

	state    string // of the callback, or unknown
	attempts int    // at the callback
}

const unknown = "unknown" // the state where the server can't answer

// isPending tells whether the server still means to call back.
func (u Undelivered) isPending() bool { return u.state == "waiting" || u.state == "pending" }

// isExcused tells whether zero attempts are acceptable at a receiver that takes nothing.
func (u Undelivered) isExcused() bool {
	return u.isPending() || u.state == "dead" || u.state == unknown
}

// explain looks up the undelivered requests. A dead or pending request that the server
// doesn't know, or calls done, is missing as well.
func (r *Run) explain(f *Findings) {
	if r.config.Unread {
		return
	}
	missing := r.lookUp(f.missing)
	excused := func(ids []uuid.UUID, count *int, excuse func(Undelivered) bool) (rest []Undelivered) {
		for _, request := range r.lookUp(ids) {
			if excuse(request) {
				rest = append(rest, request)
				continue
			}
			missing = append(missing, request)
			*count, f.Async.Missing = *count-1, f.Async.Missing+1
		}
		return rest
	}
	dead := excused(f.uncalled, &f.Async.Dead, Undelivered.isExcused)
	pending := excused(f.pending, &f.Async.Pending, Undelivered.isPending)
	if f.Async.Attempts == 0 { // as where all receivers refuse connections
		for _, request := range slices.Concat(dead, pending) {
			f.Async.Attempts += request.attempts
		}
	}
	f.Async.MissingRequests = missing[:min(len(missing), MaxReported)]
	f.Async.PendingRequests = pending[:min(len(pending), MaxReported)]
}

// lookUp asks the server for each of the ids, up to maxLookups.
func (r *Run) lookUp(ids []uuid.UUID) []Undelivered {
	found := make([]Undelivered, min(len(ids), maxLookups))
	var asking errgroup.Group
	asking.SetLimit(lookupsAtATime)
	for i := range found {
		asking.Go(func() error {
			found[i] = r.client.lookUp(ids[i])
			return nil
		})
	}
	_ = asking.Wait() // no error
	return found
}

func (c *client) lookUp(id uuid.UUID) Undelivered {
	status, body, err := c.get("/requests/" + id.String())
	var found foundRequest
	switch {
	case err != nil:
		return Undelivered{ID: id, Server: "the server doesn't answer: " + judgeError(err).reason, state: unknown}
	case status >= http.StatusInternalServerError:
		return Undelivered{ID: id, Server: fmt.Sprintf("the server answers status %d", status), state: unknown}
	case status != http.StatusOK:
		return Undelivered{ID: id, Server: fmt.Sprintf("the server answers status %d", status)}
	case json.Unmarshal(body, &found) != nil:
		return Undelivered{ID: id, Server: "the server's answer can't be read"}
	}
	return Undelivered{ID: id, Server: found.explain(), state: found.CallbackState, attempts: len(found.Attempts)}
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

// explain describes a request and its last attempt in a line.
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
