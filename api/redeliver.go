package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"

	"ringback/db"
	"ringback/jobs"
)

// redeliverRequest makes the callback of one request pending again. A callback
// that is pending is on its way already, or is given the job that it lost.
func (a *API) redeliverRequest(c *call) (reply, error) {
	id, err := requestID(c)
	if err != nil {
		return reply{}, err
	}
	var whole wholeRequest
	err = a.change(c, func(ctx context.Context) error {
		if err := a.redeliverAgain(ctx, c.client, id); err != nil {
			return err
		}
		whole, err = loadWhole(ctx, a.Pool, c.client, id)
		return err
	})
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusAccepted, location: locationOf(id), body: whole}, nil
}

func (a *API) redeliverAgain(ctx context.Context, client string, id uuid.UUID) error {
	request, err := db.GetRequest(ctx, a.Pool, client, id)
	if err != nil {
		return err
	}
	switch request.CallbackState {
	case db.CallbackPending:
		return a.Queue.Mend(ctx, id) // its job may have been cancelled or deleted
	case db.CallbackDead, db.CallbackDelivered:
		return a.redeliverOne(ctx, request)
	default:
		return newProblem("not-redeliverable", "There is no callback that has ended: its state is "+stateOf(request)+".")
	}
}

// redeliverOne makes a callback leave again, or returns the reason why it may not.
func (a *API) redeliverOne(ctx context.Context, request db.Request) error {
	if _, err := a.checkCallback(request.Client, request.CallbackURL); err != nil {
		return refusedAgain(err)
	}
	done, err := a.Queue.Redeliver(ctx, []jobs.Redelivery{{
		Redelivery: db.Redelivery{RequestID: request.ID, Client: request.Client, At: time.Now()}, CallbackURL: request.CallbackURL,
	}})
	if err == nil && len(done.Refused) > 0 {
		err = done.Refused[0].Reason
	}
	return err
}

// refusedAgain is the problem of a callback URL that was accepted once: no field of
// this call's body is wrong.
func refusedAgain(err error) *problem {
	p := problemOf(err)
	p.Errors = nil
	return p
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
		CallbackHost  callbackHost     `json:"callback_host"`
		CallbackState db.CallbackState `json:"callback_state"`
		From          time.Time        `json:"from"` // of accepted_at
		To            time.Time        `json:"to"`   // excluded
	} `json:"filter"`
	DryRun bool   `json:"dry_run"`
	Rate   int    `json:"rate"` // a second
	Cursor string `json:"cursor"`
}

// noCursor marks a body without a cursor: an empty cursor is refused. No JSON text can hold
// it.
const noCursor = "\xff"

// noEnd is the end of a filter that names none: the last time that RFC 3339 can write.
var noEnd = time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)

// redeliveries is the answer to POST /redeliveries. A callback that matched is either
// redelivered or refused, unless it has changed meanwhile. A dry run redelivers none, and
// tells the refusals that need no try: quotas show only when they are asked.
type redeliveries struct {
	Matched     int                `json:"matched"` // of at most a thousand
	Redelivered int                `json:"redelivered"`
	Refused     []refusedCallbacks `json:"refused,omitempty"` // for each reason
	More        bool               `json:"more"`
	NextCursor  string             `json:"next_cursor,omitempty"` // absent on the last page
}

// refusedCallbacks tells how many callbacks were not redelivered, and why.
type refusedCallbacks struct {
	Count   int      `json:"count"`
	Problem *problem `json:"problem"`
}

// Limits of POST /redeliveries.
const (
	maxRedeliveries = 1000 // a call, which takes a few statements
	// redeliveryWindow is how many callbacks a call looks at.
	redeliveryWindow = 2 * maxRedeliveries
	defaultRate      = 10
	maxRate          = 100
)

// redeliver makes many callbacks pending again, oldest first, spaced by the rate.
func (a *API) redeliver(c *call) (reply, error) {
	filter, body, err := a.readRedeliveries(c)
	if err != nil {
		return reply{}, err
	}
	page, err := a.listMany(c, filter)
	if err != nil {
		return reply{}, err
	}
	answer := redeliveries{Matched: len(page.Requests), More: page.Next != uuid.Nil, NextCursor: cursorOf(page)}
	wanted, refused := a.redeliveriesOf(page.Requests, filter, body.Rate)
	if body.DryRun {
		answer.refuse(refused)
		return reply{status: http.StatusOK, body: answer}, nil
	}
	var done jobs.Redelivered
	err = a.change(c, func(ctx context.Context) error {
		done, err = a.Queue.Redeliver(ctx, wanted)
		return err
	})
	if err != nil {
		return reply{}, err
	}
	answered, err := answer.complete(wanted, refused, done)
	if err == nil {
		for _, refusal := range done.Refused {
			a.metrics.refused.Add(decisionOf(refusal.Reason).Reason, refusal.Count)
		}
	}
	return answered, err
}

