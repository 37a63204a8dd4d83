package jobs

import (
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"ringback/db"
)

// payload is the body of a callback, in the form of Standard Webhooks. It is the same
// for every attempt, also after a redelivery.
type payload struct {
	Type      string      `json:"type"`
	Timestamp time.Time   `json:"timestamp"`
	Data      payloadData `json:"data"`
}

// payloadData is the part of a request that its receiver sees.
type payloadData struct {
	ID            uuid.UUID        `json:"id"`
	Mode          db.Mode          `json:"mode"`
	Work          string           `json:"work,omitzero"`
	Status        db.Status        `json:"status"`
	Result        jsontext.Value   `json:"result,omitzero"`
	Error         jsontext.Value   `json:"error,omitzero"`
	CallbackURL   string           `json:"callback_url,omitzero"`
	CallbackState db.CallbackState `json:"callback_state,omitzero"`
	OrderingKey   string           `json:"ordering_key,omitzero"`
	Sequence      int64            `json:"sequence,omitzero"`
	Traceparent   string           `json:"traceparent,omitzero"`
	AcceptedAt    time.Time        `json:"accepted_at"`
	StartedAt     time.Time        `json:"started_at,omitzero"`
	FinishedAt    time.Time        `json:"finished_at,omitzero"`
	RunAt         time.Time        `json:"run_at,omitzero"`
	ExpiresAt     time.Time        `json:"expires_at,omitzero"`
}

func callbackBody(r db.Request) (jsontext.Value, error) {
	body, err := json.Marshal(payload{"request." + string(r.Status), r.FinishedAt, payloadData{
		ID: r.ID, Mode: r.Mode, Work: r.Work, Status: r.Status, Result: r.Result, Error: r.Error,
		CallbackURL: r.CallbackURL, CallbackState: r.CallbackState, OrderingKey: r.OrderingKey, Sequence: r.Sequence, Traceparent: r.Traceparent,
		AcceptedAt: r.AcceptedAt, StartedAt: r.StartedAt, FinishedAt: r.FinishedAt, RunAt: r.RunAt, ExpiresAt: r.ExpiresAt,
	}}, db.AsStored())
	if err != nil {
		return nil, fmt.Errorf("encoding callback: %w", err)
	}
	return body, nil
}
