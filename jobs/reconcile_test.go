package jobs

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/riverqueue/river/rivertype"

	"ringback/db"
)

// A request goes on by itself after its job was ended from outside.
func TestReconciler(t *testing.T) {
	t.Parallel()
	removals := map[string]string{
		"Cancelled": "UPDATE river_job SET state = 'cancelled', finalized_at = now() WHERE id = $1",
		"Discarded": "UPDATE river_job SET state = 'discarded', finalized_at = now() WHERE id = $1",
		"Completed": "UPDATE river_job SET state = 'completed', finalized_at = now() WHERE id = $1",
		"Deleted":   "DELETE FROM river_job WHERE id = $1",
	}
	for name, removal := range removals {
		t.Run("DeliversTheCallbackWhoseJobWas"+name, func(t *testing.T) {
			t.Parallel()
			q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
			request := newRequest(receiver.URL)
			q.accept(t, request)
			if err := q.finish(t.Context(), request, succeeded); err != nil {
				t.Fatal(err)
			}
			q.exec(t, removal, q.get(t, request.ID).CallbackJobID)
			q.start(t)
			receiver.next(t)
			q.waitFor(t, request.ID, "callback_state = 'delivered' AND callback_job_state = 'completed'")
			q.wantNoOrphans(t)
		})
		t.Run("EndsTheRequestWhoseWorkJobWas"+name, func(t *testing.T) {
			t.Parallel()
			q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
			request := newRequest(receiver.URL)
			request.OrderingKey = "k"
			q.accept(t, request)
			q.exec(t, removal, q.get(t, request.ID).WorkJobID)
			q.start(t)
			if name == "Cancelled" {
				q.waitFor(t, request.ID, "status = 'cancelled' AND error_code = 'cancelled' AND callback_state = 'cancelled'")
				if !q.holds(t, "SELECT NOT EXISTS (SELECT FROM ordered_requests)") {
					t.Error("it is still in the order of its key")
				}
				return
			}
			receiver.next(t)
			q.waitFor(t, request.ID, "status = 'succeeded' AND callback_state = 'delivered'")
			q.wantNoOrphans(t)
		})
	}

	// The request keeps its own time, so that it can be cancelled until then.
	for step, make := range map[string]func(*testing.T, *testQueue, db.Request){
		"Work": func(t *testing.T, q *testQueue, request db.Request) {
			request.RunAt = q.Now().Add(time.Hour)
			q.accept(t, request)
		},
		"Redelivery": func(t *testing.T, q *testQueue, request db.Request) {
			q.accept(t, request)
			q.end(t, request, db.CallbackDead)
			q.redeliver(t, db.Redelivery{RequestID: request.ID, Client: request.Client, At: q.Now().Add(time.Hour)})
		},
	} {
		t.Run("Gives"+step+"ThatIsDueLaterItsTime", func(t *testing.T) {
			t.Parallel()
			q, request := newQueue(t, doNothing), newRequest("http://127.0.0.1:9/")
			make(t, q, request)
			q.exec(t, "DELETE FROM river_job WHERE state::text = 'available'")
			q.start(t)
			waitUntil(t, func() bool {
				return q.holds(t, `
					SELECT EXISTS (
						SELECT
						FROM requests
						JOIN river_job ON river_job.id IN (work_job_id, callback_job_id)
						WHERE scheduled_at = greatest(run_at, redelivered_at)
						  AND scheduled_at > now() + interval '50 minutes'
						  AND attempt = 0
					)`)
			})
		})
	}

	// Each leaves a job that has not ended, and that no worker takes up for its request.
	changes := map[string]string{
		"GivenAnotherKind":         "kind = 'other'",
		"PutIntoAnotherQueue":      "queue = 'other'",
		"MadeAboutAnotherRequest":  "args = jsonb_build_object('request_id', gen_random_uuid())",
		"MadeAboutNoRequest":       "args = '{}'",
		"GivenArgumentsThatAreOff": `args = '{"request_id": "x"}'`,
		"PostponedForYears":        "scheduled_at = now() + interval '10 years'",
		"PostponedForever":         "scheduled_at = 'infinity', state = 'scheduled'",
		"HeldBack":                 "state = 'pending'",
		"SetToRunning":             "state = 'running'",
	}
	for name, change := range changes {
		t.Run("GoesOnThoughTheJobsWere"+name, func(t *testing.T) {
			t.Parallel()
			q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
			request, worked := newRequest(receiver.URL), newRequest(receiver.URL)
			q.accept(t, request)
			q.accept(t, worked)
			worked = q.get(t, worked.ID)
			if err := q.finish(t.Context(), worked, outcomeAt(time.Now())); err != nil {
				t.Fatal(err)
			}
			q.exec(t, "UPDATE river_job SET "+change+" WHERE finalized_at IS NULL")
			q.start(t)
			receiver.next(t)
			receiver.next(t)
			for _, id := range []uuid.UUID{request.ID, worked.ID} {
				q.waitFor(t, id, "callback_state = 'delivered' AND work_job_state = 'completed' AND callback_job_state = 'completed'")
			}
			q.wantNoOrphans(t)
		})
	}

	t.Run("CancelsTheRequestWhoseWorkWasCancelledWhileItRan", func(t *testing.T) {
		t.Parallel()
		started := make(chan struct{})
		q := newQueue(t, func(ctx context.Context, _ jsontext.Value) (jsontext.Value, error) {
			close(started)
			<-ctx.Done()
			return nil, ctx.Err()
		})
		q.start(t)
		request := newRequest("http://127.0.0.1:9/")
		q.accept(t, request)
		<-started
		if _, err := q.River().JobCancel(t.Context(), q.get(t, request.ID).WorkJobID); err != nil {
			t.Fatal(err)
		}
		q.waitFor(t, request.ID, "status = 'cancelled' AND work_job_state = 'cancelled'")
	})

	// As River UI does it.
	t.Run("TakesCancellationsInTransactionsOfTheDriver", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		request := newRequest("http://127.0.0.1:9/")
		q.accept(t, request)
		driver := q.River().Driver()
		tx, err := driver.GetExecutor().Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := q.River().JobCancelTx(t.Context(), driver.UnwrapTx(tx), q.get(t, request.ID).WorkJobID); err != nil {
			t.Fatal(err)
		}
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		q.start(t)
		q.waitFor(t, request.ID, "status = 'cancelled' AND work_job_state = 'cancelled'")
	})

	keyed := func(t *testing.T, q *testQueue, url string, count int) (requests []db.Request) {
		for range count {
			request := newRequest(url)
			request.OrderingKey = "k"
			q.accept(t, request)
			request = q.get(t, request.ID)
			if err := q.finish(t.Context(), request, succeeded); err != nil {
				t.Fatal(err)
			}
			requests = append(requests, q.get(t, request.ID))
		}
		return requests
	}

	t.Run("KeepsTheOrderOfAKey", func(t *testing.T) {
		t.Parallel()
		q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
		requests := keyed(t, q, receiver.URL, 3)
		q.exec(t, "DELETE FROM river_job WHERE kind = 'callback'")
		q.start(t)
		for i, request := range requests {
			if got := receiver.next(t).event.Data.ID; got != request.ID {
				t.Errorf("callback %d: got the callback of %s, want the callback of %s", i, got, request.ID)
			}
		}
	})

	// As a process of an older version leaves it, which doesn't know of ordering keys.
	t.Run("GoesOnWithAKeyWhoseHeadHasEnded", func(t *testing.T) {
		t.Parallel()
		q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
		requests := keyed(t, q, receiver.URL, 2)
		q.exec(t, `UPDATE requests SET callback_state = 'delivered', settled_at = now() WHERE id = $1`, requests[0].ID)
		q.exec(t, `UPDATE river_job SET state = 'completed', finalized_at = now() WHERE id = $1`, requests[0].CallbackJobID)
		q.start(t)
		if got := receiver.next(t).event.Data.ID; got != requests[1].ID {
			t.Errorf("got the callback of %s, want that of %s", got, requests[1].ID)
		}
	})

	t.Run("ReleasesAHeadThatIsHeldBack", func(t *testing.T) {
		t.Parallel()
		q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
		requests := keyed(t, q, receiver.URL, 2)
		q.exec(t, "DELETE FROM ordered_requests WHERE request_id = $1", requests[0].ID)
		q.exec(t, "UPDATE river_job SET state = 'completed', finalized_at = now() WHERE id = $1", requests[0].CallbackJobID)
		q.exec(t, "UPDATE requests SET callback_state = 'delivered', settled_at = now() WHERE id = $1", requests[0].ID)
		q.start(t)
		receiver.next(t)
		q.waitFor(t, requests[1].ID, "callback_state = 'delivered'")
	})

	t.Run("PutsARequestBackIntoTheOrderOfItsKey", func(t *testing.T) {
		t.Parallel()
		q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
		requests := keyed(t, q, receiver.URL, 3)
		q.exec(t, "DELETE FROM ordered_requests WHERE request_id = $1", requests[1].ID)
		if _, err := q.reconciler.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
		q.start(t)
		for i, request := range requests {
			if got := receiver.next(t).event.Data.ID; got != request.ID {
				t.Errorf("callback %d: got the callback of %s, want the callback of %s", i, got, request.ID)
			}
		}
		q.waitFor(t, requests[2].ID, "callback_state = 'delivered'")
		if !q.holds(t, "SELECT NOT EXISTS (SELECT FROM ordered_requests)") {
			t.Error("a request is still in the order of its key")
		}
	})

	// A delayed request and a redelivery are due as late as their callers said.
	t.Run("LeavesWhatIsDueLaterAlone", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		delayed, spaced, held := newRequest("http://127.0.0.1:9/"), newRequest("http://127.0.0.1:9/"), keyed(t, q, "http://127.0.0.1:9/", 2)[1]
		delayed.RunAt = q.Now().AddDate(0, 0, 30)
		q.accept(t, delayed)
		q.accept(t, spaced)
		if err := q.finish(t.Context(), spaced, succeeded); err != nil {
			t.Fatal(err)
		}
		q.exec(t, "UPDATE requests SET callback_state = 'dead', settled_at = now() WHERE id = $1", spaced.ID)
		spaced.Client = q.get(t, spaced.ID).Client
		later := q.Now().AddDate(0, 0, 5)
		if _, err := db.RedeliverCallbacks(t.Context(), q.direct, callbackJobs, []db.Redelivery{{RequestID: spaced.ID, Client: spaced.Client, At: later}}); err != nil {
			t.Fatal(err)
		}
		before := []int64{q.get(t, delayed.ID).WorkJobID, q.get(t, spaced.ID).CallbackJobID, held.CallbackJobID}
		q.exec(t, "UPDATE reconciliation SET next_at = now()")
		if _, err := q.reconciler.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
		after := []int64{q.get(t, delayed.ID).WorkJobID, q.get(t, spaced.ID).CallbackJobID, q.get(t, held.ID).CallbackJobID}
		if !slices.Equal(before, after) {
			t.Errorf("jobs: got %d, want %d as before", after, before)
		}
	})

	t.Run("LooksAgainAtWhatSomebodyHolds", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		request := newRequest("http://127.0.0.1:9/")
		q.accept(t, request)
		q.exec(t, "DELETE FROM river_job")
		tx, err := q.direct.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), "SELECT FROM requests FOR UPDATE"); err != nil {
			t.Fatal(err)
		}
		look := func() {
			q.exec(t, "UPDATE reconciliation SET next_at = now()")
			if _, err := q.reconciler.Look(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		look()
		if !q.holds(t, "SELECT EXISTS (SELECT FROM lost_steps)") {
			t.Error("the request is noted no more")
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		look()
		q.waitFor(t, request.ID, "work_job_state = 'available'")
		if !q.holds(t, "SELECT NOT EXISTS (SELECT FROM lost_steps)") {
			t.Error("the request is still noted")
		}
	})

	t.Run("LeavesWhatHasAJobAlone", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		request := newRequest("http://127.0.0.1:9/")
		q.accept(t, request)
		before := q.get(t, request.ID).WorkJobID
		if err := q.Mend(t.Context(), request.ID); err != nil {
			t.Fatal(err)
		}
		if err := q.Mend(t.Context(), uuid.Must(uuid.NewV7())); err != nil {
			t.Fatal(err)
		}
		if got := q.get(t, request.ID).WorkJobID; got != before || !q.holds(t, "SELECT count(*) = 1 FROM river_job") {
			t.Errorf("job: got %d, want %d alone", got, before)
		}
	})
}

