package api

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"ringback/db"
	"ringback/jobs/webhook"
	"ringback/work"
)

// asyncBody is the body of POST /async.
type asyncBody struct {
	Input       jsontext.Value `json:"input"`
	CallbackURL callbackURL    `json:"callback_url"`
	Callback    *callbackBody  `json:"callback"`   // instead of callback_url
	Delay       *int           `json:"delay"`      // seconds until the work is due
	RunAt       *time.Time     `json:"run_at"`     // when it is due, instead of delay
	ExpiresIn   *int           `json:"expires_in"` // seconds in which the work has to begin
	OrderingKey *string        `json:"ordering_key"`
}

// callbackBody is a callback that carries the caller's headers.
type callbackBody struct {
	URL     callbackURL       `json:"url"`
	Headers map[string]string `json:"headers"`
}

// callbackURL is a URL in a body, empty where there is none.
type callbackURL string

// errEmpty is an empty text where there must be none.
var errEmpty = errors.New("must not be empty")

// UnmarshalText refuses an empty text, which would pass for none.
func (u *callbackURL) UnmarshalText(text []byte) error {
	*u = callbackURL(text)
	if len(text) == 0 {
		return errEmpty
	}
	return nil
}

const (
	// maxExpiresIn is two days, like the age of callbacks.
	maxExpiresIn = 172_800
	// maxDelay is how far ahead work may be due.
	maxDelay = 30 * 24 * time.Hour
	// acceptedRetryAfter is when an accepted request is worth a look, in seconds.
	acceptedRetryAfter = 1
)

// accepted is the answer to POST /async.
type accepted struct {
	ID         uuid.UUID `json:"id"`
	Status     db.Status `json:"status"`
	AcceptedAt time.Time `json:"accepted_at"`
}

// postAsync accepts a request: when it answers 202, the request and its work
// job are committed.
func (a *API) postAsync(c *call) (reply, error) {
	offer, err := a.offered(c)
	if err != nil {
		return reply{}, err
	}
	request, key, err := a.readAsync(c, offer)
	if err != nil {
		return reply{}, err
	}
	made := request.ID
	if request, err = a.accept(c, request, key); err != nil {
		return reply{}, err
	}
	if request.ID != made {
		noteReplay(c)
	}
	answer := reply{
		status: http.StatusAccepted, retryAfter: retryAfterOf(request),
		location: locationOf(request.ID),
		body:     accepted{request.ID, db.Accepted, request.AcceptedAt},
	}
	if whole, ended := a.awaitAccepted(c, request.ID); ended {
		answer.status, answer.body, answer.retryAfter = http.StatusOK, whole, 0
	}
	return answer, nil
}

// accept commits a request, or returns the earlier request of its key.
func (a *API) accept(c *call, request db.Request, key db.Key) (db.Request, error) {
	ctx, cancel := a.databaseContext(c.Request.Context())
	defer cancel()
	holder, err := a.Queue.AcceptOnce(ctx, request, key)
	if err == nil && holder.Held {
		return a.replay(c, ctx, key, holder, request.Work)
	}
	return request, err
}

