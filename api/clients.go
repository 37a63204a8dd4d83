package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"strings"

	"github.com/gin-gonic/gin"
)

// localClient is who asks where no API keys are set, which the server allows
// on a loopback address only.
const localClient = "local"

const clientKey = "client"

// clients finds the client of an API key, by digest: digests have one length,
// so that comparing them takes the same time whatever the key.
type clients map[string][sha256.Size]byte

func newClients(keys map[string]string) clients {
	known := make(clients, len(keys))
	for name, key := range keys {
		known[name] = sha256.Sum256([]byte(key))
	}
	return known
}

// find returns the client's name, or "" for an unknown key.
func (known clients) find(key string) (found string) {
	digest := sha256.Sum256([]byte(key))
	for name, want := range known {
		if subtle.ConstantTimeCompare(digest[:], want[:]) == 1 {
			found = name
		}
	}
	return found
}

// authenticate lets a call with a known API key pass and notes its client.
func (a *API) authenticate(c *gin.Context) {
	if len(a.clients) == 0 {
		c.Set(clientKey, localClient)
		return
	}
	scheme, key, _ := strings.Cut(c.GetHeader("Authorization"), " ")
	client := a.clients.find(key)
	if !strings.EqualFold(scheme, "Bearer") || client == "" {
		a.writeProblem(c, newProblem("unauthorized", "Send a valid API key as Authorization: Bearer KEY."))
		return
	}
	c.Set(clientKey, client)
}
