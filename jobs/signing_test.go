package jobs

import (
	"net/http"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

func TestSigning(t *testing.T) {
	t.Parallel()

	t.Run("SignsEveryAttempt", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, doNothing)
		receiver := newReceiver(t, func(w http.ResponseWriter, n int) {
			if n == 0 {
				w.WriteHeader(http.StatusInternalServerError)
			}
		})
		q.start(t)
		q.accept(t, newRequest(receiver.URL))
		webhook, err := standardwebhooks.NewWebhook(testSecret)
		if err != nil {
			t.Fatal(err)
		}
		for attempt := range 2 {
			got := receiver.next(t)
			if err := webhook.Verify(got.body, got.header); err != nil {
				t.Errorf("attempt %d: %v", attempt+1, err)
			}
		}
	})

	t.Run("SendsNothingUnsigned", func(t *testing.T) {
		t.Parallel()
		q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
		request := newRequest(receiver.URL)
		request.Client = unreadable
		q.start(t)
		q.accept(t, request)
		q.waitForLog(t, "callback_postponed")
		q.waitFor(t, request.ID, "callback_state = 'pending' AND attempt IS NULL AND callback_job_attempt = 0")
		if got := len(receiver.calls); got != 0 {
			t.Errorf("got %d callbacks, want none", got)
		}
	})
}
