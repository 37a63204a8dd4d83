package jobs

import (
	"net/http"
	"time"

	"ringback/jobs/webhook"
)

// A receiver that fails so often in a row is down: it is left alone for a while
// that doubles, up to the longest, each time that a probe finds it so.
const (
	failuresToOpen = 10
	firstOpening   = 30 * time.Second
	longestOpening = 15 * time.Minute
)

// breaker is the circuit breaker of an origin: closed (its zero value), open,
// or half open, when one probe at a time decides.
type breaker struct {
	failures int       // in a row
	openings int       // in a row, with no healthy answer in between
	until    time.Time // open until then
}

func (b breaker) halfOpen(now time.Time) bool { return b.openings > 0 && !b.until.After(now) }

// after is the breaker after an attempt.
func (b breaker) after(healthy bool, now time.Time) breaker {
	if healthy {
		return breaker{}
	}
	b.failures++
	wasUnderWay := b.until.After(now) // when the breaker opened
	if wasUnderWay || b.openings == 0 && b.failures < failuresToOpen {
		return b
	}
	b.until = now.Add(min(firstOpening<<min(b.openings, 10), longestOpening))
	b.openings++
	return b
}

// isHealthy tells whether an attempt shows that the receiver is up. One that
// refuses a callback, with 404 say, is: else whoever calls a URL that isn't there
// would close the origin to all others.
func isHealthy(sent webhook.Attempt) bool {
	switch sent.Outcome {
	case webhook.Timeout, webhook.TLSFailed, webhook.ConnectionFailed:
		return false
	case webhook.HTTPStatus:
		return sent.Status < http.StatusInternalServerError
	}
	return true
}
