package api

import (
	"context"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"ringback/db"
)

// discardRequest gives a dead letter up for good: its callback is cancelled, and the
// request goes with its age like any other. A second call finds it cancelled.
func (a *API) discardRequest(c *call) (reply, error) {
	id, err := requestID(c)
	if err != nil {
		return reply{}, err
	}
	var whole wholeRequest
	err = a.change(c, func(ctx context.Context) error {
		if _, err := db.DiscardDeadLetters(ctx, a.Pool, c.client, []uuid.UUID{id}); err != nil {
			return err
		}
		whole, err = loadWhole(ctx, a.Pool, c.client, id)
		return err
	})
	if err != nil {
		return reply{}, err
	}
	if whole.CallbackState != db.CallbackCancelled {
		return reply{}, newProblem("not-discardable", "There is no dead letter: the state of the callback is "+stateOf(whole.row)+".")
	}
	return reply{status: http.StatusOK, body: whole}, nil
}

// discardsBody is the body of POST /discards.
type discardsBody struct {
	Filter discardsFilter `json:"filter"`
	DryRun bool           `json:"dry_run"`
	Cursor string         `json:"cursor"`
}

type discardsFilter struct {
	CallbackHost callbackHost `json:"callback_host"`
	From         time.Time    `json:"from"` // of accepted_at
	To           time.Time    `json:"to"`   // excluded
	given        bool         // a body without a filter must not give up all dead letters
}

// UnmarshalJSONFrom notes that there is a filter.
func (f *discardsFilter) UnmarshalJSONFrom(decoder *jsontext.Decoder) error {
	type plain discardsFilter // without this method
	f.given = true
	return json.UnmarshalDecode(decoder, (*plain)(f))
}

// discards is the answer to POST /discards.
type discards struct {
	Matched    int    `json:"matched"` // of at most a thousand
	Discarded  int    `json:"discarded"`
	More       bool   `json:"more"`
	NextCursor string `json:"next_cursor,omitempty"` // absent on the last page
}

// discard gives many dead letters up, oldest first.
func (a *API) discard(c *call) (reply, error) {
	var body discardsBody
	body.Cursor, body.Filter.To = noCursor, noEnd
	defer c.decoded()
	if _, err := a.decode(c, &body); err != nil {
		return reply{}, err
	}
	if !body.Filter.given {
		return reply{}, invalidInput("/filter", "is required: {} picks all dead letters")
	}
	filter, err := selected(db.Filter{
		Client: c.client, Mode: db.Async, CallbackState: db.CallbackDead, CallbackHost: string(body.Filter.CallbackHost),
		From: body.Filter.From, To: body.Filter.To, OldestFirst: true, Limit: maxRedeliveries, Window: redeliveryWindow,
	}, body.Cursor)
	if err != nil {
		return reply{}, err
	}
	page, err := a.listMany(c, filter)
	if err != nil {
		return reply{}, err
	}
	answer := discards{Matched: len(page.Requests), More: page.Next != uuid.Nil, NextCursor: cursorOf(page)}
	if !body.DryRun && len(page.Requests) > 0 {
		answer.Discarded, err = a.discardAll(c, page.Requests)
	}
	return reply{status: http.StatusOK, body: answer}, err
}

func (a *API) discardAll(c *call, letters []db.Request) (discarded int, err error) {
	ids := make([]uuid.UUID, len(letters))
	for i, letter := range letters {
		ids[i] = letter.ID
	}
	err = a.change(c, func(ctx context.Context) error {
		discarded, err = db.DiscardDeadLetters(ctx, a.Pool, c.client, ids)
		return err
	})
	return discarded, err
}
