package api

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"ringback/jobs/tracing"
)

// traced handles calls that ask for work: where calls are traced, in a span below the
// caller's. A call without a key, or beyond its client's rate, has no span.
func (a *API) traced(answer func(*call) (reply, error)) []gin.HandlerFunc {
	if a.Tracer == nil {
		return []gin.HandlerFunc{a.handle(answer)}
	}
	return []gin.HandlerFunc{with(a.trace), a.handle(answer)}
}

func (a *API) trace(c *call) {
	span := a.Tracer.Call(c.Request, c.FullPath(), c.traceparent)
	if own := span.Traceparent(""); own != "" {
		c.traceparent = own
	}
	returned := false
	defer func() {
		end := tracing.Answer{
			Status: c.Writer.Status(), Request: c.requestID, Work: c.work, Problem: c.problem,
		}
		if len(c.Errors) > 0 {
			end.Failure = c.Errors[0].Err
		}
		if !returned { // observe, the outer handler, answers a panic
			end.Status, end.Problem = http.StatusInternalServerError, "panic"
		}
		span.Answered(end)
	}()
	c.Next()
	returned = true
}
