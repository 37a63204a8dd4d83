package api

import (
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gin-gonic/gin"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"ringback/db"
	"ringback/jobs/webhook"
	"ringback/work"
)

// asyncBody is the body of POST /async.
type asyncBody struct {
	Input       jsontext.Value `json:"input"`
	CallbackURL string         `json:"callback_url"`
	ExpiresIn   *int           `json:"expires_in"` // seconds in which the work has to begin
	OrderingKey *string        `json:"ordering_key"`
}

// maxExpiresIn is two days, like the age of callbacks.
const maxExpiresIn = 172_800

// accepted is the answer to POST /async.
type accepted struct {
	ID         uuid.UUID `json:"id"`
	Status     db.Status `json:"status"`
	AcceptedAt time.Time `json:"accepted_at"`
}

// postAsync accepts a request: when it answers 202, the request and its work
// job are committed.
func (a *API) postAsync(c *gin.Context) (reply, error) {
	offer, err := a.offered(c)
	if err == nil {
		err = a.Queue.Admit(c.GetString(clientKey)) // before the body, so that refusals are cheap
	}
	if err != nil {
		return reply{}, err
	}
	request, key, err := a.readAsync(c, offer)
	if err != nil {
		return reply{}, err
	}
	if request, err = a.accept(c, request, key); err != nil {
		return reply{}, err
	}
	answer := reply{
		status:   http.StatusAccepted,
		location: locationOf(request.ID),
		body:     accepted{request.ID, db.Accepted, request.AcceptedAt},
	}
	if whole, ended := a.awaitAccepted(c, request.ID); ended {
		answer.status, answer.body = http.StatusOK, whole
	}
	return answer, nil
}

// accept commits a request, or returns that for which its key stands already.
func (a *API) accept(c *gin.Context, request db.Request, key db.Key) (db.Request, error) {
	ctx, cancel := databaseContext(c.Request.Context())
	defer cancel()
	holder, err := a.Queue.AcceptOnce(ctx, request, key)
	if err == nil && holder.Held {
		return a.replay(c, ctx, key, holder, request.Work)
	}
	return request, err
}

// readAsync decodes and checks all that can be without the database.
func (a *API) readAsync(c *gin.Context, offer *work.Offer) (request db.Request, key db.Key, err error) {
	var body asyncBody
	raw, err := a.decode(c, &body)
	if err != nil {
		return db.Request{}, db.Key{}, err
	}
	if request, err = a.newAsync(c, offer, body); err != nil {
		return db.Request{}, db.Key{}, err
	}
	key, err = a.keyOf(c, raw, request, 0)
	return request, key, err
}

func (a *API) newAsync(c *gin.Context, offer *work.Offer, body asyncBody) (db.Request, error) {
	input, err := checkInput(offer, body.Input)
	if err != nil {
		return db.Request{}, err
	}
	if body.CallbackURL == "" {
		return db.Request{}, invalidInput("/callback_url", "is required")
	}
	callbackURL, err := a.checkCallback(c.GetString(clientKey), body.CallbackURL)
	if err != nil {
		return db.Request{}, err
	}
	if a.Queue.IsDenied(callbackURL) {
		return db.Request{}, &webhook.RefusedError{Rule: "The receiver in the callback URL must not be one that the operator of this service has denied."}
	}
	if body.ExpiresIn != nil && (*body.ExpiresIn < 1 || *body.ExpiresIn > maxExpiresIn) {
		return db.Request{}, invalidInput("/expires_in", fmt.Sprintf("must be from 1 to %d seconds", maxExpiresIn))
	}
	orderingKey, err := checkOrderingKey(body.OrderingKey)
	if err != nil {
		return db.Request{}, err
	}
	request := a.newRequest(c, db.Async, offer.Name, input)
	if body.ExpiresIn != nil {
		request.ExpiresAt = request.AcceptedAt.Add(time.Duration(*body.ExpiresIn) * time.Second)
	}
	request.Status = db.Accepted
	request.CallbackURL = callbackURL
	request.CallbackState = db.CallbackWaiting
	request.OrderingKey = orderingKey
	return request, nil
}

// checkCallback returns the canonical form of a callback URL that a client may
// name.
func (a *API) checkCallback(client, raw string) (string, error) {
	canonical, err := a.CallbackPolicy.Check(raw)
	if err == nil && a.Callbacks != nil {
		err = a.Callbacks(client).Check(canonical)
	}
	return canonical, err
}

// maxOrderingKey is in characters.
const maxOrderingKey = 255

// checkOrderingKey returns the key, nothing where there is none.
func checkOrderingKey(key *string) (string, error) {
	if key == nil {
		return "", nil
	}
	unprintable := func(r rune) bool { return !unicode.IsPrint(r) }
	if n := utf8.RuneCountInString(*key); n < 1 || n > maxOrderingKey || strings.ContainsFunc(*key, unprintable) {
		return "", invalidInput("/ordering_key", fmt.Sprintf("must be 1 to %d printable characters", maxOrderingKey))
	}
	return *key, nil
}
