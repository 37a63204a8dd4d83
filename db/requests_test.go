package db_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
	"ringback/db/dbtest"
)

var morning = time.Date(2026, 3, 1, 8, 0, 0, 123456000, time.UTC)

// asyncRequest is a request that was just accepted.
func asyncRequest() db.Request {
	return db.Request{
		ID: uuid.Must(uuid.NewV7()), Mode: db.Async, Client: "alice", Status: db.Accepted,
		Input: jsontext.Value(`{"text":"a"}`), CallbackURL: "https://hooks.example.com/", CallbackState: db.CallbackWaiting,
		AcceptedAt: morning,
	}
}

// syncRequest is a request that succeeded.
func syncRequest() db.Request {
	return db.Request{
		ID: uuid.Must(uuid.NewV7()), Mode: db.Sync, Client: "alice", Status: db.Succeeded,
		Input: jsontext.Value(`{"text":"a"}`), Result: jsontext.Value(`{"words":1}`),
		AcceptedAt: morning, StartedAt: morning.Add(time.Second), FinishedAt: morning.Add(2 * time.Second),
	}
}

var (
	workJobs     = db.Jobs{Kind: "work", Queue: "work", MaxAttempts: 1000}
	callbackJobs = db.Jobs{Kind: "callback", Queue: "callback", MaxAttempts: 1000}
)

func insert(t *testing.T, pool *pgxpool.Pool, requests ...db.Request) {
	t.Helper()
	for _, request := range requests {
		inserted(t, pool, request)
	}
}

// inserted is the request with the job that it got.
func inserted(t *testing.T, pool *pgxpool.Pool, request db.Request) db.Request {
	t.Helper()
	got, err := db.InsertRequests(t.Context(), pool, workJobs, []db.Request{request})
	if err != nil || (got[request.ID].WorkJobID != 0) != (request.Mode == db.Async) {
		t.Fatalf("inserting a request that is %s: got %+v, %v", request.Mode, got, err)
	}
	request.WorkJobID, request.Sequence = got[request.ID].WorkJobID, got[request.ID].Sequence
	return request
}

func inTx(t *testing.T, pool *pgxpool.Pool, do func(tx pgx.Tx) error) {
	t.Helper()
	if err := db.InTx(t.Context(), pool, do); err != nil {
		t.Fatal(err)
	}
}

func loadCallback(t *testing.T, pool *pgxpool.Pool, id uuid.UUID) (request db.Request, todo bool, err error) {
	t.Helper()
	requests, err := db.LoadCallbacks(t.Context(), pool, []uuid.UUID{id})
	request, todo = requests[id]
	return request, todo, err
}

// finish writes the outcome of a request that has none yet, and the id of its
// callback job into the request.
func finish(ctx context.Context, q db.Querier, request *db.Request) error {
	finished, err := db.FinishRequests(ctx, q, callbackJobs, []db.Request{*request})
	request.CallbackJobID = finished[request.ID].CallbackJobID
	if err == nil && request.CallbackJobID == 0 {
		err = errors.New("the request was finished before")
	}
	return err
}

