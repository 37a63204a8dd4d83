package jobs

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"

	"ringback/db"
	"ringback/jobs/webhook"
)

func sentNow(outcome webhook.Outcome) webhook.Attempt {
	now := time.Now()
	return webhook.Attempt{StartedAt: now, EndedAt: now, Outcome: outcome}
}

// end takes a request that was accepted to the end of its callback.
func (q *testQueue) end(t *testing.T, request db.Request, state db.CallbackState) {
	t.Helper()
	if err := q.finish(t.Context(), request, succeeded); err != nil {
		t.Fatal(err)
	}
	outcome := webhook.Delivered
	if state == db.CallbackDead {
		outcome = webhook.Gone
	}
	if _, err := q.settle(t.Context(), request, sentNow(outcome), step{state: state}); err != nil {
		t.Fatal(err)
	}
	q.exec(t, "UPDATE river_job SET state = 'completed', finalized_at = now() WHERE state <> 'completed' AND args ->> 'request_id' = $1", request.ID.String())
}

func (q *testQueue) redeliver(t *testing.T, redeliveries ...db.Redelivery) int {
	t.Helper()
	count, err := q.Redeliver(t.Context(), redeliveries)
	if err != nil {
		t.Fatal(err)
	}
	return count
}

func TestRedeliver(t *testing.T) {
	t.Parallel()

	for _, state := range []db.CallbackState{db.CallbackDead, db.CallbackDelivered} {
		t.Run("DeliversAgainWhatIs/"+string(state), func(t *testing.T) {
			t.Parallel()
			q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
			request := newRequest(receiver.URL)
			q.accept(t, request)
			q.end(t, request, state)
			if !q.holds(t, "SELECT count(*) = $1 FROM dead_letters WHERE request_id = $2", map[bool]int{true: 1}[state == db.CallbackDead], request.ID) {
				t.Error("dead letters: want it to be one, if it is dead")
			}
			wanted := db.Redelivery{RequestID: request.ID, Client: "alice", At: time.Now()}
			if got := q.redeliver(t, wanted); got != 1 {
				t.Errorf("first: got %d, want 1", got)
			}
			if got := q.redeliver(t, wanted); got != 0 {
				t.Errorf("again: got %d, want 0: it is on its way", got)
			}
			q.start(t)
			call := receiver.next(t)
			if got, want := call.header.Get("webhook-id"), "req_"+request.ID.String(); got != want {
				t.Errorf("webhook-id: got %s, want %s as before", got, want)
			}
			q.waitFor(t, request.ID, "callback_state = 'delivered' AND attempt = 2 AND outcome = 'delivered' AND redelivered_at IS NOT NULL AND callback_job_attempt = 1")
			if !q.holds(t, "SELECT NOT EXISTS (SELECT FROM dead_letters)") {
				t.Error("it is still a dead letter")
			}
		})
	}

	t.Run("ForgetsHowOftenItWasPutOffBefore", func(t *testing.T) {
		t.Parallel()
		receiver := newReceiver(t, func(w http.ResponseWriter, _ int) {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		})
		q := newQueue(t, doNothing)
		request := newRequest(receiver.URL)
		q.accept(t, request)
		if err := q.finish(t.Context(), request, succeeded); err != nil {
			t.Fatal(err)
		}
		for range 12 {
			if _, err := q.settle(t.Context(), request, sentNow(webhook.Throttled), step{state: db.CallbackPending}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := q.settle(t.Context(), request, sentNow(webhook.Gone), step{state: db.CallbackDead}); err != nil {
			t.Fatal(err)
		}
		q.exec(t, "UPDATE river_job SET state = 'completed', finalized_at = now()")
		q.redeliver(t, db.Redelivery{RequestID: request.ID, Client: "alice", At: time.Now()})
		q.start(t)
		receiver.next(t)
		q.waitFor(t, request.ID, "attempt = 14 AND next_attempt_at < attempt_ended_at + '1 minute'")
	})

	t.Run("LeavesWhatHasNotEndedAndWhatIsNotTheClients", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		waiting, pending, cancelled, foreign := newRequest("http://127.0.0.1:9/"), newRequest("http://127.0.0.1:9/"), newRequest("http://127.0.0.1:9/"), newRequest("http://127.0.0.1:9/")
		var all []db.Redelivery
		for _, request := range []db.Request{waiting, pending, cancelled, foreign} {
			q.accept(t, request)
			all = append(all, db.Redelivery{RequestID: request.ID, Client: "alice", At: time.Now()})
		}
		if err := q.finish(t.Context(), pending, succeeded); err != nil {
			t.Fatal(err)
		}
		q.cancel(t, "alice", cancelled.ID)
		q.end(t, foreign, db.CallbackDead)
		all[3].Client = "bob"
		all = append(all, db.Redelivery{RequestID: uuid.New(), Client: "alice", At: time.Now()},
			db.Redelivery{RequestID: foreign.ID, Client: "alice", From: db.CallbackDelivered, At: time.Now()})
		if got := q.redeliver(t, all[:5]...) + q.redeliver(t, all[5]); got != 0 {
			t.Errorf("got %d, want none", got)
		}
		if !q.holds(t, "SELECT count(*) = 2 FROM river_job WHERE kind = 'callback'") {
			t.Error("want the two callback jobs that there were")
		}
	})

	t.Run("IsNotDoneByTheJobBeforeIt", func(t *testing.T) {
		t.Parallel()
		q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
		request := newRequest(receiver.URL)
		q.accept(t, request)
		q.end(t, request, db.CallbackDead)
		q.redeliver(t, db.Redelivery{RequestID: request.ID, Client: "alice", At: time.Now().Add(time.Hour)})
		q.exec(t, "UPDATE river_job SET state = 'available', finalized_at = NULL, attempted_by = ARRAY['another'] WHERE kind = 'callback' AND scheduled_at < now()") // which died
		q.start(t)
		waitUntil(t, func() bool {
			return q.holds(t, "SELECT count(*) = 1 FROM river_job WHERE kind = 'callback' AND state = 'completed'")
		})
		q.waitFor(t, request.ID, "callback_state = 'pending' AND callback_job_state = 'available'")
		if len(receiver.calls) != 0 {
			t.Error("it was sent before its time")
		}
	})

	t.Run("IsDueAsSpacedAndCountsItsAgeFromThen", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		var wanted []db.Redelivery
		for i, due := range Spaced(morning, 300, 50) {
			request := newRequest("http://127.0.0.1:9/")
			if i < 3 {
				q.accept(t, request)
				q.end(t, request, db.CallbackDead)
			}
			wanted = append(wanted, db.Redelivery{RequestID: request.ID, Client: "alice", At: due})
		}
		wanted[0], wanted[299] = wanted[299], wanted[0] // beyond the first statement
		if got := q.redeliver(t, wanted...); got != 3 {
			t.Errorf("got %d, want 3", got)
		}
		for i, at := range []int{299, 1, 2} {
			want := morning.Add(time.Duration(i) * 20 * time.Millisecond)
			if !q.holds(t, "SELECT callback_job_scheduled_at = $2 AND redelivered_at = $2 FROM request_trace WHERE request_id = $1", wanted[at].RequestID, want) {
				t.Errorf("redelivery %d: want it due at %v", i, want)
			}
		}
		got := owedSince(db.Request{FinishedAt: morning, RedeliveredAt: morning.Add(time.Hour)})
		if never := owedSince(db.Request{FinishedAt: morning}); !got.Equal(morning.Add(time.Hour)) || !never.Equal(morning) {
			t.Errorf("age: got it from %v and %v, want the redelivery, else the end of the work", got, never)
		}
	})
}
