package api

import (
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"ringback/jobs/tracing"
)

const (
	problemKey  = "problem"   // the name of the problem that was answered
	reasonKey   = "reason"    // for which the call was refused, if it was
	workKey     = "work"      // the name of the work that the call was about
	requestKey  = "request"   // the id of the request that the call was about
	bodyReadKey = "body_read" // whether the body was read to its end
	traceKey    = "trace"     // the traceparent that goes along with the request
	releaseKey  = "release"   // gives back the body's part of the budget
)

// observe gives every call an X-Request-Id, turns a panic into a 500, and writes the call's
// only log line.
func (a *API) observe(c *gin.Context) {
	start := time.Now()
	callID := c.GetHeader("X-Request-Id")
	if !validCallID(callID) {
		callID = uuid.NewString()
	}
	c.Header("X-Request-Id", callID)
	c.Header("Cache-Control", "no-store")
	if c.Request.ContentLength != 0 {
		// Not the server's ReadTimeout, which would go on counting while the work
		// runs, and end it.
		_ = http.NewResponseController(c.Writer).SetReadDeadline(start.Add(bodyTimeout))
	}
	defer func() {
		if value := recover(); value != nil {
			a.writeProblem(c, fmt.Errorf("panic: %v\n%s", value, debug.Stack()))
		}
		releaseBody(c)
		took := time.Since(start)
		a.metrics.answered(c, took)
		a.log(c, callID, took)
	}()
	c.Next()
}

// releaseBody gives back the body's part of the budget, once.
func releaseBody(c *gin.Context) {
	if release, ok := c.Get(releaseKey); ok {
		c.Set(releaseKey, func() {})
		release.(func())()
	}
}

// validCallID accepts an id that can stand in a header and a log line.
func validCallID(id string) bool {
	return id != "" && len(id) <= 128 && strings.IndexFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

func (a *API) log(c *gin.Context, callID string, took time.Duration) {
	route := c.FullPath()
	level := slog.LevelInfo
	switch {
	case len(c.Errors) > 0 && c.Writer.Status() != http.StatusServiceUnavailable:
		level = slog.LevelError
	case route == "/healthz", route == "/readyz", route == "/livez":
		level = slog.LevelDebug // asked every few seconds
	}
	attrs := []any{
		"method", c.Request.Method, "route", route, "status", c.Writer.Status(),
		"duration_ms", float64(took.Microseconds()) / 1000, "http_request_id", callID,
		"client", c.GetString(clientKey), "bytes_in", c.Request.ContentLength, "bytes_out", c.Writer.Size(),
	}
	if id := c.GetString(requestKey); id != "" {
		attrs = append(attrs, "request_id", id)
	}
	if name := c.GetString(workKey); name != "" {
		attrs = append(attrs, "work", name)
	}
	if name := c.GetString(problemKey); name != "" {
		attrs = append(attrs, "problem", name)
	}
	if reason := c.GetString(reasonKey); reason != "" {
		attrs = append(attrs, "reason", reason)
	}
	if id := tracing.TraceID(c.GetString(traceKey)); id != "" {
		attrs = append(attrs, "trace_id", id)
	}
	if len(c.Errors) > 0 {
		attrs = append(attrs, "error", c.Errors[0].Err)
	}
	a.Logger.Log(c.Request.Context(), level, "http_request", attrs...)
}
