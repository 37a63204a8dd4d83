package receivers

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

func TestSignaturesOfAnotherTimeAreTakenWhereTheyMayBe(t *testing.T) {
	t.Parallel()
	webhook, err := standardwebhooks.NewWebhook(LocalSecret)
	if err != nil {
		t.Fatal(err)
	}
	body, sent := []byte("{}"), time.Now().Add(-72*time.Hour)
	signature, err := webhook.Sign("req_1", sent, body)
	if err != nil {
		t.Fatal(err)
	}
	header := http.Header{}
	header.Set(standardwebhooks.HeaderWebhookID, "req_1")
	header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(sent.Unix(), 10))
	header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	verifier := LocalVerifier()
	if verifier.Takes(body, header) {
		t.Error("three days old: got it taken")
	}
	verifier.Whenever = true
	if !verifier.Takes(body, header) || verifier.Takes([]byte("[]"), header) {
		t.Error("whenever: want it taken, and no other body")
	}
	if nobody, err := NewVerifier(""); err != nil || !nobody.Takes(nil, nil) {
		t.Errorf("without a secret: got %v, want all taken", err)
	}
}