func TestRequests(t *testing.T) {
	t.Parallel()
	pool := dbtest.NewPool(t)

	full := asyncRequest()
	full.ExpiresAt = morning.Add(time.Minute)
	full.OrderingKey = "order 7 of ünïcode"
	full.Traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	full.Input = jsontext.Value(`{ "text" : "\u00e9 stays\tas it was" }`)
	failed := syncRequest()
	failed.Status, failed.Result, failed.Error = db.Failed, nil, jsontext.Value(`{"code":"panic"}`)
	failed.StartedAt = time.Time{}
	for name, want := range map[string]db.Request{
		"AsyncWithAllFields": full, "AsyncWithZeroFields": asyncRequest(), "SyncSucceeded": syncRequest(), "SyncFailedWithoutAStart": failed,
	} {
		t.Run("ComeBackAsTheyWereInserted/"+name, func(t *testing.T) {
			t.Parallel()
			want := inserted(t, pool, want)
			got, err := db.GetRequest(t.Context(), pool, want.Client, want.ID)
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("got error %v and (-want +got):\n%s", err, diff)
			}
		})
	}

	t.Run("GoFromAcceptedToSettled", func(t *testing.T) {
		t.Parallel()
		want := inserted(t, pool, asyncRequest())
		works, err := db.LoadWork(t.Context(), pool, []uuid.UUID{want.ID})
		if diff := cmp.Diff(map[uuid.UUID]db.Request{want.ID: want}, works); err != nil || diff != "" {
			t.Errorf("work: got %v and (-want +got):\n%s", err, diff)
		}
		if _, todo, err := loadCallback(t, pool, want.ID); err != nil || todo {
			t.Errorf("callback before the work: got %v, %v, want none to do", todo, err)
		}

		want.Status, want.Result = db.Succeeded, jsontext.Value(`{"words" : 2}`)
		want.CallbackState = db.CallbackPending
		want.StartedAt, want.FinishedAt = morning.Add(time.Second), morning.Add(time.Minute)
		if err := finish(t.Context(), pool, &want); err != nil {
			t.Fatal(err)
		}
		if works, err := db.LoadWork(t.Context(), pool, []uuid.UUID{want.ID}); err != nil || len(works) > 0 {
			t.Errorf("work after it: got %v, %v, want none to do", works, err)
		}
		wantCallback := want
		wantCallback.Input = nil
		got, todo, err := loadCallback(t, pool, want.ID)
		if diff := cmp.Diff(wantCallback, got); err != nil || !todo || diff != "" {
			t.Errorf("callback: got %v, %v, want it to do; (-want +got):\n%s", todo, err, diff)
		}

		want.CallbackState, want.SettledAt = db.CallbackDead, morning.Add(time.Hour)
		inTx(t, pool, func(tx pgx.Tx) error {
			_, err := settle(t.Context(), tx, want.ID, db.CallbackDead, attemptAt(want.SettledAt.Add(-time.Millisecond)))
			return err
		})
		if _, todo, err := loadCallback(t, pool, want.ID); err != nil || todo {
			t.Errorf("callback after it: got %v, %v, want none to do", todo, err)
		}
		got, err = db.GetRequest(t.Context(), pool, want.Client, want.ID)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("got error %v and (-want +got):\n%s", err, diff)
		}
	})

	t.Run("AreNobodyElses", func(t *testing.T) {
		t.Parallel()
		request := asyncRequest()
		insert(t, pool, request)
		if _, err := db.GetRequest(t.Context(), pool, "bob", request.ID); !errors.Is(err, db.ErrNoRequest) {
			t.Errorf("another client's: got %v, want %v", err, db.ErrNoRequest)
		}
	})

	t.Run("AreNumberedInTheOrderOfAcceptance", func(t *testing.T) {
		t.Parallel()
		later, earlier := asyncRequest(), asyncRequest() // by id the other way round
		insert(t, pool, earlier, later)
		const sql = "SELECT (SELECT seq FROM requests WHERE id = $1) < (SELECT seq FROM requests WHERE id = $2)"
		if !valueOf[bool](t, pool, sql, earlier.ID, later.ID) {
			t.Error("the request that was inserted first has not the lower seq")
		}
	})

	t.Run("ThatDoNotExistHaveNothingToDo", func(t *testing.T) {
		t.Parallel()
		id := uuid.Must(uuid.NewV7())
		work, workErr := db.LoadWork(t.Context(), pool, []uuid.UUID{id})
		callbacks, callbackErr := db.LoadCallbacks(t.Context(), pool, []uuid.UUID{id})
		if len(work)+len(callbacks) > 0 || workErr != nil || callbackErr != nil {
			t.Errorf("got work %v, %v and callback %v, %v, want none to do", work, workErr, callbacks, callbackErr)
		}
		finished, err := db.FinishRequests(t.Context(), pool, callbackJobs, []db.Request{{ID: id, Status: db.Succeeded, Result: jsontext.Value(`1`)}})
		if len(finished) > 0 || err != nil {
			t.Errorf("finished: got %v, %v, want none", finished, err)
		}
	})
}

func TestFinishRequests(t *testing.T) {
	t.Parallel()

	t.Run("OfTwoAtATimeOnlyTheFirstWrites", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		requests := []db.Request{asyncRequest(), asyncRequest()}
		insert(t, pool, requests...)
		outcome := func(result string) []db.Request {
			outcomes := slices.Clone(requests)
			for i := range outcomes {
				outcomes[i].Status, outcomes[i].Result = db.Succeeded, jsontext.Value(result)
				outcomes[i].StartedAt, outcomes[i].FinishedAt = morning, morning
			}
			return outcomes
		}
		second := make(chan map[uuid.UUID]db.Finished, 1)
		inTx(t, pool, func(tx pgx.Tx) error {
			first, err := db.FinishRequests(t.Context(), tx, callbackJobs, outcome(`1`))
			if len(first) != 2 {
				t.Errorf("first: got %v, %v, want both", first, err)
			}
			go func() {
				var got map[uuid.UUID]db.Finished
				if err := db.InTx(t.Context(), pool, func(tx pgx.Tx) (err error) {
					reversed := outcome(`2`)
					slices.Reverse(reversed) // the other order must not deadlock
					got, err = db.FinishRequests(t.Context(), tx, callbackJobs, reversed)
					return err
				}); err != nil {
					t.Errorf("second: %v", err)
				}
				second <- got
			}()
			wait(t, pool, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')")
			if _, err := db.GetRequest(t.Context(), pool, requests[0].Client, requests[0].ID); err != nil {
				t.Errorf("reading meanwhile: %v", err)
			}
			return err
		})
		if got := <-second; len(got) != 0 {
			t.Errorf("second: got %v, want none", got)
		}
		if got, err := db.GetRequest(t.Context(), pool, requests[1].Client, requests[1].ID); err != nil || string(got.Result) != `1` {
			t.Errorf("result: got %s, %v, want the first", got.Result, err)
		}
	})
}

