// Package work defines and runs the service's work, alike for sync and async callers.
// Work takes and returns JSON and knows nothing of SQL or queues. cmd/server/works.go
// names the kinds of work; the sample is in work/fingerprint.
package work

import (
	"context"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Work is a kind of work.
type Work struct {
	// Check returns the canonical form of an input, which neither Do nor the database may
	// refuse later. It is called before anything is accepted. Every error refuses the
	// input, and callers are told its text; Mistakes, a *FieldError and the errors of the
	// JSON decoder name the field. Nil: an input that Schema allows is taken as it is.
	Check func(input jsontext.Value) (jsontext.Value, error)
	Do    Func
	// Schema is the JSON Schema (2020-12) of the input, for callers to read. Where there is
	// a Check, Check decides, since a schema costs more than most checks; a refused input is
	// then compared with the schema, so that every mistake is told. Nil: any input.
	Schema jsontext.Value

	Timeout time.Duration // the longest that a run may take; 0 for the setting WORK_TIMEOUT
	Limit   int           // runs at a time in each process, besides the setting WORK_LIMIT; 0 for no limit of its own
	Retry   Policy        // of runs that fail
	// Paced says that another service does the work, which is spared while it fails: after
	// failures in a row nothing but a probe is sent from time to time.
	Paced bool
	// Service is the URL of that service without its query, for operators.
	Service string

	// Lease is how long a run that goes on elsewhere (ErrElsewhere) may send no report
	// until it is lost. 0: the work may not go on elsewhere.
	Lease time.Duration

	// Deterministic says that the same input gives the same result, so that a load
	// generator may compare results.
	Deterministic bool

	schemaFirst bool  // Check takes more than the schema allows
	mistake     error // refuses the work, nil for none
}

// Func does the work of a call. Where ctx ends, it returns the error of ctx. An *Error that
// it returns is told to the caller, and Retry asks for another attempt.
type Func func(ctx context.Context, call Call) (jsontext.Value, error)

// Plain is work that needs its input alone.
type Plain func(ctx context.Context, input jsontext.Value) (jsontext.Value, error)

// Do is the Func.
func (p Plain) Do(ctx context.Context, call Call) (jsontext.Value, error) { return p(ctx, call.Input) }

// Call is a run of the work of a request.
type Call struct {
	Input       jsontext.Value // the canonical form, from Check
	RequestID   string         // the same on every attempt
	Attempt     int            // counted from 1
	Mode        string         // sync or async
	Client      string
	Traceparent string // W3C Trace Context, empty for a request without it
	FinishURL   string // takes reports on this run, if the work has a Lease
}

// FieldError names the field of the input that breaks a rule.
type FieldError struct {
	Pointer string // RFC 6901 pointer into the input, as in "/text"
	Detail  string // the rule, as a sentence without the field's name
}

func (e *FieldError) Error() string {
	return strings.TrimSpace(strings.TrimPrefix(e.Pointer, "/") + " " + e.Detail)
}

// Mistakes are all mistakes of an input, at least one.
type Mistakes []*FieldError

func (m Mistakes) Error() string {
	told := make([]string, len(m))
	for i, mistake := range m {
		told[i] = mistake.Error()
	}
	return strings.Join(told, "; ")
}
