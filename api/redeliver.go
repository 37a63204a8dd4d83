package api

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"ringback/db"
	"ringback/jobs"
)

// redeliverRequest lets the callback of one request off again. One that is
// pending is on its way already.
func (a *API) redeliverRequest(c *gin.Context) (reply, error) {
	id, err := requestID(c)
	if err != nil {
		return reply{}, err
	}
	client := c.GetString(clientKey)
	ctx, cancel := databaseContext(c.Request.Context())
	defer cancel()
	if _, err := a.Queue.Redeliver(ctx, []db.Redelivery{{RequestID: id, Client: client, At: time.Now()}}); err != nil {
		return reply{}, err
	}
	whole, err := a.loadWhole(ctx, client, id)
	if err != nil {
		return reply{}, err
	}
	if whole.CallbackState == db.CallbackWaiting || whole.CallbackState == db.CallbackCancelled || whole.CallbackState == "" {
		return reply{}, newProblem("not-redeliverable", "There is no callback that has ended: its state is "+stateOf(whole.Request)+".")
	}
	return reply{status: http.StatusAccepted, location: locationOf(id), body: whole}, nil
}

func stateOf(request db.Request) string {
	if request.CallbackState == "" {
		return "none, of a sync request"
	}
	return string(request.CallbackState)
}

// redeliveriesBody is the body of POST /redeliveries.
type redeliveriesBody struct {
	Filter struct {
		CallbackHost  string           `json:"callback_host"`
		CallbackState db.CallbackState `json:"callback_state"`
		From          time.Time        `json:"from"` // of accepted_at
		To            time.Time        `json:"to"`   // excluded
	} `json:"filter"`
	DryRun bool   `json:"dry_run"`
	Rate   *int   `json:"rate"` // a second
	Cursor string `json:"cursor"`
}

// redeliveries is the answer to it.
type redeliveries struct {
	Matched     int    `json:"matched"` // of at most a thousand
	Redelivered int    `json:"redelivered"`
	More        bool   `json:"more"`
	NextCursor  string `json:"next_cursor,omitempty"` // absent on the last page
}

// Limits of POST /redeliveries.
const (
	maxRedeliveries = 1000 // a call, which takes a few statements
	defaultRate     = 10
	maxRate         = 100
)

// redeliver lets many callbacks off again, oldest first, spaced by the rate.
func (a *API) redeliver(c *gin.Context) (reply, error) {
	filter, body, err := a.readRedeliveries(c)
	if err != nil {
		return reply{}, err
	}
	filter.Client, filter.Limit = c.GetString(clientKey), maxRedeliveries+1 // one more tells whether there are more
	ctx, cancel := databaseContext(c.Request.Context())
	defer cancel()
	ids, err := db.FindEnded(ctx, a.Pool, filter)
	if err != nil {
		return reply{}, err
	}
	var answer redeliveries
	if answer.More = len(ids) > maxRedeliveries; answer.More {
		ids = ids[:maxRedeliveries]
		answer.NextCursor = ids[maxRedeliveries-1].String()
	}
	answer.Matched = len(ids)
	if body.DryRun {
		return reply{status: http.StatusOK, body: answer}, nil
	}
	if answer.Redelivered, err = a.Queue.Redeliver(ctx, redeliveriesOf(ids, filter, *body.Rate)); err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusAccepted, body: answer}, nil
}

func redeliveriesOf(ids []uuid.UUID, filter db.EndedFilter, rate int) []db.Redelivery {
	wanted := make([]db.Redelivery, len(ids))
	for i, due := range jobs.Spaced(time.Now(), len(ids), rate) {
		wanted[i] = db.Redelivery{RequestID: ids[i], Client: filter.Client, From: filter.State, At: due}
	}
	return wanted
}

// readRedeliveries decodes and checks the body.
func (a *API) readRedeliveries(c *gin.Context) (filter db.EndedFilter, body redeliveriesBody, err error) {
	rate := defaultRate
	body.Rate, body.Filter.CallbackState = &rate, db.CallbackDead
	if _, err := a.decode(c, &body); err != nil {
		return filter, body, err
	}
	filter = db.EndedFilter{
		State: body.Filter.CallbackState, Host: strings.ToLower(body.Filter.CallbackHost), From: body.Filter.From, To: body.Filter.To,
	}
	if body.Cursor != "" {
		if filter.After, err = parseID(body.Cursor); err != nil {
			return filter, body, invalidInput("/cursor", "must be the next_cursor of an earlier answer")
		}
	}
	switch {
	case strings.ContainsFunc(filter.Host, func(r rune) bool { return r <= ' ' || r > '~' }):
		return filter, body, invalidInput("/filter/callback_host", "must be a host as it stands in a callback URL")
	case filter.State != db.CallbackDead && filter.State != db.CallbackDelivered:
		return filter, body, invalidInput("/filter/callback_state", "must be dead or delivered")
	case filter.State == db.CallbackDelivered && filter.From.IsZero():
		return filter, body, invalidInput("/filter/from", "is required with delivered")
	case body.Rate == nil || *body.Rate < 1 || *body.Rate > maxRate:
		return filter, body, invalidInput("/rate", fmt.Sprintf("must be from 1 to %d a second", maxRate))
	}
	return filter, body, nil
}