func TestConstraints(t *testing.T) {
	t.Parallel()
	pool := dbtest.NewPool(t)
	accepted, done, pending := asyncRequest(), syncRequest(), asyncRequest()
	insert(t, pool, accepted, done, pending)
	pending.Status, pending.Result = db.Succeeded, jsontext.Value(`1`)
	pending.StartedAt, pending.FinishedAt = morning, morning
	inTx(t, pool, func(tx pgx.Tx) error {
		if err := finish(t.Context(), tx, &pending); err != nil {
			return err
		}
		_, err := insertAttempt(t.Context(), tx, pending.ID, attemptAt(morning))
		return err
	})
	for _, test := range []struct {
		name string // of the constraint
		of   db.Request
		set  string
	}{
		{"requests_pkey", accepted, "id = '" + done.ID.String() + "'"},
		{"requests_mode_known", done, "mode = 'later'"},
		{"requests_status_known", done, "status = 'done', result = NULL"},
		{"requests_callback_state_known", pending, "callback_state = 'lost'"},
		{"requests_sync_is_finished_or_has_job", done, "status = 'accepted', finished_at = NULL, result = NULL"},
		{"requests_async_has_callback", accepted, "callback_url = NULL"},
		{"requests_async_has_callback", pending, "callback_state = NULL"},
		{"requests_async_has_callback", done, "callback_url = 'https://hooks.example.com/'"},
		{"requests_async_has_work_job", accepted, "work_job_id = NULL"},
		{"requests_finished_has_time", accepted, "finished_at = now()"},
		{"requests_finished_has_time", done, "finished_at = NULL"},
		{"requests_succeeded_has_result", done, "result = NULL"},
		{"requests_succeeded_has_result", accepted, "result = '1'"},
		{"requests_unsuccessful_has_error", done, "error = '{}'"},
		{"requests_unsuccessful_has_error", done, "status = 'failed', result = NULL"},
		{"requests_unsuccessful_has_error", done, "status = 'expired', result = NULL, expires_at = now()"},
		{"requests_expired_had_an_end", done, "status = 'expired', result = NULL, error = '{}'"},
		{"requests_redelivered_after_the_work", accepted, "redelivered_at = now()"},
		{"requests_redelivered_after_the_work", done, "redelivered_at = now()"},
		{"requests_unsuccessful_has_error", done, "status = 'cancelled', result = NULL"},
		{"requests_callback_follows_work", accepted, "callback_state = 'pending', callback_job_id = 1"},
		{"requests_callback_follows_work", pending, "callback_state = 'waiting'"},
		{"requests_pending_has_callback_job", pending, "callback_job_id = NULL"},
		{"requests_settled_has_time", pending, "callback_state = 'delivered'"},
		{"requests_settled_has_time", pending, "callback_state = 'dead'"},
		{"requests_settled_has_time", pending, "callback_state = 'cancelled'"},
		{"requests_settled_has_time", pending, "settled_at = now()"},
		{"requests_ordering_key_bounded", accepted, "ordering_key = ''"},
		{"requests_ordering_key_bounded", accepted, "ordering_key = repeat('k', 256)"},
		{"requests_ordering_key_bounded", done, "ordering_key = 'k'"},
	} {
		t.Run(test.name+"/"+test.set, func(t *testing.T) {
			t.Parallel()
			_, err := pool.Exec(t.Context(), "UPDATE requests SET "+test.set+" WHERE id = $1", test.of.ID)
			if got := constraintOf(err); got != test.name {
				t.Errorf("setting %s of a request that is %s: got %v, want a violation of %s", test.set, test.of.Status, err, test.name)
			}
		})
	}
	for _, test := range []struct{ table, name, set string }{
		{"callback_attempts", "callback_attempts_numbered_from_one", "attempt = 0"},
		{"callback_attempts", "callback_attempts_outcome_known", "outcome = 'lost'"},
		{"callback_attempts", "callback_attempts_delivered_is_last", "outcome = 'delivered', next_attempt_at = now()"},
		{"callback_attempts", "callback_attempts_delivered_is_last", "outcome = 'gone', next_attempt_at = now()"},
		{"river_job", "finalized_or_finalized_at_null", "state = 'completed'"},
		{"river_job", "finalized_or_finalized_at_null", "finalized_at = now()"},
		{"river_job", "kind_length", "kind = ''"},
		{"river_job", "kind_length", "kind = repeat('k', 128)"},
		{"river_job", "max_attempts_is_positive", "max_attempts = 0"},
		{"river_job", "priority_in_range", "priority = 0"},
		{"river_job", "priority_in_range", "priority = 5"},
		{"river_job", "queue_length", "queue = ''"},
		{"river_job", "queue_length", "queue = repeat('q', 128)"},
	} {
		t.Run(test.name+"/"+test.set, func(t *testing.T) {
			t.Parallel()
			_, err := pool.Exec(t.Context(), "UPDATE "+test.table+" SET "+test.set)
			if got := constraintOf(err); got != test.name {
				t.Errorf("setting %s: got %v, want a violation of %s", test.set, err, test.name)
			}
		})
	}
}

