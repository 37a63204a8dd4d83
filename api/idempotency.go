package api

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"ringback/db"
	"ringback/work"
)

const (
	keyLifetime = 24 * time.Hour
	// keyMargin is the time that a call may take besides its work until its request is
	// committed. After that the key of a process that died is free again.
	keyMargin = 30 * time.Second
	maxKey    = 255 // bytes
)

// keyOf returns the Idempotency-Key of a call (draft-ietf-httpapi-idempotency-key-header)
// for the given request, whose work takes at most limit. Without the header, the key is "".
func (a *API) keyOf(c *call, body []byte, request db.Request, limit time.Duration) (db.Key, error) {
	values := c.Request.Header.Values("Idempotency-Key")
	if len(values) == 0 {
		return db.Key{}, nil
	}
	name, ok := parseKey(values[0])
	if !ok || len(values) > 1 {
		return db.Key{}, errBadKey()
	}
	return a.newKey(name, body, request, limit)
}

func errBadKey() *problem {
	return newProblem("malformed-idempotency-key",
		fmt.Sprintf("Idempotency-Key must be one string of 1 to %d printable ASCII characters.", maxKey))
}

// newKey is a key for a request and the body of its call.
func (a *API) newKey(name string, body []byte, request db.Request, limit time.Duration) (db.Key, error) {
	if !isKey(name) {
		return db.Key{}, errBadKey()
	}
	fingerprint, err := a.fingerprintOf(request, body)
	if err != nil {
		return db.Key{}, err
	}
	return db.Key{
		Client: request.Client, Key: name, Fingerprint: fingerprint, RequestID: request.ID,
		HeldUntil: request.AcceptedAt.Add(limit + keyMargin), ExpiresAt: request.AcceptedAt.Add(keyLifetime),
	}, nil
}

// parseKey takes a string of RFC 9651, section 3.3.3, as the draft asks for, and a string
// without quotes, as most clients send it.
func parseKey(value string) (key string, ok bool) {
	if quoted, found := strings.CutPrefix(value, `"`); found {
		value, found = strings.CutSuffix(quoted, `"`)
		if value, ok = unescape(value); !found || !ok {
			return "", false
		}
	}
	return value, isKey(value)
}

func isKey(value string) bool {
	printable := strings.IndexFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) < 0
	return printable && value != "" && len(value) <= maxKey
}

// unescape undoes \" and \\, the only escapes of the RFC.
func unescape(text string) (plain string, ok bool) {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '"' {
			return "", false
		}
		if text[i] == '\\' {
			i++
			if i == len(text) || text[i] != '"' && text[i] != '\\' {
				return "", false
			}
		}
		out.WriteByte(text[i])
	}
	return out.String(), true
}

// fingerprintOf tells calls apart. White space, the order of fields, and whether a call names the
// default work make no difference. Names of work are left to replay, since the previous version
// has none: keys stay good while it runs.
func (a *API) fingerprintOf(request db.Request, body []byte) (fingerprint [sha256.Size]byte, err error) {
	canonical := jsontext.Value(body).Clone()
	if err := canonical.Canonicalize(jsontext.CanonicalizeRawInts(false), jsontext.CanonicalizeRawFloats(false)); err != nil {
		return fingerprint, fmt.Errorf("making a fingerprint: %w", err)
	}
	address := "POST /" + string(request.Mode)
	if request.Work != a.Catalog.Default().Name {
		address += "/" + request.Work
	}
	return sha256.Sum256(append([]byte(address+"\n"), canonical...)), nil
}

// replay returns the request of a key, if the same call made it for the same work.
func (a *API) replay(c *call, ctx context.Context, key db.Key, holder db.Holder, work string) (db.Request, error) {
	reused := newProblem("idempotency-key-reused", "The Idempotency-Key was used for another call. Take a new key.")
	if holder.Fingerprint != key.Fingerprint {
		return db.Request{}, reused
	}
	var request db.Request
	err := a.read(c, func(ctx context.Context) (err error) {
		request, err = db.GetRequest(ctx, a.Reads, key.Client, holder.RequestID)
		return err
	})
	if errors.Is(err, db.ErrNoRequest) {
		inFlight := newProblem("request-in-flight", "The first call with this Idempotency-Key is still being worked on.")
		inFlight.retryAfter = 1
		return db.Request{}, inFlight
	}
	if err != nil {
		return db.Request{}, err
	}
	if request.Work != "" && request.Work != work {
		return db.Request{}, reused
	}
	c.requestID = request.ID.String()
	return request, nil
}

// noteReplay tells that a call gets the answer of an earlier call. It is for calls of one
// request: requests of a batch are accepted side by side, and may not write to one header.
func noteReplay(c *call) { c.Header("Idempotent-Replayed", "true") }

// answerRecorded answers a sync request as it was answered the first time, or with its
// address while its work has not ended.
func answerRecorded(request db.Request) (reply, error) {
	if request.Status == db.Accepted {
		return reply{
			status: http.StatusAccepted, retryAfter: acceptedRetryAfter, location: locationOf(request.ID),
			body: accepted{request.ID, db.Accepted, request.AcceptedAt},
		}, nil
	}
	if request.Error == nil {
		return answerSync(request, work.Outcome{})
	}
	var failed work.Error
	if err := json.Unmarshal(request.Error, &failed); err != nil {
		return reply{}, fmt.Errorf("decoding work error: %w", err)
	}
	return answerSync(request, work.Outcome{Error: &failed})
}
