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

// Lost is an acknowledged request that was not called back, and why
// that is so, as far as the server tells: missing or pending.
type Lost struct {
	ID     uuid.UUID `json:"id"`
	Server string    `json:"server"` // the answer of GET /requests/{id}
	state  string    // of the callback, as the server tells it

	attempts int // at the callback, likewise
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
func (r *Run) explain(f *Findings) {
	if r.config.Unread {
		return
	}
	missing := r.lookUp(f.missing)
	excused := func(ids []uuid.UUID, count *int, excuse func(Lost) bool) (rest []Lost) {
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
	dead := excused(f.uncalled, &f.Async.Dead, Lost.isExcused)
	pending := excused(f.pending, &f.Async.Pending, Lost.isPending)
	if f.Async.Attempts == 0 { // at receivers that refuse connections, nothing comes
		for _, request := range slices.Concat(dead, pending) {
			f.Async.Attempts += request.attempts
		}
	}
	f.Async.MissingRequests = missing[:min(len(missing), MaxReported)]
	f.Async.PendingRequests = pending[:min(len(pending), MaxReported)]
}

// lookUp asks the server for each of the ids, up to maxLookups.
func (r *Run) lookUp(ids []uuid.UUID) []Lost {
	lost := make([]Lost, min(len(ids), maxLookups))
	var asking errgroup.Group
	asking.SetLimit(lookupsAtATime)
	for i := range lost {
		asking.Go(func() error {
			lost[i] = r.client.lookUp(ids[i])
			return nil
		})
	}
	_ = asking.Wait() // no error
	return lost
}

func (c *client) lookUp(id uuid.UUID) Lost {
	status, body, err := c.get("/requests/" + id.String())
	var found foundRequest
	switch {
	case err != nil:
		return Lost{ID: id, Server: "the server doesn't answer: " + judgeError(err).reason, state: unknown}
	case status >= http.StatusInternalServerError:
		return Lost{ID: id, Server: fmt.Sprintf("the server answers status %d", status), state: unknown}
	case status != http.StatusOK:
		return Lost{ID: id, Server: fmt.Sprintf("the server answers status %d", status)}
	case json.Unmarshal(body, &found) != nil:
		return Lost{ID: id, Server: "the server's answer can't be read"}
	}
	return Lost{ID: id, Server: found.explain(), state: found.CallbackState, attempts: len(found.Attempts)}
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
