package api

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"ringback/db"
)

// shownRequest is a request as its caller sees it.
type shownRequest struct {
	ID            uuid.UUID        `json:"id"` // UUIDv7
	Mode          db.Mode          `json:"mode"`
	Work          string           `json:"work,omitzero"`
	Status        db.Status        `json:"status"`
	Input         jsontext.Value   `json:"input,omitzero"`
	Result        jsontext.Value   `json:"result,omitzero"`
	Error         jsontext.Value   `json:"error,omitzero"` // {"code", "message"}
	CallbackURL   string           `json:"callback_url,omitzero"`
	CallbackState db.CallbackState `json:"callback_state,omitzero"`
	OrderingKey   string           `json:"ordering_key,omitzero"`
	Sequence      int64            `json:"sequence,omitzero"` // acceptance order; only with an ordering key
	Traceparent   string           `json:"traceparent,omitzero"`
	AcceptedAt    time.Time        `json:"accepted_at"`
	StartedAt     time.Time        `json:"started_at,omitzero"`
	FinishedAt    time.Time        `json:"finished_at,omitzero"`
	SettledAt     time.Time        `json:"settled_at,omitzero"`
	RunAt         time.Time        `json:"run_at,omitzero"`
	ExpiresAt     time.Time        `json:"expires_at,omitzero"`
	RedeliveredAt time.Time        `json:"redelivered_at,omitzero"`
	RunningSince  time.Time        `json:"running_since,omitzero"` // of work that goes on elsewhere
	Progress      jsontext.Value   `json:"progress,omitzero"`
}

// shown is a row as its caller sees it. The time at which its callback was settled is cut
// to the second, but not to before the work's end: the exact times would tell how long the
// receiver took.
func shown(r db.Request) shownRequest {
	settledAt := r.SettledAt
	if !settledAt.IsZero() {
		settledAt = later(settledAt.Truncate(time.Second), r.FinishedAt)
	}
	return shownRequest{
		ID: r.ID, Mode: r.Mode, Work: r.Work, Status: r.Status, Input: r.Input, Result: r.Result, Error: r.Error,
		CallbackURL: r.CallbackURL, CallbackState: r.CallbackState, OrderingKey: r.OrderingKey, Sequence: r.Sequence, Traceparent: r.Traceparent,
		AcceptedAt: r.AcceptedAt, StartedAt: r.StartedAt, FinishedAt: r.FinishedAt, SettledAt: settledAt,
		RunAt: r.RunAt, ExpiresAt: r.ExpiresAt, RedeliveredAt: r.RedeliveredAt, RunningSince: r.RunningSince, Progress: r.Progress,
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
