package console

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"ringback/db"
	"ringback/jobs/limit"
)

// toldRequest is a request as a program gets it here: the fields that its caller sees, and
// fields for operators only.
type toldRequest struct {
	ID            uuid.UUID        `json:"id"`
	Mode          db.Mode          `json:"mode"`
	Work          string           `json:"work,omitzero"`
	Status        db.Status        `json:"status"`
	Input         jsontext.Value   `json:"input,omitzero"`
	Progress      jsontext.Value   `json:"progress,omitzero"`
	LostAt        time.Time        `json:"lost_at,omitzero"` // of work that goes on elsewhere, unless something is heard of it
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
	SettledAt     time.Time        `json:"settled_at,omitzero"`
	RunAt         time.Time        `json:"run_at,omitzero"`
	ExpiresAt     time.Time        `json:"expires_at,omitzero"`
	RedeliveredAt time.Time        `json:"redelivered_at,omitzero"`
	Client        string           `json:"client"`
	WorkJobID     int64            `json:"work_job_id,omitzero"`
	CallbackJobID int64            `json:"callback_job_id,omitzero"`
	WaitsFor      limit.Reason     `json:"callback_waits_for,omitzero"`
	CallbackDueAt time.Time        `json:"callback_due_at,omitzero"`
	Attempts      []toldAttempt    `json:"attempts"`
	Jobs          []toldJob        `json:"jobs"`
}

type toldAttempt struct {
	Attempt       int       `json:"attempt"`
	StartedAt     time.Time `json:"started_at"`
	EndedAt       time.Time `json:"ended_at"`
	Outcome       string    `json:"outcome"`
	HTTPStatus    int       `json:"http_status,omitzero"`
	NextAttemptAt time.Time `json:"next_attempt_at,omitzero"`
	Address       string    `json:"address,omitzero"`
	Cause         string    `json:"cause,omitzero"`
	DNS           float64   `json:"dns_ms,omitzero"`
	Connect       float64   `json:"connect_ms,omitzero"`
	TLS           float64   `json:"tls_ms,omitzero"`
	FirstByte     float64   `json:"first_byte_ms,omitzero"`
}

type toldJob struct {
	ID          int64     `json:"id"`
	Kind        string    `json:"kind"`
	State       string    `json:"state"`
	Attempt     int       `json:"attempt"`
	MaxAttempts int       `json:"max_attempts"`
	Process     string    `json:"process,omitzero"`
	AttemptedAt time.Time `json:"attempted_at,omitzero"`
	ScheduledAt time.Time `json:"scheduled_at"`
	FinalizedAt time.Time `json:"finalized_at,omitzero"`
	Errors      int       `json:"errors"`
}

func toldOf(i inspected) toldRequest {
	told := toldRequest{
		ID: i.ID, Mode: i.Mode, Work: i.Work, Status: i.Status, Input: i.Input, Progress: i.Progress, Result: i.Result, Error: i.Error,
		CallbackURL: i.CallbackURL, CallbackState: i.CallbackState, OrderingKey: i.OrderingKey, Sequence: i.Sequence, Traceparent: i.Traceparent,
		AcceptedAt: i.AcceptedAt, StartedAt: i.StartedAt, FinishedAt: i.FinishedAt, SettledAt: i.SettledAt,
		RunAt: i.RunAt, ExpiresAt: i.ExpiresAt, RedeliveredAt: i.RedeliveredAt, Client: i.Client, WorkJobID: i.WorkJobID, CallbackJobID: i.CallbackJobID, WaitsFor: i.Wait.Reason, CallbackDueAt: i.Wait.Until,
		Attempts: []toldAttempt{}, Jobs: []toldJob{},
	}
	if i.GoesOn() {
		told.LostAt = i.LostAt
	}
	for _, a := range i.Attempts {
		told.Attempts = append(told.Attempts, toldAttempt{
			a.Attempt, a.StartedAt, a.EndedAt, a.Outcome, a.HTTPStatus, a.NextAttemptAt, a.Address, a.Cause,
			milliseconds(a.DNS), milliseconds(a.Connect), milliseconds(a.TLS), milliseconds(a.FirstByte),
		})
	}
	for _, j := range i.Jobs {
		told.Jobs = append(told.Jobs, toldJob(j))
	}
	return told
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