func TestUpdatesAreHeapOnly(t *testing.T) {
	t.Parallel()
	pool := dbtest.NewPool(t)
	request := asyncRequest()
	insert(t, pool, request)
	request.Status, request.Result = db.Succeeded, jsontext.Value(`{"words":1}`)
	request.StartedAt, request.FinishedAt = morning, morning
	inTx(t, pool, func(tx pgx.Tx) error {
		if err := finish(t.Context(), tx, &request); err != nil {
			return err
		}
		if _, err := settle(t.Context(), tx, request.ID, db.CallbackDelivered, attemptAt(morning)); err != nil {
			return err
		}
		const sql = "SELECT n_tup_upd || ' updates, ' || n_tup_hot_upd || ' hot' FROM pg_stat_xact_user_tables WHERE relname = 'requests'"
		if got, want := valueOf[string](t, tx, sql), "2 updates, 2 hot"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		return nil
	})
}

func TestRequestTrace(t *testing.T) {
	t.Parallel()
	pool := dbtest.NewPool(t)
	request := asyncRequest()
	insert(t, pool, request)
	request.Status, request.Error = db.Failed, jsontext.Value(`{"code":"panic","message":"…"}`)
	request.StartedAt, request.FinishedAt = morning, morning
	refused := attemptAt(morning.Add(time.Second))
	refused.Address, refused.Cause = "192.0.2.1:443", "connection refused"
	inTx(t, pool, func(tx pgx.Tx) error {
		if err := finish(t.Context(), tx, &request); err != nil {
			return err
		}
		_, err1 := insertAttempt(t.Context(), tx, request.ID, refused)
		_, err2 := settle(t.Context(), tx, request.ID, db.CallbackDead, attemptAt(morning.Add(2*time.Second)))
		return errors.Join(err1, err2)
	})
	done := syncRequest()
	insert(t, pool, done)
	const complete = "UPDATE river_job SET state = 'completed', attempt = 2, attempted_at = now(), attempted_by = '{first,second}', finalized_at = now()"
	if _, err := pool.Exec(t.Context(), complete); err != nil {
		t.Fatal(err)
	}

	trace := func(id uuid.UUID) []string {
		const sql = `
			SELECT concat_ws(' ', mode, status, error_code, callback_state,
			                 work_job_state, work_job_attempt, work_job_attempted_by,
			                 callback_job_state, callback_job_attempt, callback_job_attempted_by,
			                 attempt, outcome, address, cause)
			FROM request_trace
			WHERE request_id = $1
			ORDER BY attempt`
		rows, err := pool.Query(t.Context(), sql, id)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		return lines
	}
	want := []string{
		"async failed panic dead completed 2 second completed 2 second 1 http_status 192.0.2.1:443 connection refused",
		"async failed panic dead completed 2 second completed 2 second 2 http_status",
	}
	if diff := cmp.Diff(want, trace(request.ID)); diff != "" {
		t.Errorf("with the jobs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"sync succeeded"}, trace(done.ID)); diff != "" {
		t.Errorf("a sync request (-want +got):\n%s", diff)
	}
	if _, err := pool.Exec(t.Context(), "DELETE FROM river_job"); err != nil {
		t.Fatal(err)
	}
	want = []string{
		"async failed panic dead 1 http_status 192.0.2.1:443 connection refused",
		"async failed panic dead 2 http_status",
	}
	if diff := cmp.Diff(want, trace(request.ID)); diff != "" {
		t.Errorf("without the jobs (-want +got):\n%s", diff)
	}
}
