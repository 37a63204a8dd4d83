package api

import (
	"net/http"
	"slices"
	"strings"

	"ringback/jobs/webhook"
)

// refuseLoop stops a callback that comes back to this service as a request: it would make
// another callback, and so on.
func (a *API) refuseLoop(c *call) {
	if c.Request.Method == http.MethodPost && passedUs(c.Request.Header.Values("Cdn-Loop")) {
		a.writeProblem(c, newProblem("loop-detected", "CDN-Loop says that this call comes from a callback of this service. Nothing was accepted."))
	}
}

// passedUs reports whether this service's id stands in CDN-Loop (RFC 8586, section 2): ids
// separated by commas, each with parameters after a semicolon.
func passedUs(values []string) bool {
	return slices.ContainsFunc(values, func(value string) bool {
		for entry := range strings.SplitSeq(value, ",") {
			id, _, _ := strings.Cut(entry, ";")
			if strings.EqualFold(strings.TrimSpace(id), webhook.LoopID) {
				return true
			}
		}
		return false
	})
}
