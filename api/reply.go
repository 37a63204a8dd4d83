package api

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"

	"github.com/gin-gonic/gin"
	"github.com/go-json-experiment/json"

	"ringback/db"
)

// reply is the answer of a handler when all went well.
type reply struct {
	status     int
	location   string // of the request in this answer, if any
	retryAfter int    // seconds after which to look again, 0 for none
	body       any    // encoded as JSON
}

// handle adapts a function that returns an answer or an error: only handle writes either.
func (a *API) handle(answer func(*call) (reply, error)) gin.HandlerFunc {
	return with(func(c *call) {
		r, err := answer(c)
		if err != nil {
			a.writeProblem(c, err)
			return
		}
		if r.location != "" {
			c.Header("Location", r.location)
		}
		if r.retryAfter > 0 {
			c.Header("Retry-After", strconv.Itoa(r.retryAfter))
		}
		a.write(c, r.status, "application/json", r.body)
	})
}

func (a *API) writeProblem(c *call, err error) {
	problem := problemOf(err)
	if problem.Status >= http.StatusInternalServerError && problem.Status != http.StatusLoopDetected { // a loop isn't our fault
		_ = c.Error(err) // for the log line
	}
	c.problem = problem.name
	c.reason = string(problem.reason)
	if problem.name == "invalid-callback-url" {
		c.cause = problem.Detail // a rule: it quotes nothing of the URL
	}
	switch {
	case problem.retryAfter > 0:
		c.Header("Retry-After", strconv.Itoa(problem.retryAfter))
	case problem.Status == http.StatusServiceUnavailable, problem.Status == http.StatusTooManyRequests:
		// Jittered, so that refused callers don't come back together.
		c.Header("Retry-After", strconv.Itoa(1+rand.IntN(3)))
	}
	if problem.Status == http.StatusUnauthorized {
		c.Header("WWW-Authenticate", `Bearer realm="ringback"`)
	}
	if problem.location != "" {
		c.Header("Location", problem.location)
	}
	a.write(c, problem.Status, "application/problem+json", problem)
	c.Abort()
}

func (a *API) write(c *call, status int, contentType string, body any) {
	encoded, err := json.Marshal(body, db.AsStored())
	if err != nil {
		_ = c.Error(fmt.Errorf("encoding answer: %w", err))
		status, contentType = http.StatusInternalServerError, "application/problem+json"
		encoded = []byte(`{"type":"/problems/internal-error","title":"Something went wrong on our side.","status":500,"detail":"The operators see the cause in the log."}`)
	}
	// The newline puts a terminal's next prompt on a line of its own.
	a.send(c, status, contentType, append(encoded, '\n'))
}

func (a *API) send(c *call, status int, contentType string, body []byte) {
	c.Header("Content-Type", contentType)
	c.leaveBody()
	defer a.answers.reserve(c.client, cap(body), c.expectReader())()
	c.Status(status)
	// An error means that the caller is gone, or has read nothing for too long.
	_, _ = c.Writer.Write(body)
}
