package api

import (
	"net/http"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"ringback/work"
)

// offered is the work that the address of a call names, or the default work.
func (a *API) offered(c *call) (*work.Offer, error) {
	offer := a.Catalog.Find(c.Param("work"))
	if offer == nil {
		return nil, newProblem("not-found", "There is no such work. GET /works lists the names.")
	}
	c.work = offer.Name
	return offer, nil
}

// worksAnswer is the answer to GET /works.
type worksAnswer struct {
	Default string        `json:"default"` // the work of /sync and /async
	Works   []workOffered `json:"works"`   // by name
}

type workOffered struct {
	Name          string         `json:"name"`
	Schema        jsontext.Value `json:"schema,omitzero"` // JSON Schema 2020-12 of the input; absent where any input is taken
	TimeoutMS     int64          `json:"timeout_ms"`      // of an attempt
	Limit         int            `json:"limit,omitzero"`  // attempts at a time
	Retries       int            `json:"retries"`         // charged attempts after the first, of an async request
	Deterministic bool           `json:"deterministic"`
	State         string         `json:"state"`          // up, down or paused: for the caller, in this process
	Since         time.Time      `json:"since,omitzero"` // down since then
	Until         time.Time      `json:"until,omitzero"` // the next probe, or the end of the pause
}

// listWorks says of a work's state what its callers would find out by calling it: no cause,
// no address, and nothing that other clients alone have seen.
func (a *API) listWorks(c *call) (reply, error) {
	answer := worksAnswer{Default: a.Catalog.Default().Name, Works: []workOffered{}}
	for _, offer := range a.Catalog.All() {
		state := a.Queue.WorkState(offer.Name, c.client)
		answer.Works = append(answer.Works, workOffered{
			Name: offer.Name, Schema: offer.Schema, TimeoutMS: offer.Timeout.Milliseconds(), Limit: offer.Limit,
			Retries: offer.Retry.Most(), Deterministic: offer.Deterministic,
			State: state.State, Since: state.Since.Truncate(time.Second), Until: state.Until.Truncate(time.Second),
		})
	}
	return reply{status: http.StatusOK, body: answer}, nil
}
