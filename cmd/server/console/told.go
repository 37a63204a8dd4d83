package console

import (
	"time"

	"ringback/db"
	"ringback/jobs/limit"
)

// toldRequest is a request as a program gets it here: what its caller sees of it,
// and what is for operators only.
type toldRequest struct {
	db.Request
	Client        string        `json:"client"`
	WorkJobID     int64         `json:"work_job_id,omitzero"`
	CallbackJobID int64         `json:"callback_job_id,omitzero"`
	WaitsFor      limit.Reason  `json:"callback_waits_for,omitzero"`
	Attempts      []toldAttempt `json:"attempts"`
	Jobs          []toldJob     `json:"jobs"`
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
		Request: i.Request, Client: i.Client, WorkJobID: i.WorkJobID, CallbackJobID: i.CallbackJobID, WaitsFor: i.WaitsFor,
		Attempts: []toldAttempt{}, Jobs: []toldJob{},
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