// Somebody made jobs by hand, or changed them, so that a step might be taken twice at once.
func TestJobsMadeByHand(t *testing.T) {
	t.Parallel()
	// blocking is work that tells of each run, and goes on once it is released.
	blocking := func(t *testing.T) (q *testQueue, runs chan struct{}, release func()) {
		t.Helper()
		runs, released := make(chan struct{}, 10), make(chan struct{})
		q = newQueue(t, func(context.Context, jsontext.Value) (jsontext.Value, error) {
			runs <- struct{}{}
			<-released
			return succeeded.Result, nil
		})
		release = sync.OnceFunc(func() { close(released) })
		q.start(t)
		t.Cleanup(release) // before the queue stops
		return q, runs, release
	}

	t.Run("DoNoWorkThatAnotherJobDoes", func(t *testing.T) {
		t.Parallel()
		q, runs, release := blocking(t)
		receiver := newReceiver(t, always(http.StatusOK))
		request := newRequest(receiver.URL)
		q.accept(t, request)
		<-runs
		q.exec(t, `
			INSERT INTO river_job (state, args, kind, queue, max_attempts)
			SELECT 'available', args, kind, queue, max_attempts
			FROM river_job, generate_series(1, 3)`)
		waitUntil(t, func() bool { return q.holds(t, "SELECT count(*) = 3 FROM river_job WHERE state = 'completed'") })
		release()
		receiver.next(t)
		q.waitFor(t, request.ID, "callback_state = 'delivered'")
		if len(runs) > 0 {
			t.Errorf("the work ran %d times, want once", 1+len(runs))
		}
	})

	t.Run("DoNoWorkOfNoRequest", func(t *testing.T) {
		t.Parallel()
		q, runs, release := blocking(t)
		release()
		q.exec(t, "INSERT INTO river_job (state, args, kind, queue, max_attempts) VALUES ('available', '{}', 'work', 'work', 1000)")
		waitUntil(t, func() bool { return q.holds(t, "SELECT state = 'completed' FROM river_job") })
		if len(runs) > 0 {
			t.Error("the work ran")
		}
	})

	// River's own rescue takes no job that has no timeout.
	t.Run("RunAgainThoughTheyRunInAProcessWithoutARow", func(t *testing.T) {
		t.Parallel()
		q, receiver := newQueue(t, nil), newReceiver(t, always(http.StatusOK))
		request := newRequest(receiver.URL)
		q.accept(t, request)
		q.exec(t, "UPDATE river_job SET state = 'running', attempt = 1, attempted_at = now() - interval '1 minute', attempted_by = ARRAY['gone']")
		q.start(t)
		receiver.next(t)
		q.waitFor(t, request.ID, "callback_state = 'delivered' AND work_job_attempt = 1 AND work_job_state = 'completed'")
	})

	// River UI's retry.
	t.Run("AreNoneWhereARunningJobIsRetried", func(t *testing.T) {
		t.Parallel()
		q, runs, release := blocking(t)
		receiver := newReceiver(t, always(http.StatusOK))
		request := newRequest(receiver.URL)
		q.accept(t, request)
		<-runs
		if job, err := q.River().JobRetry(t.Context(), q.get(t, request.ID).WorkJobID); err != nil || job.State != rivertype.JobStateRunning {
			t.Errorf("got %+v, %v, want the job as it runs", job, err)
		}
		release()
		receiver.next(t)
		q.waitFor(t, request.ID, "callback_state = 'delivered' AND work_job_state = 'completed'")
		if len(runs) > 0 {
			t.Errorf("the work ran %d times, want once", 1+len(runs))
		}
	})

	t.Run("WaitForTheRunOfTheSameJob", func(t *testing.T) {
		t.Parallel()
		q, runs, release := blocking(t)
		receiver := newReceiver(t, always(http.StatusOK))
		request := newRequest(receiver.URL)
		q.accept(t, request)
		<-runs
		q.exec(t, "UPDATE river_job SET state = 'available'")
		waitUntil(t, func() bool { return q.holds(t, "SELECT state = 'running' FROM river_job") }) // again
		release()
		receiver.next(t)
		q.waitFor(t, request.ID, "callback_state = 'delivered' AND work_job_state = 'completed'")
		if len(runs) > 0 {
			t.Errorf("the work ran %d times, want once", 1+len(runs))
		}
	})
}
