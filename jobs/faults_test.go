package jobs

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"ringback/db"
	"ringback/db/dbtest"
	"ringback/jobs/webhook"
)

// wantNoOrphans checks that every row has its jobs and every job its row.
func (q *testQueue) wantNoOrphans(t *testing.T) {
	t.Helper()
	const sql = `
		WITH rows (job_id, kind, request_id) AS (
			SELECT work_job_id, 'work', id
			FROM requests
			WHERE mode = 'async'
			UNION ALL
			SELECT callback_job_id, 'callback', id
			FROM requests
			WHERE callback_state <> 'waiting'
		), jobs (job_id, kind, request_id) AS (
			SELECT id, kind, (args ->> 'request_id')::uuid
			FROM river_job
		)
		SELECT coalesce(string_agg(concat_ws(' ', kind, 'of', request_id), ', '), '')
		FROM rows
		FULL JOIN jobs USING (job_id, kind, request_id)
		WHERE rows IS NULL
		   OR jobs IS NULL`
	var orphans string
	if err := q.direct.QueryRow(t.Context(), sql).Scan(&orphans); err != nil {
		t.Fatal(err)
	}
	if orphans != "" {
		t.Errorf("a row without its job or a job without its row: %s", orphans)
	}
}

// hold keeps every step from writing to requests until release.
func (q *testQueue) hold(t *testing.T) (release func()) {
	t.Helper()
	tx, err := q.direct.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "LOCK TABLE requests"); err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() { _ = tx.Rollback(context.Background()) })
	t.Cleanup(release)
	return release
}

// blocked are the connections that wait for hold's lock.
const blocked = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

func (q *testQueue) waitForBlocked(t *testing.T, count int) {
	t.Helper()
	waitUntil(t, func() bool { return q.holds(t, "SELECT count(*) >= $1 "+blocked, count) })
}

// at calls do for each request at the same time. errs waits for their errors.
func at(requests []db.Request, do func(db.Request) error) (errs func() map[uuid.UUID]error) {
	var mu sync.Mutex
	var all sync.WaitGroup
	results := map[uuid.UUID]error{}
	for _, request := range requests {
		all.Go(func() {
			err := do(request)
			mu.Lock()
			defer mu.Unlock()
			results[request.ID] = errors.Join(results[request.ID], err)
		})
	}
	return func() map[uuid.UUID]error {
		all.Wait()
		return results
	}
}

func newRequests(count int) (requests []db.Request) {
	for range count {
		requests = append(requests, newRequest("http://127.0.0.1:9/"))
	}
	return requests
}

// failCommits makes every commit fail that writes to a table, once all its
// statements have succeeded.
func (q *testQueue) failCommits(t *testing.T, table string) {
	t.Helper()
	q.exec(t, `CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no commit'; END $$`)
	q.exec(t, "CREATE CONSTRAINT TRIGGER fail AFTER INSERT OR UPDATE ON "+table+
		" DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail()")
}

func TestRowAndJobCommitTogether(t *testing.T) {
	t.Parallel()
	for _, table := range []string{"requests", "river_job"} {
		t.Run("Accept/WhenThatOf_"+table+"_Fails", func(t *testing.T) {
			t.Parallel()
			q := newQueue(t, nil)
			q.failCommits(t, table)
			if err := q.Accept(t.Context(), newRequest("http://127.0.0.1:9/")); err == nil {
				t.Error("got no error from a commit that failed")
			}
			if !q.holds(t, "SELECT NOT EXISTS (SELECT FROM requests) AND NOT EXISTS (SELECT FROM river_job)") {
				t.Error("a row or a job is left, want neither")
			}
		})
		t.Run("Finish/WhenThatOf_"+table+"_Fails", func(t *testing.T) {
			t.Parallel()
			q := newQueue(t, nil)
			request := newRequest("http://127.0.0.1:9/")
			q.accept(t, request)
			q.failCommits(t, table)
			if err := q.finish(t.Context(), request, succeeded); err == nil {
				t.Error("got no error from a commit that failed")
			}
			if !q.holds(t, "SELECT (SELECT status = 'accepted' FROM requests) AND NOT EXISTS (SELECT FROM river_job WHERE kind = 'callback')") {
				t.Error("an outcome or a callback job is left, want neither")
			}
		})
	}
}

func TestOneBadRowFailsAlone(t *testing.T) {
	t.Parallel()
	accepted := func(t *testing.T) (*testQueue, []db.Request) {
		q := newQueue(t, nil)
		return q, newRequests(50)
	}
	accept := func(t *testing.T, q *testQueue, requests []db.Request) map[uuid.UUID]error {
		release := q.hold(t)
		errs := at(requests, func(r db.Request) error { return q.Accept(t.Context(), r) })
		waitUntil(t, func() bool { return q.backlog.now() == int64(len(requests)) })
		q.waitForBlocked(t, 1)
		release()
		return errs()
	}

	t.Run("OfTheSameBatch", func(t *testing.T) {
		t.Parallel()
		q, requests := accepted(t)
		requests[31].CallbackURL = ""
		for id, err := range accept(t, q, requests) {
			var refused *pgconn.PgError
			switch errors.As(err, &refused); {
			case id != requests[31].ID && err != nil:
				t.Errorf("a good row: got %v", err)
			case id == requests[31].ID && (refused == nil || refused.ConstraintName != "requests_async_has_callback"):
				t.Errorf("the bad row: got %v, want a violation of requests_async_has_callback", err)
			}
		}
		if !q.holds(t, "SELECT (SELECT count(*) FROM requests) = 49 AND (SELECT count(*) FROM river_job) = 49") {
			t.Error("want 49 rows and 49 jobs")
		}
		q.wantNoOrphans(t)
	})

	t.Run("WhenItIsARequestTwice", func(t *testing.T) {
		t.Parallel()
		q, requests := accepted(t)
		requests[49] = requests[48]
		for id, err := range accept(t, q, requests) {
			var refused *pgconn.PgError
			switch errors.As(err, &refused); {
			case id != requests[48].ID && err != nil:
				t.Errorf("a request that is there once: got %v", err)
			case id == requests[48].ID && (refused == nil || refused.ConstraintName != "requests_pkey"):
				t.Errorf("the request that is there twice: got %v, want a violation of requests_pkey", err)
			}
		}
		if !q.holds(t, "SELECT (SELECT count(*) FROM requests) = 49 AND (SELECT count(*) FROM river_job) = 49") {
			t.Error("want 49 rows and 49 jobs")
		}
		q.wantNoOrphans(t)
	})
}

