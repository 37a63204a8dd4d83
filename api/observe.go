package api

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"ringback/jobs/tracing"
)

// observe begins every call, with an X-Request-Id, turns a panic into a 500, and writes
// the call's one log line.
func (a *API) observe(raw *gin.Context) {
	c := newCall(raw)
	c.Header("X-Request-Id", c.id)
	c.Header("Cache-Control", "no-store")
	c.expectBody(cmp.Or(a.BodyTimeout, bodyTimeout))
	defer func() {
		if value := recover(); value != nil {
			a.writeProblem(c, fmt.Errorf("panic: %v\n%s", value, debug.Stack()))
		}
		c.decoded()
		c.releaseBody()
		took := time.Since(c.begin)
		a.metrics.answered(c, took)
		a.log(c, took)
	}()
	c.Next()
}

// validCallID accepts an id that can stand in a header and a log line.
func validCallID(id string) bool {
	return id != "" && len(id) <= 128 && strings.IndexFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

func (a *API) log(c *call, took time.Duration) {
	route := c.FullPath()
	level := slog.LevelInfo
	switch {
	case len(c.Errors) > 0 && c.Writer.Status() != http.StatusServiceUnavailable:
		level = slog.LevelError
	case route == "/healthz", route == "/readyz", route == "/livez":
		level = slog.LevelDebug // asked every few seconds
	}
	unlogged := 0
	if level == slog.LevelInfo && c.isStrangers() {
		var due bool
		if unlogged, due = a.strangers.take(time.Now()); !due {
			return
		}
	}
	attrs := []any{
		"method", c.Request.Method, "route", route, "status", c.Writer.Status(),
		"duration_ms", float64(took.Microseconds()) / 1000, "http_request_id", c.id,
		"client", c.client, "bytes_in", c.Request.ContentLength, "bytes_out", c.Writer.Size(),
	}
	if c.requestID != "" {
		attrs = append(attrs, "request_id", c.requestID)
	}
	if c.work != "" {
		attrs = append(attrs, "work", c.work)
	}
	if c.problem != "" {
		attrs = append(attrs, "problem", c.problem)
	}
	if c.reason != "" {
		attrs = append(attrs, "reason", c.reason)
	}
	if c.cause != "" {
		attrs = append(attrs, "cause", c.cause)
	}
	if c.unknown.Why != "" {
		attrs = append(attrs, c.whyUnknown()...)
	}
	if unlogged > 0 {
		attrs = append(attrs, "unlogged", unlogged)
	}
	if id := tracing.TraceID(c.traceparent); id != "" {
		attrs = append(attrs, "trace_id", id)
	}
	if len(c.Errors) > 0 {
		attrs = append(attrs, "error", c.Errors[0].Err)
	}
	a.Logger.Log(c.Request.Context(), level, "http_request", attrs...)
}

// isStrangers tells whether a call has neither a valid key nor a valid token, so that anybody
// may send as many as it likes.
func (c *call) isStrangers() bool { return c.client == "" && c.requestID == "" }

// whyUnknown are the fields of the line of a call that has no client.
func (c *call) whyUnknown() []any {
	attrs := []any{"cause", c.unknown.Why, "remote_addr", c.Request.RemoteAddr}
	if c.unknown.Client != "" {
		attrs = append(attrs, "key_of", c.unknown.Client)
	}
	if c.unknown.Mistake != "" {
		attrs = append(attrs, "key_length", c.unknown.Length, "key_mistake", c.unknown.Mistake)
	}
	return attrs
}

// maxStrangersLines is how many calls of strangers are logged a second.
const maxStrangersLines = 10

// seldomLines lets some lines a second pass.
type seldomLines struct {
	mu       sync.Mutex
	second   time.Time // the latest in which a line passed
	passed   int       // in that second
	unlogged int       // since the latest line
}

// take tells whether a line is due, and how many lines were not since the last that was.
func (s *seldomLines) take(now time.Time) (unlogged int, due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.second) >= time.Second {
		s.second, s.passed = now, 0
	}
	if s.passed == maxStrangersLines {
		s.unlogged++
		return 0, false
	}
	s.passed++
	unlogged, s.unlogged = s.unlogged, 0
	return unlogged, true
}
