package api

import (
	"strings"
)

// authenticate lets a call with a known API key pass and notes its client. Otherwise it
// notes the cause, for the log alone: a caller that guesses keys learns nothing.
func (a *API) authenticate(c *call) {
	c.client, c.keyCause = a.clientOf(c)
	if c.client == "" {
		a.writeProblem(c, newProblem("unauthorized", "Send a valid API key as Authorization: Bearer KEY."))
	}
}

// clientOf returns the client of a call, or the word for why it has none.
func (a *API) clientOf(c *call) (client, cause string) {
	authorization := c.GetHeader("Authorization")
	if authorization == "" {
		client = a.LocalClient
	}
	scheme, key, _ := strings.Cut(authorization, " ")
	switch {
	case client != "":
		return client, ""
	case authorization == "":
		return "", "no_key"
	case !strings.EqualFold(scheme, "Bearer"):
		return "", "no_bearer"
	}
	if client = a.FindClient(key); client != "" {
		return client, ""
	}
	cause = "unknown_key"
	if a.WhyUnknown != nil {
		cause, c.keyOwner = a.WhyUnknown(key)
	}
	return "", cause
}