func TestLostConnections(t *testing.T) {
	t.Parallel()
	outcome := webhook.Attempt{StartedAt: morning, EndedAt: morning, Outcome: webhook.Delivered, Status: 200}
	steps := []struct {
		name string
		do   func(*testQueue, context.Context, db.Request) error
		then string // the state of a request after it
	}{
		{
			"Accept", func(q *testQueue, ctx context.Context, r db.Request) error { return q.Accept(ctx, r) },
			"status = 'accepted' AND callback_state = 'waiting' AND work_job_state = 'available'",
		},
		{
			"Finish", func(q *testQueue, ctx context.Context, r db.Request) error { return q.finish(ctx, r, succeeded) },
			"status = 'succeeded' AND callback_state = 'pending' AND callback_job_state = 'available'",
		},
		{"Settle", func(q *testQueue, ctx context.Context, r db.Request) error {
			_, err := q.settle(ctx, r, outcome, step{state: db.CallbackDelivered})
			return err
		}, "callback_state = 'delivered' AND outcome = 'delivered'"},
	}
	faults := map[string]func(*testing.T, *testQueue, *dbtest.Proxy){
		"Terminated": func(t *testing.T, q *testQueue, _ *dbtest.Proxy) {
			q.exec(t, "SELECT pg_terminate_backend(pid) "+blocked)
		},
		"Refused": func(_ *testing.T, _ *testQueue, proxy *dbtest.Proxy) { proxy.Refuse() },
	}
	for n, step := range steps {
		for name, breakIt := range faults {
			t.Run(step.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				url := dbtest.New(t)
				proxy, through := dbtest.NewProxy(t, url)
				q, requests := newQueueAt(t, url, through, nil), newRequests(6) // workers' steps take 8 at a time here
				for _, before := range steps[:n] {
					for _, request := range requests {
						if err := before.do(q, t.Context(), request); err != nil {
							t.Fatal(err)
						}
					}
				}
				release := q.hold(t)
				errs := at(requests, func(r db.Request) error { return step.do(q, t.Context(), r) })
				q.waitForBlocked(t, 1)
				breakIt(t, q, proxy)
				release()
				failed := 0
				for id, err := range errs() {
					if err != nil {
						failed++
					}
					if err != nil && !db.IsUnavailable(err) {
						t.Errorf("got %v, want it known as unavailable", err)
					}
					if err == nil {
						q.waitFor(t, id, step.then)
					}
				}
				if failed < 1 {
					t.Errorf("failed: got %d, want at least a batch", failed)
				}
				q.wantNoOrphans(t)

				proxy.Pass()
				acceptAgain(t, q)
				for _, request := range requests {
					waitUntil(t, func() bool { return doAgain(t, q, step.do, request) })
					q.waitFor(t, request.ID, step.then)
				}
				q.wantNoOrphans(t)
			})
		}
	}
}

// doAgain tells whether a step that failed before is done by now.
func doAgain(t *testing.T, q *testQueue, do func(*testQueue, context.Context, db.Request) error, request db.Request) bool {
	t.Helper()
	err := do(q, t.Context(), request)
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.ConstraintName == "requests_pkey" {
		return true // it was accepted the first time
	}
	if err != nil && !db.IsUnavailable(err) {
		t.Fatalf("again: %v", err)
	}
	return err == nil
}

func TestCallersWhoGo(t *testing.T) {
	t.Parallel()

	t.Run("LeaveTheirRequestToBeWorked", func(t *testing.T) {
		t.Parallel()
		q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
		release := q.hold(t)
		ctx, cancel := context.WithCancel(t.Context())
		request := newRequest(receiver.URL)
		errs := at([]db.Request{request}, func(r db.Request) error { return q.Accept(ctx, r) })
		q.waitForBlocked(t, 1)
		cancel()
		if err := errs()[request.ID]; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
		release()
		q.waitFor(t, request.ID, "status = 'accepted' AND work_job_state = 'available'")
		q.start(t)
		receiver.next(t)
		q.waitFor(t, request.ID, "status = 'succeeded' AND callback_state = 'delivered'")
	})

	// The work is done, and the callback sent, so the process that stops must not forget
	// it, or another process would do it again.
	t.Run("HaveWhatTheyDidWrittenAllTheSame", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		request := newRequest("http://127.0.0.1:9/")
		q.accept(t, request)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		sent := webhook.Attempt{StartedAt: morning, EndedAt: morning, Outcome: webhook.Delivered, Status: 200}
		if err := q.finish(ended, request, succeeded); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("finish: got %v", err)
		}
		q.waitFor(t, request.ID, "status = 'succeeded'")
		if _, err := q.settle(ended, request, sent, step{state: db.CallbackDelivered}); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("settle: got %v", err)
		}
		q.stop(t)
		q.waitFor(t, request.ID, "callback_state = 'delivered'")
	})
}