// readAsync decodes and checks as far as it goes without the database.
func (a *API) readAsync(c *call, offer *work.Offer) (request db.Request, key db.Key, err error) {
	defer c.decoded()
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

// retryAfterOf is in how many seconds an accepted request may have ended.
func retryAfterOf(request db.Request) int {
	return acceptedRetryAfter + max(0, int(request.RunAt.Sub(request.AcceptedAt).Seconds()))
}

// newAsync makes the request from a body.
func (a *API) newAsync(c *call, offer *work.Offer, body asyncBody) (db.Request, error) {
	input, err := checkInput(offer, body.Input)
	if err != nil {
		return db.Request{}, err
	}
	request := a.newRequest(c, db.Async, offer.Name, input)
	request.Status, request.CallbackState = db.Accepted, db.CallbackWaiting
	if err := a.setCallback(&request, body); err != nil {
		return db.Request{}, err
	}
	if request.OrderingKey, err = checkOrderingKey(body.OrderingKey); err != nil {
		return db.Request{}, err
	}
	return request, setTimes(&request, body)
}

// setCallback sets where the callback goes, and its headers.
func (a *API) setCallback(request *db.Request, body asyncBody) (err error) {
	raw, pointer := body.CallbackURL, "/callback_url"
	if body.Callback != nil {
		if body.CallbackURL != "" {
			return invalidInput("/callback", "must not be given with callback_url")
		}
		raw, pointer = body.Callback.URL, "/callback/url"
	}
	if raw == "" {
		return invalidInput(pointer, "is required")
	}
	request.CallbackURL, err = a.checkCallback(request.Client, string(raw))
	var refused *webhook.RefusedError
	if errors.As(err, &refused) {
		return newProblem("invalid-callback-url", refused.Rule, fieldProblem{Pointer: "#" + pointer, Detail: refused.Rule})
	}
	if err != nil {
		return err
	}
	if body.Callback == nil || len(body.Callback.Headers) == 0 {
		return nil
	}
	headers, err := webhook.CheckHeaders(body.Callback.Headers)
	var wrong *webhook.HeaderError
	switch {
	case errors.As(err, &wrong) && wrong.Name == "":
		return invalidInput("/callback/headers", wrong.Rule)
	case errors.As(err, &wrong):
		return invalidInput("/callback/headers/"+escapePointer(printable(wrong.Name)), wrong.Rule)
	case err != nil:
		return err
	}
	request.CallbackHeaders, err = a.SealHeaders(request.Client, headers)
	return err
}

// escapePointer writes a name into a JSON pointer (RFC 6901).
func escapePointer(name string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}

// setTimes sets when the work is due, and by when it has to begin.
func setTimes(request *db.Request, body asyncBody) error {
	switch {
	case body.Delay != nil && body.RunAt != nil:
		return invalidInput("/run_at", "must not be given with delay")
	case body.Delay != nil && (*body.Delay < 0 || time.Duration(*body.Delay) > maxDelay/time.Second):
		return invalidInput("/delay", fmt.Sprintf("must be from 0 to %d seconds", maxDelay/time.Second))
	case body.RunAt != nil && body.RunAt.Sub(request.AcceptedAt) > maxDelay:
		return invalidInput("/run_at", fmt.Sprintf("must be within %d days", maxDelay/(24*time.Hour)))
	case body.ExpiresIn != nil && (*body.ExpiresIn < 1 || *body.ExpiresIn > maxExpiresIn):
		return invalidInput("/expires_in", fmt.Sprintf("must be from 1 to %d seconds", maxExpiresIn))
	}
	if body.Delay != nil && *body.Delay > 0 {
		request.RunAt = request.AcceptedAt.Add(time.Duration(*body.Delay) * time.Second)
	}
	if body.RunAt != nil && body.RunAt.After(request.AcceptedAt) { // else it is due at once
		request.RunAt = body.RunAt.UTC().Truncate(time.Microsecond)
	}
	if body.ExpiresIn != nil {
		request.ExpiresAt = request.AcceptedAt.Add(time.Duration(*body.ExpiresIn) * time.Second)
	}
	switch {
	case request.RunAt.IsZero():
	case request.OrderingKey != "":
		return invalidInput("/ordering_key", "must not be given for work that is due later, since later callbacks of the key would wait for it")
	case !request.ExpiresAt.IsZero() && !request.ExpiresAt.After(request.RunAt):
		return invalidInput("/expires_in", "must be longer than it takes until the work is due")
	}
	return nil
}

// checkCallback returns the canonical form of a callback URL that a client may
// name.
func (a *API) checkCallback(client, raw string) (string, error) {
	canonical, err := a.CallbackPolicy.Check(raw)
	if err == nil && a.Callbacks != nil {
		err = a.Callbacks(client).Check(canonical)
	}
	if err == nil && a.Queue.IsDenied(canonical) {
		err = &webhook.RefusedError{Rule: "The receiver in the callback URL must not be denied by the operator of this service."}
	}
	return canonical, err
}

// maxOrderingKey is in characters.
const maxOrderingKey = 255

// checkOrderingKey returns the key, "" for none.
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
