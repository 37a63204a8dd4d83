package jobs

import (
	"net/http"
	"testing"
	"time"

	"ringback/jobs/pacing"
	"ringback/jobs/webhook"
)

// Two processes run on one database. Both know the receiver before one of them is told to
// wait, and the other writes the row last.
func TestTwoProcessesRememberWhatEitherLearned(t *testing.T) {
	t.Parallel()
	const hook = "https://127.0.0.1:9/hook"
	call := func(q *testQueue, client string, sent webhook.Attempt) {
		t.Helper()
		pass, decision := q.pacing.Enter(t.Context(), pacing.Callback{Client: client, URL: hook})
		if pass == nil {
			t.Fatalf("%s: got %+v, want it to leave", client, decision)
		}
		now := time.Now()
		sent.StartedAt, sent.EndedAt, sent.Address, sent.Conn = now, now, "127.0.0.1:9", "a"
		pass.Leave(sent)
	}
	delivered := webhook.Attempt{Outcome: webhook.Delivered, Status: http.StatusOK}
	first := newQueue(t, doNothing)
	second := newQueueAt(t, first.url, first.url, doNothing)
	call(first, "alice", delivered)
	call(second, "alice", delivered)
	call(first, "alice", webhook.Attempt{Outcome: webhook.Throttled, Status: http.StatusTooManyRequests, RetryAfter: time.Hour})
	call(second, "carol", webhook.Attempt{Outcome: webhook.Throttled, Status: http.StatusTooManyRequests, RetryAfter: 2 * time.Hour})
	for range 2 {
		first.pacing.SaveAll(t.Context())
		call(second, "alice", delivered)
		second.pacing.SaveAll(t.Context())
	}
	later := newQueueAt(t, first.url, first.url, doNothing)
	for client, hours := range map[string]time.Duration{"alice": 1, "carol": 2} {
		pass, got := later.pacing.Enter(t.Context(), pacing.Callback{Client: client, URL: hook})
		if left := time.Until(got.RetryAt); pass != nil || got.Reason != pacing.Paused || left < hours*time.Hour-time.Minute || left > hours*time.Hour+time.Minute {
			t.Errorf("%s, in a later process: got %+v, want it paused for %d h", client, got, hours)
		}
	}
	call(later, "bob", delivered)
}

// Somebody wrote a ruling by hand whose target is no receiver.
func TestRulingsThatForgetNoReceiver(t *testing.T) {
	t.Parallel()
	q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
	q.exec(t, `
		INSERT INTO callback_origins (origin, openings, word, word_at, expires_at)
		SELECT target, 0, 'forgotten', now(), 'infinity'
		FROM unnest(ARRAY['', 'nonsense', '*://', '*://nonsense', '*://[::1']) AS target`)
	request := newRequest(receiver.URL)
	q.accept(t, request)
	q.start(t)
	q.waitFor(t, request.ID, "callback_state = 'delivered'")
}
