// Package limit is the one idea of a limit: how much may happen, shared by whom,
// and when who was refused may come again. README.md is its manual.
//
// Nothing here reads a clock, sleeps or locks: callers pass the time, and let one
// goroutine at a time use a limit.
package limit

import "time"

// Reason names the limit that refused, in a word for metrics, logs and callers.
// The empty Reason says yes.
type Reason string

// Decision is what a limit says: yes, or when to come again, and why.
type Decision struct {
	Reason  Reason
	RetryAt time.Time // zero for yes, and for never
}

// OK tells that nothing refused.
func (d Decision) OK() bool { return d.Reason == "" }

// Latest returns the latest of times.
func Latest(first time.Time, others ...time.Time) time.Time {
	for _, other := range others {
		if other.After(first) {
			first = other
		}
	}
	return first
}
