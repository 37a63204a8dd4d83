package api

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"ringback/jobs/tracing"
)

// traced handles calls that ask for work: where calls are traced, in a span below the
// caller's. A call without a key, or beyond its client's rate, has no span.
func (a *API) traced(answer func(*gin.Context) (reply, error)) []gin.HandlerFunc {
	if a.Tracer == nil {
		return []gin.HandlerFunc{a.handle(answer)}
	}
	return []gin.HandlerFunc{a.trace, a.handle(answer)}
}

func (a *API) trace(c *gin.Context) {
	span := a.Tracer.Call(c.Request, c.FullPath(), traceparent(c.Request.Header))
	c.Set(traceKey, span.Traceparent(""))
	returned := false
	defer func() {
		end := tracing.Answer{
			Status: c.Writer.Status(), Request: c.GetString(requestKey), Work: c.GetString(workKey), Problem: c.GetString(problemKey),
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

// traceparentOf is the header that goes along with the request of a call: of the call's own
// span, if any, or as the caller sent it.
func traceparentOf(c *gin.Context) string {
	if known := c.GetString(traceKey); known != "" {
		return known
	}
	sent := traceparent(c.Request.Header)
	if sent != "" {
		c.Set(traceKey, sent)
	}
	return sent
}
