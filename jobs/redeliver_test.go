package jobs

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"ringback/db"
	"ringback/jobs/clients"
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
	wanted := make([]Redelivery, len(redeliveries))
	for i, r := range redeliveries {
		wanted[i] = Redelivery{r, "http://127.0.0.1:9/"}
	}
	done, err := q.Redeliver(t.Context(), wanted)
	if err != nil || len(done.Refused) > 0 || done.Tried != len(wanted) {
		t.Fatalf("got %+v, %v, want all admitted", done, err)
	}
	return done.Count
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
				t.Error("dead letters: want the request among them, if its callback is dead")
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
			if !q.holds(t, "SELECT count(*) = 1 FROM river_job WHERE kind = 'callback'") {
				t.Error("the job before is left, which nobody would remove")
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
			t.Error("want the two callback jobs from before")
		}
	})

	t.Run("IsNotDoneByTheJobBeforeIt", func(t *testing.T) {
		t.Parallel()
		q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
		request := newRequest(receiver.URL)
		q.accept(t, request)
		q.end(t, request, db.CallbackDead)
		q.redeliver(t, db.Redelivery{RequestID: request.ID, Client: "alice", At: time.Now().Add(time.Hour)})
		const earlier = `
			INSERT INTO river_job (kind, queue, args, max_attempts)
			VALUES ('callback', 'callback', jsonb_build_object('request_id', $1::text), 1000)` // left by an older version
		q.exec(t, earlier, request.ID.String())
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

// endedFor stores requests of a client whose callbacks to a receiver have ended, and
// returns redeliveries of them, due at once.
func (q *testQueue) endedFor(t *testing.T, client, origin string, count int) (wanted []Redelivery) {
	t.Helper()
	const sql = `
		WITH ended AS (
			INSERT INTO requests (id, mode, client, status, input, result, callback_url, callback_state, work_job_id, callback_job_id, accepted_at, finished_at, settled_at)
			SELECT gen_random_uuid(), 'async', $1, 'succeeded', '{}', '{}', 'https://' || $2 || '/hook', 'dead', -1, -1, now(), now(), now()
			FROM generate_series(1, $3::int)
			RETURNING client, id, accepted_at
		)
		INSERT INTO dead_letters (client, request_id, callback_host, accepted_at)
		SELECT client, id, $2, accepted_at FROM ended
		RETURNING request_id`
	rows, err := q.direct.Query(t.Context(), sql, client, origin, count)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		wanted = append(wanted, Redelivery{db.Redelivery{RequestID: id, Client: client, At: time.Now()}, "https://" + origin + "/hook"})
	}
	return wanted
}

func TestRedeliverIsAdmittedAsRequestsAre(t *testing.T) {
	t.Parallel()

	t.Run("WithinWhatTheClientMayHaveUnfinished", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		q.quotas = newQuotas(Config{Pool: q.direct, Limits: limited(clients.Limits{Unfinished: 5, PerDestination: 3})})
		wanted := slices.Concat(q.endedFor(t, "alice", "a", 4), q.endedFor(t, "alice", "b", 4))
		done, err := q.Redeliver(t.Context(), wanted)
		if err != nil || done.Count != 5 || done.Tried != 6 || len(done.Refused) != 2 {
			t.Fatalf("got %+v, %v, want three for a and two for b", done, err)
		}
		if a, b := done.Refused[0], done.Refused[1]; !exceeds(a.Reason, DestinationQuota) || a.Count != 1 || !exceeds(b.Reason, UnfinishedQuota) || b.Count != 2 {
			t.Errorf("got %+v refused, want 1 of a for its destination and 2 of b for all", done.Refused)
		}
		if got := q.Left("alice"); got != 0 {
			t.Errorf("before a sample: got %d left, want none", got)
		}
		q.quotas.sampleUnfinished(t.Context())
		if err := q.Accept(t.Context(), requestOf("alice", "c")); !exceeds(err, UnfinishedQuota) {
			t.Errorf("after a sample: got %v, want a request refused, too", err)
		}
		if !q.holds(t, "SELECT count(*) = 3 FROM dead_letters") {
			t.Error("want the three refused dead letters left as they were")
		}
		q.accept(t, requestOf("bob", "a"))
	})

	t.Run("AndGivesBackWhatHadNotEnded", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		q.quotas = newQuotas(Config{Pool: q.direct, Limits: limited(clients.Limits{Unfinished: 5})})
		q.backlog.limit = 100
		wanted := q.endedFor(t, "alice", "a", 3)
		q.exec(t, "UPDATE requests SET callback_state = 'cancelled'")
		done, err := q.Redeliver(t.Context(), wanted)
		if err != nil || done.Count != 0 || q.Left("alice") != 5 || q.backlog.now() != 0 {
			t.Errorf("got %+v, %v with %d left and %d in the backlog, want nothing counted", done, err, q.Left("alice"), q.backlog.now())
		}
	})

	t.Run("AllTogetherOrNone", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		q.quotas = newQuotas(Config{Pool: q.direct, Limits: limited(clients.Limits{Unfinished: 1000})})
		wanted := q.endedFor(t, "alice", "a", redeliveriesAtOnce+1) // the last request in a statement of its own
		// The database refuses it.
		q.exec(t, "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$")
		q.exec(t, fmt.Sprintf("CREATE TRIGGER refuse BEFORE UPDATE ON requests FOR EACH ROW WHEN (OLD.id = '%s') EXECUTE FUNCTION refuse()", wanted[redeliveriesAtOnce].RequestID))
		done, err := q.Redeliver(t.Context(), wanted)
		if err == nil || done.Count != 0 || q.Left("alice") != 1000 {
			t.Errorf("got %+v, %v with %d left, want an error and nothing counted", done, err, q.Left("alice"))
		}
		if !q.holds(t, "SELECT count(*) = $1 FROM dead_letters", redeliveriesAtOnce+1) {
			t.Error("some were redelivered, want none")
		}
	})

	t.Run("AtTheClientsRateHoweverManyCalls", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		const rate = 10
		q.quotas = newQuotas(Config{Pool: q.direct, Limits: limited(clients.Limits{Rate: rate})})
		start := time.Now()
		for range 3 { // each at once, if nothing else counted
			if _, err := q.Redeliver(t.Context(), q.endedFor(t, "alice", "a", 20)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := q.Redeliver(t.Context(), q.endedFor(t, "bob", "a", 1)); err != nil {
			t.Fatal(err)
		}
		const spaced = `
			SELECT max(scheduled_at) >= $1::timestamptz + interval '5.9 seconds' AND count(DISTINCT scheduled_at) = 60
			FROM river_job JOIN requests ON callback_job_id = river_job.id AND client = 'alice'`
		if !q.holds(t, spaced, start) {
			t.Error("want alice's sixty a tenth of a second apart")
		}
		const bobs = "SELECT scheduled_at <= now() + interval '1 second' FROM river_job JOIN requests ON callback_job_id = river_job.id AND client = 'bob'"
		if !q.holds(t, bobs) {
			t.Error("want bob's at once")
		}
	})

	t.Run("AndIsNoLoadUntilItIsDue", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		q.backlog.limit = 5
		later := q.endedFor(t, "alice", "a", 100)
		for i := range later {
			later[i].At = time.Now().Add(2 * backlogHorizon)
		}
		if done, err := q.Redeliver(t.Context(), later); err != nil || done.Count != 100 {
			t.Fatalf("got %+v, %v, want a hundred for later", done, err)
		}
		for _, when := range []string{"before a sample", "after a sample"} {
			if err := q.Admit("bob"); err != nil {
				t.Errorf("%s: got %v, want bob admitted", when, err)
			}
			q.backlog.sample(t.Context())
		}
		done, err := q.Redeliver(t.Context(), q.endedFor(t, "alice", "a", 10))
		if err != nil || done.Count != 5 || !errors.Is(done.Refused[0].Reason, refusedBy(Backlog)) || done.Refused[0].Count != 5 {
			t.Errorf("got %+v, %v, want the total to bound redeliveries that are due at once", done, err)
		}
	})
}

