package receivers

import (
	"fmt"
	"net/http"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// Payload is the part of a callback's body that receivers read.
type Payload struct {
	Type string `json:"type"`
	Data struct {
		ID       string         `json:"id"`
		Status   string         `json:"status"`
		Result   jsontext.Value `json:"result"`
		Sequence int64          `json:"sequence"` // within its ordering key; 0 without a key
	} `json:"data"`
}

// Payload reads the body.
func (c *Callback) Payload() (payload Payload, err error) {
	err = json.Unmarshal(c.PostBody(), &payload)
	return payload, err
}

// Verifier checks signatures by the specification's own module. A nil Verifier, made of
// an empty secret, takes every call.
type Verifier struct {
	Whenever bool // takes any timestamp: the sender's clock may be wrong
	webhook  *standardwebhooks.Webhook
}

// NewVerifier returns a verifier of a secret. An error means that the secret is malformed.
func NewVerifier(secret string) (*Verifier, error) {
	if secret == "" {
		return nil, nil
	}
	webhook, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		return nil, fmt.Errorf("reading the secret: %w", err)
	}
	return &Verifier{webhook: webhook}, nil
}

// LocalVerifier is a verifier of LocalSecret.
func LocalVerifier() *Verifier {
	verifier, err := NewVerifier(LocalSecret)
	if err != nil {
		panic(err) // LocalSecret is valid
	}
	return verifier
}

// Takes tells whether a call has a valid signature.
func (v *Verifier) Takes(body []byte, header http.Header) bool {
	if v == nil {
		return true
	}
	verify := v.webhook.Verify
	if v.Whenever {
		verify = v.webhook.VerifyIgnoringTimestamp
	}
	return verify(body, header) == nil
}

// IsSigned tells whether a verifier takes the callback.
func (c *Callback) IsSigned(verifier *Verifier) bool {
	headers := make(http.Header, 3)
	for _, name := range []string{
		standardwebhooks.HeaderWebhookID, standardwebhooks.HeaderWebhookTimestamp, standardwebhooks.HeaderWebhookSignature,
	} {
		headers.Set(name, string(c.Request.Header.Peek(name)))
	}
	return verifier.Takes(c.PostBody(), headers)
}
