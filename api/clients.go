package api

import (
	"strings"
)

// authenticate lets a call with a known API key pass and notes its client.
func (a *API) authenticate(c *call) {
	client := a.clientOf(c.GetHeader("Authorization"))
	if client == "" {
		a.writeProblem(c, newProblem("unauthorized", "Send a valid API key as Authorization: Bearer KEY."))
		return
	}
	c.client = client
}

func (a *API) clientOf(authorization string) string {
	if authorization == "" {
		return a.LocalClient
	}
	scheme, key, _ := strings.Cut(authorization, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return a.FindClient(key)
}
