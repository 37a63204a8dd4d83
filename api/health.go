package api

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"ringback/db"
	"ringback/jobs/limit"
)

// healthTimeout is the longest that GET /healthz waits for the database.
const healthTimeout = time.Second

// health is 200 while this process takes requests and the database answers and can be
// written, as far as the steps of requests show.
func (a *API) health(c *call) (reply, error) {
	if a.Draining() {
		return reply{}, newProblem("unavailable", "The process is stopping.")
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), healthTimeout)
	defer cancel()
	err, fault := a.Pool.Ping(ctx), a.Queue.Health().Trouble()
	switch {
	case err != nil && fault == db.Away:
		return reply{}, newProblem("unavailable", "The database doesn't answer ("+string(fault)+").")
	case err != nil && fault != "":
		return reply{}, newProblem("unavailable", "The database can't be used ("+string(fault)+").")
	case err != nil:
		return reply{}, newProblem("unavailable", "The database doesn't answer.")
	case fault != "":
		return reply{}, newProblem("unavailable", "The database can't be written ("+string(fault)+").")
	}
	return reply{status: http.StatusOK, body: map[string]string{"status": "ok"}}, nil
}

// live is 200 while the process serves.
func (a *API) live(*call) (reply, error) {
	return reply{status: http.StatusOK, body: map[string]string{"status": "ok"}}, nil
}

// NewStarting returns the handler of a process that doesn't work yet: it lives, and
// refuses everything.
func NewStarting(logger *slog.Logger) http.Handler {
	api := &API{Config: Config{Logger: logger}, answers: newAnswerBudget(memoryBudget()), metrics: newMetrics(nil)}
	router := api.newRouter()
	get(router, "/livez", api.handle(api.live))
	router.NoRoute(api.handle(func(*call) (reply, error) { return reply{}, refuse(limit.Decision{Reason: reasonStarting}) }))
	return router
}

// get adds a route that answers GET, and HEAD as monitors ask.
func get(router gin.IRoutes, path string, handlers ...gin.HandlerFunc) {
	router.Match([]string{http.MethodGet, http.MethodHead}, path, handlers...)
}

// handleProbes tells monitors whether the process lives, and, by two names, whether it can
// accept.
func (a *API) handleProbes(router *gin.Engine) {
	get(router, "/livez", a.handle(a.live))
	get(router, "/readyz", a.handle(a.health))
	get(router, "/healthz", a.handle(a.health))
}
