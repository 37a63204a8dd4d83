package api

import (
	"strings"

	"ringback/jobs/clients"
)

// Words for the log, besides those of clients.Unknown, for why a call has no client.
const (
	noKey    = "no_key"
	noBearer = "no_bearer"
)

// howToAuthenticate ends the detail of each 401.
const howToAuthenticate = "Send a valid API key as Authorization: Bearer KEY."

// authenticate lets a call with a known API key pass and notes its client. Otherwise it
// notes the cause, for the log. A caller is told what is wrong with its header, and nothing
// about a key of the right form: a caller that guesses keys learns nothing.
func (a *API) authenticate(c *call) {
	c.client, c.unknown = a.clientOf(c)
	if c.client != "" {
		return
	}
	detail := howToAuthenticate
	switch c.unknown.Why {
	case noKey:
		detail = "The call has no API key. " + detail
	case noBearer:
		detail = "The header Authorization has another scheme than Bearer. " + detail
	case clients.MalformedKey:
		detail = "What the call has in place of an API key is not of the form of a key: rbk_ and 43 letters, digits, hyphens and underscores, without a quote or a space. " + detail
	}
	a.writeProblem(c, newProblem("unauthorized", detail))
}

// clientOf returns the client of a call, or why it has none.
func (a *API) clientOf(c *call) (client string, unknown clients.Unknown) {
	authorization := combined(c.Request.Header, "Authorization")
	if authorization == "" {
		client = a.LocalClient
	}
	scheme, key, _ := strings.Cut(authorization, " ")
	switch {
	case client != "":
		return client, unknown
	case authorization == "":
		return "", clients.Unknown{Why: noKey}
	case !strings.EqualFold(scheme, "Bearer"):
		return "", clients.Unknown{Why: noBearer}
	}
	if client = a.FindClient(key); client != "" {
		return client, unknown
	}
	if a.WhyUnknown == nil {
		return "", clients.Unknown{Why: "unknown_key"}
	}
	return "", a.WhyUnknown(key)
}
