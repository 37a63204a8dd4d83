// Package limit is the one idea of a limit: how much may happen, shared by whom, and when
// a refused caller may come again. README.md is its manual.
//
// Only Gate reads a clock, sleeps and locks. Callers of all other types pass the time, and let
// one goroutine at a time use a limit.
package limit

import "time"

// Reason names the limit that refused, in a word for metrics, logs and callers.
// The empty Reason says yes.
type Reason string

// Decision is a limit's answer: yes, or when to come again, and why.
type Decision struct {
	Reason  Reason
	RetryAt time.Time // zero for yes, for never, and where nobody knows
	Most    int64     // the most that the limit allows, where the client may know it
}

// OK tells that nothing refused.
func (d Decision) OK() bool { return d.Reason == "" }

// Err is nil for yes, and a *Refusal for no.
func (d Decision) Err() error {
	if d.OK() {
		return nil
	}
	return &Refusal{d}
}

// Refusal is a Decision that says no, for callers who pass it on as an error.
type Refusal struct{ Decision }

func (r *Refusal) Error() string { return "refused by the limit " + string(r.Reason) }

// Is tells whether target is a refusal for the same reason.
func (r *Refusal) Is(target error) bool {
	other, ok := target.(*Refusal)
	return ok && other.Reason == r.Reason
}

// Latest returns the latest of times.
func Latest(first time.Time, others ...time.Time) time.Time {
	for _, other := range others {
		if other.After(first) {
			first = other
		}
	}
	return first
}
