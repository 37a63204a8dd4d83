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
	maxLookups     = 10_000 // requests that are looked up after a run
	lookupsAtATime = 8
)

// Undelivered is an acknowledged request that was not called back, and what GET
// /requests/{id} says of it.
type Undelivered struct {
	ID     uuid.UUID `json:"id"`
	Server string    `json:"server"` // the server's answer, in a line

	state    string // of the callback, or unknown, or empty where the server knows no such request
	attempts int    // at the callback
}

// States of a callback that the server doesn't tell.
const (
	unknown = "unknown" // the server can't answer
	unasked = "unasked" // the server was not asked
)

// explain looks up the undelivered requests, and decides what became of each. A request that
// the server doesn't know, or calls done, is missing. A receiver that takes nothing excuses all
// else, and a receiver that is slow or flaky excuses a callback that the server still means to
// make.
func (r *Run) explain(f *Findings) {
	list := func(requests *[]Undelivered, u Undelivered) {
		if u.state != unasked && len(*requests) < MaxReported {
			*requests = append(*requests, u)
		}
	}
	came := f.Async.Attempts > 0
	for i, u := range r.lookUp(f.undelivered) {
		if !came { // as where all receivers refuse connections
			f.Async.Attempts += u.attempts
		}
		kind := f.undelivered[i].kind
		isPending := slices.Contains([]string{"waiting", "pending", unasked}, u.state)
		switch {
		case !kind.Delivers() && (isPending || u.state == "dead" || u.state == unknown):
			f.Async.Dead++
		case kind.MayBePending() && isPending:
			f.Async.Pending++
			list(&f.Async.PendingRequests, u)
		default:
			f.Async.Missing++
			list(&f.Async.MissingRequests, u)
		}
	}
}

// lookUp asks the server for each of the requests, up to maxLookups.
func (r *Run) lookUp(requests []*request) []Undelivered {
	found := make([]Undelivered, len(requests))
	var asking errgroup.Group
	asking.SetLimit(lookupsAtATime)
	for i, request := range requests {
		if found[i].state = unasked; i < maxLookups && !r.config.Unread {
			asking.Go(func() error {
				found[i] = r.client.lookUp(request.id)
				return nil
			})
		}
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