// TestRetriesAreNoLoadOnOthers has a client's receivers down: callbacks that wait for hours
// count against the client, and not against all.
func TestRetriesAreNoLoadOnOthers(t *testing.T) {
	t.Parallel()
	q := newQueue(t, nil)
	q.backlog.limit = 10
	q.quotas = newQuotas(Config{Pool: q.direct, Limits: limited(clients.Limits{Unfinished: 100, PerDestination: 20})})
	const sql = `
		WITH waiting AS (
			INSERT INTO requests (id, mode, client, status, input, result, callback_url, callback_state, work_job_id, callback_job_id, accepted_at, finished_at)
			SELECT gen_random_uuid(), 'async', 'mallory', 'succeeded', '{}', '{}', 'https://down.example.com/', 'pending', -1, -1, now(), now()
			FROM generate_series(1, 20)
			RETURNING id
		)
		INSERT INTO river_job (kind, queue, args, max_attempts, state, attempt, scheduled_at)
		SELECT 'callback', 'callback', jsonb_build_object('request_id', id), 1000, 'retryable', 7, now() + interval '2 hours' FROM waiting`
	q.exec(t, sql)
	q.backlog.sample(t.Context())
	q.quotas.sampleUnfinished(t.Context())
	q.accept(t, requestOf("alice", "a"))
	if err := q.Accept(t.Context(), requestOf("mallory", "down.example.com")); !exceeds(err, DestinationQuota) {
		t.Errorf("mallory's 21st for a dead receiver: got %v, want it refused", err)
	}
	if got := q.Left("mallory"); got != 80 {
		t.Errorf("mallory has %d left, want 80", got)
	}
}
