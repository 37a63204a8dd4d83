package jobs

import (
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"

	"ringback/db"
	"ringback/jobs/webhook"
)

// TestHostsOfOneClientSayNothingAboutAReceiver lets mallory's callbacks to a receiver that
// she may not name any more fail often enough to close it.
func TestHostsOfOneClientSayNothingAboutAReceiver(t *testing.T) {
	t.Parallel()
	q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
	seldom := make(chan string, 1000)
	q.seldom = slog.New(recorder{slog.DiscardHandler, seldom}) // thousands may wait
	q.callbackWorker.hosts = func(client string) webhook.Hosts {
		return map[string]webhook.Hosts{"mallory": {"elsewhere.example.com"}}[client]
	}
	var refused []uuid.UUID
	for range 15 {
		request := newRequest(receiver.URL)
		request.Client = "mallory"
		q.accept(t, request)
		refused = append(refused, request.ID)
	}
	q.start(t)
	for _, id := range refused {
		q.waitFor(t, id, "outcome = 'connection_failed' AND callback_state = 'pending'")
	}
	select {
	case got := <-seldom:
		if got != "callback_not_allowed" {
			t.Errorf("got a line %s, want callback_not_allowed", got)
		}
	case <-time.After(patience):
		t.Error("got no line, want callback_not_allowed: an operator narrowed what was allowed")
	}
	request := newRequest(receiver.URL)
	q.accept(t, request)
	if got, want := receiver.next(t).header.Get("webhook-id"), "req_"+request.ID.String(); got != want {
		t.Errorf("got %s, want the callback of alice, %s", got, want)
	}
	q.waitFor(t, request.ID, "callback_state = 'delivered'")
	if !q.holds(t, "SELECT bool_and(callback_state = $1) FROM requests WHERE client = 'mallory'", db.CallbackPending) {
		t.Error("want mallory's to be tried again: she may be allowed it then")
	}
}
