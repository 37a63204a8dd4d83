package jobs

import (
	"context"
	"net/http"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"ringback/db"
)

func (q *testQueue) cancel(t *testing.T, client string, id uuid.UUID) db.Stopped {
	t.Helper()
	stopped, err := q.Cancel(t.Context(), client, id)
	if err != nil {
		t.Fatal(err)
	}
	return stopped
}

func TestCancel(t *testing.T) {
	t.Parallel()

	t.Run("StopsWorkThatHasNotBegun", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		request := newRequest("http://127.0.0.1:9/")
		q.accept(t, request)
		if got := q.cancel(t, "alice", request.ID); !got.Work || got.JobID == 0 {
			t.Errorf("got %+v, want the work and its job", got)
		}
		q.waitFor(t, request.ID, "status = 'cancelled' AND error_code = 'cancelled' AND callback_state = 'cancelled' AND settled_at = finished_at AND work_job_state = 'cancelled' AND callback_job_id IS NULL")
	})

	t.Run("OfAnotherClientWakesNobody", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		request := newRequest("http://127.0.0.1:9/")
		q.accept(t, request)
		ended, stop, _ := q.Watch("alice", request.ID)
		defer stop()
		if got := q.cancel(t, "mallory", request.ID); got.JobID != 0 {
			t.Errorf("got %+v, want nothing stopped", got)
		}
		select {
		case <-ended:
			t.Error("the caller who waits for it was woken")
		default:
		}
		q.cancel(t, "alice", request.ID)
		<-ended
	})

	// In one process accept, cancel and work share the latest rows.
	t.Run("IsNotUndoneByARunThatHasTheRequestAlready", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		request := newRequest("http://127.0.0.1:9/")
		q.accept(t, request)
		q.cancel(t, "alice", request.ID)
		if err := q.finish(t.Context(), request, succeeded); err != nil {
			t.Fatal(err)
		}
		q.waitFor(t, request.ID, "status = 'cancelled' AND callback_state = 'cancelled' AND callback_job_id IS NULL")
		if !q.holds(t, "SELECT NOT EXISTS (SELECT FROM river_job WHERE kind = 'callback')") {
			t.Error("a callback job was inserted")
		}
	})

	t.Run("LetsTheNextOfItsOrderingKeyLeave", func(t *testing.T) {
		t.Parallel()
		q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
		first, second := newRequest("http://127.0.0.1:9/"), newRequest(receiver.URL)
		first.OrderingKey, second.OrderingKey = "key", "key"
		q.accept(t, first)
		q.accept(t, second)
		if err := q.finish(t.Context(), second, succeeded); err != nil {
			t.Fatal(err)
		}
		q.waitFor(t, second.ID, "callback_job_state = 'pending'") // behind the first, whose work goes on
		q.cancel(t, "alice", first.ID)
		q.waitFor(t, second.ID, "callback_job_state = 'available'")
		q.start(t)
		receiver.next(t)
		q.waitFor(t, second.ID, "callback_state = 'delivered'")
	})

	t.Run("EndsWorkThatRunsInAnotherProcess", func(t *testing.T) {
		t.Parallel()
		started, ended := make(chan struct{}), make(chan struct{})
		working := newQueue(t, func(ctx context.Context, _ jsontext.Value) (jsontext.Value, error) {
			close(started)
			<-ctx.Done()
			close(ended)
			return nil, ctx.Err()
		})
		other := newQueueAt(t, working.url, working.url, nil)
		request := newRequest("http://127.0.0.1:9/")
		other.accept(t, request)
		working.start(t)
		<-started
		if got := other.cancel(t, "alice", request.ID); !got.Work {
			t.Errorf("got %+v, want the work", got)
		}
		<-ended
		working.waitFor(t, request.ID, "status = 'cancelled' AND work_job_state = 'cancelled' AND work_job_attempt = 1 AND callback_job_id IS NULL")
		if working.hasLogged("work_cut_off") {
			t.Error("the log says that the attempt goes again")
		}
	})

	t.Run("StopsACallbackThatIsOwed", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, doNothing)
		receiver := newReceiver(t, always(http.StatusInternalServerError))
		request := newRequest(receiver.URL)
		q.accept(t, request)
		q.start(t)
		receiver.next(t)
		q.waitFor(t, request.ID, "attempt = 1 AND callback_job_state IN ('retryable', 'available')")
		if got := q.cancel(t, "alice", request.ID); got.Work || got.JobID == 0 {
			t.Errorf("got %+v, want the callback alone", got)
		}
		q.waitFor(t, request.ID, "status = 'succeeded' AND callback_state = 'cancelled' AND settled_at IS NOT NULL AND callback_job_state = 'cancelled'")
	})

	t.Run("LetsAnAttemptUnderWayBeLoggedAndNothingElse", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		request := newRequest("http://127.0.0.1:9/")
		q.accept(t, request)
		if err := q.finish(t.Context(), request, succeeded); err != nil {
			t.Fatal(err)
		}
		q.cancel(t, "alice", request.ID)
		if _, err := q.settle(t.Context(), request, sentNow("gone"), step{state: db.CallbackDead}); err != nil {
			t.Fatal(err)
		}
		q.waitFor(t, request.ID, "callback_state = 'cancelled' AND attempt = 1")
		if !q.holds(t, "SELECT NOT EXISTS (SELECT FROM dead_letters)") {
			t.Error("it became a dead letter")
		}
	})

	t.Run("StopsNothingTwiceOrOfAnotherClientOrAfterTheEnd", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		first, foreign, delivered := newRequest("http://127.0.0.1:9/"), newRequest("http://127.0.0.1:9/"), newRequest("http://127.0.0.1:9/")
		for _, request := range []db.Request{first, foreign, delivered} {
			q.accept(t, request)
		}
		q.cancel(t, "alice", first.ID)
		q.end(t, delivered, db.CallbackDelivered)
		for name, got := range map[string]db.Stopped{
			"twice": q.cancel(t, "alice", first.ID), "bob's": q.cancel(t, "bob", foreign.ID),
			"delivered": q.cancel(t, "alice", delivered.ID), "unknown": q.cancel(t, "alice", uuid.New()),
		} {
			if got != (db.Stopped{}) {
				t.Errorf("%s: got %+v, want nothing", name, got)
			}
		}
		q.waitFor(t, foreign.ID, "status = 'accepted' AND work_job_state = 'available'")
		q.waitFor(t, delivered.ID, "callback_state = 'delivered'")
	})

	t.Run("NeedsNoJobWhereSomebodyRemovedIt", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		request := newRequest("http://127.0.0.1:9/")
		q.accept(t, request)
		q.exec(t, "DELETE FROM river_job")
		q.cancel(t, "alice", request.ID)
		q.waitFor(t, request.ID, "status = 'cancelled'")
	})
}
