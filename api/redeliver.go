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
	whole, err := loadWhole(ctx, a.Pool, client, id)
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
	// redeliveryWindow is how many callbacks are looked at for them.
	redeliveryWindow = 2 * maxRedeliveries
	defaultRate      = 10
	maxRate          = 100
)

// redeliver lets many callbacks off again, oldest first, spaced by the rate.
func (a *API) redeliver(c *gin.Context) (reply, error) {
	filter, body, err := a.readRedeliveries(c)
	if err != nil {
		return reply{}, err
	}
	page, err := a.list(c, filter)
	if err != nil {
		return reply{}, err
	}
	answer := redeliveries{Matched: len(page.Requests), More: page.Next != uuid.Nil, NextCursor: cursorOf(page)}
	if body.DryRun {
		return reply{status: http.StatusOK, body: answer}, nil
	}
	ctx, cancel := databaseContext(c.Request.Context())
	defer cancel()
	if answer.Redelivered, err = a.Queue.Redeliver(ctx, redeliveriesOf(page.Requests, filter, *body.Rate)); err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusAccepted, body: answer}, nil
}

func redeliveriesOf(requests []db.Request, filter db.Filter, rate int) []db.Redelivery {
	wanted := make([]db.Redelivery, len(requests))
	for i, due := range jobs.Spaced(time.Now(), len(requests), rate) {
		wanted[i] = db.Redelivery{RequestID: requests[i].ID, Client: filter.Client, From: filter.CallbackState, At: due}
	}
	return wanted
}

// readRedeliveries decodes and checks the body.
func (a *API) readRedeliveries(c *gin.Context) (filter db.Filter, body redeliveriesBody, err error) {
	rate := defaultRate
	body.Rate, body.Filter.CallbackState = &rate, db.CallbackDead
	if _, err := a.decode(c, &body); err != nil {
		return filter, body, err
	}
	filter = db.Filter{
		Client: c.GetString(clientKey), Mode: db.Async, CallbackState: body.Filter.CallbackState, CallbackHost: strings.ToLower(body.Filter.CallbackHost),
		From: body.Filter.From, To: body.Filter.To, OldestFirst: true, Limit: maxRedeliveries, Window: redeliveryWindow,
	}
	if body.Cursor != "" {
		if filter.Cursor, err = parseID(body.Cursor); err != nil {
			return filter, body, invalidInput("/cursor", "must be the next_cursor of an earlier answer")
		}
	}
	switch {
	case !mayBeHost(filter.CallbackHost):
		return filter, body, invalidInput("/filter/callback_host", "must be a host as it stands in a callback URL")
	case filter.CallbackState != db.CallbackDead && filter.CallbackState != db.CallbackDelivered:
		return filter, body, invalidInput("/filter/callback_state", "must be dead or delivered")
	case filter.CallbackState == db.CallbackDelivered && filter.From.IsZero():
		return filter, body, invalidInput("/filter/from", "is required with delivered")
	case body.Rate == nil || *body.Rate < 1 || *body.Rate > maxRate:
		return filter, body, invalidInput("/rate", fmt.Sprintf("must be from 1 to %d a second", maxRate))
	}
	return filter, body, nil
}