// complete adds how many matching callbacks were redelivered or refused. Where there was no
// room for all, the cursor leads on to the first callback that was left.
func (r redeliveries) complete(wanted []jobs.Redelivery, refused jobs.Refusals, done jobs.Redelivered) (reply, error) {
	switch {
	case done.Tried == 0 && len(wanted) > 0: // nothing was done
		return reply{}, done.Refused[0].Reason
	case done.Tried < len(wanted):
		r.More, r.NextCursor = true, wanted[done.Tried-1].RequestID.String()
	}
	r.Redelivered = done.Count
	r.refuse(append(refused, done.Refused...))
	return reply{status: http.StatusAccepted, body: r}, nil
}

// refuse adds callbacks that are, or in a dry run would be, refused.
func (r *redeliveries) refuse(refused jobs.Refusals) {
	for _, refusal := range refused {
		r.Refused = append(r.Refused, refusedCallbacks{refusal.Count, refusedAgain(refusal.Reason)})
	}
}

// redeliveriesOf spaces the redeliveries of requests. Callbacks that may not go
// where they went before are refused.
func (a *API) redeliveriesOf(requests []db.Request, filter db.Filter, rate int) (wanted []jobs.Redelivery, refused jobs.Refusals) {
	for _, request := range requests {
		if _, err := a.checkCallback(filter.Client, request.CallbackURL); err != nil {
			refused = refused.Add(err, 1)
			continue
		}
		wanted = append(wanted, jobs.Redelivery{
			Redelivery:  db.Redelivery{RequestID: request.ID, Client: filter.Client, From: filter.CallbackState},
			CallbackURL: request.CallbackURL,
		})
	}
	for i, due := range jobs.Spaced(time.Now(), len(wanted), rate) {
		wanted[i].At = due
	}
	return wanted, refused
}

// readRedeliveries decodes and checks the body.
func (a *API) readRedeliveries(c *call) (filter db.Filter, body redeliveriesBody, err error) {
	body.Rate, body.Cursor, body.Filter.CallbackState, body.Filter.To = defaultRate, noCursor, db.CallbackDead, noEnd
	defer c.decoded()
	if _, err := a.decode(c, &body); err != nil {
		return filter, body, err
	}
	filter = db.Filter{
		Client: c.client, Mode: db.Async, CallbackState: body.Filter.CallbackState, CallbackHost: string(body.Filter.CallbackHost),
		From: body.Filter.From, To: body.Filter.To, OldestFirst: true, Limit: maxRedeliveries, Window: redeliveryWindow,
	}
	if filter, err = selected(filter, body.Cursor); err != nil {
		return filter, body, err
	}
	switch {
	case filter.CallbackState != db.CallbackDead && filter.CallbackState != db.CallbackDelivered:
		return filter, body, invalidInput("/filter/callback_state", "must be dead or delivered")
	case filter.CallbackState == db.CallbackDelivered && filter.From.IsZero():
		return filter, body, invalidInput("/filter/from", "is required with delivered")
	case body.Rate < 1 || body.Rate > maxRate:
		return filter, body, invalidInput("/rate", fmt.Sprintf("must be from 1 to %d a second", maxRate))
	}
	return filter, body, nil
}

// selected completes a filter for many callbacks, whose To may be noEnd.
func selected(filter db.Filter, cursor string) (db.Filter, error) {
	var err error
	if cursor != noCursor {
		if filter.Cursor, err = parseCursor(cursor); err != nil {
			return filter, invalidInput("/cursor", "must be the next_cursor of an earlier answer")
		}
	}
	if !filter.From.Before(filter.To) {
		return filter, invalidInput("/filter/to", "must be after from")
	}
	if filter.To.Equal(noEnd) {
		filter.To = time.Time{}
	}
	return filter, nil
}
