package work

import (
	"errors"
	"time"
)

// Policy says how often failed work is tried again.
type Policy struct {
	// Times is how many charged attempts may follow the first, at most 10; 0 for
	// DefaultRetries, and a negative number for none.
	Times int
	// On tells which other errors than Retry's are tried again: plain errors, panics and
	// missed deadlines. Nil for none.
	On func(err error) bool
}

// DefaultRetries is Times where a Policy leaves it at 0: over about 13 minutes.
const DefaultRetries = 5

// Most is how many charged attempts may follow the first.
func (p Policy) Most() int {
	switch {
	case p.Times < 0:
		return 0
	case p.Times == 0:
		return DefaultRetries
	default:
		return p.Times
	}
}

// again is the further run that an error allows, nil where the error is final.
func (p Policy) again(err error) *Again {
	var asked *retryError
	switch {
	case errors.As(err, &asked):
		return &Again{After: asked.after}
	case p.On != nil && p.On(err):
		return &Again{}
	}
	return nil
}

// Retry says that the work was not done, for a reason that may pass, and asks for another attempt.
// With a positive after, this attempt charges nothing. The next attempt comes no sooner than
// after, and later the more often it is asked for. With 0 the retry schedule sets its time. Where
// no attempt is left, or the request is sync, the work failed with err.
func Retry(err error, after time.Duration) error {
	return &retryError{err, max(0, after)}
}

type retryError struct {
	err   error
	after time.Duration
}

func (e *retryError) Error() string { return e.err.Error() }
func (e *retryError) Unwrap() error { return e.err }
