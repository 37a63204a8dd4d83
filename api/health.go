package api

import (
	"context"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
)

// healthTimeout is the longest that GET /healthz waits for the database.
const healthTimeout = time.Second

// health is 200 while this process takes requests and the database answers.
func (a *API) health(c *gin.Context) (reply, error) {
	if a.Draining() {
		return reply{}, newProblem("unavailable", "The process is stopping.")
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), healthTimeout)
	defer cancel()
	if err := a.Pool.Ping(ctx); err != nil {
		return reply{}, newProblem("unavailable", "The database doesn't answer.")
	}
	return reply{status: http.StatusOK, body: map[string]string{"status": "ok"}}, nil
}
