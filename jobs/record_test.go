package jobs

import (
	"context"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"ringback/db"
	"ringback/db/dbtest"
	"ringback/jobs/webhook"
)

// lockTable locks a table as CREATE INDEX does: it can be read, and not written.
func (q *testQueue) lockTable(t *testing.T, table string) (release func()) {
	t.Helper()
	tx, err := q.direct.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "LOCK TABLE "+table+" IN SHARE MODE"); err != nil {
		t.Fatal(err)
	}
	return func() { _ = tx.Rollback(context.Background()) }
}

// gate holds calls until it is opened, and counts them.
type gate struct {
	passed         atomic.Int64
	reached, opens chan struct{}
}

func newGate() *gate { return &gate{reached: make(chan struct{}, 100), opens: make(chan struct{})} }

func (g *gate) pass() {
	g.passed.Add(1)
	g.reached <- struct{}{}
	<-g.opens
}

// impatient is a database whose statements fail soon where they wait for a lock.
func impatient(t *testing.T) (url, through string) {
	t.Helper()
	url = dbtest.New(t)
	return url, url + "&statement_timeout=300"
}

func TestAnswersInHandAreRecordedNotProducedAgain(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		callback bool // else the outcome of the work is in hand
		table    string
	}{
		{"OfWorkWhileRequestsAreLocked", false, "requests"},
		{"OfWorkWhileJobsAreLocked", false, "river_job"},
		{"OfReceiversWhileAttemptsAreLocked", true, "callback_attempts"},
		{"OfReceiversWhileRequestsAreLocked", true, "requests"},
		{"OfReceiversWhileJobsAreLocked", true, "river_job"},
	} {
		for way, walk := range map[string]bool{"ThroughTheQueue": true, "BornRunning": false} {
			t.Run(test.name+"/"+way, func(t *testing.T) {
				t.Parallel()
				works, posts := newGate(), newGate()
				closed, open := works, posts
				if test.callback {
					closed, open = posts, works
				}
				close(open.opens)
				receiver := newServer(t, func(http.ResponseWriter, *http.Request) { posts.pass() })
				url, through := impatient(t)
				q := newQueueAt(t, url, through, func(context.Context, jsontext.Value) (jsontext.Value, error) {
					works.pass()
					return succeeded.Result, nil
				})
				q.startBoth(t, walk)
				request := newRequest(receiver)
				q.accept(t, request)
				<-closed.reached
				release := q.lockTable(t, test.table)
				close(closed.opens)
				q.waitForLog(t, "answers_not_recorded")
				if q.record.inHand.Load() != 1 {
					t.Errorf("got %d answers in hand, want 1", q.record.inHand.Load())
				}
				release()
				q.waitForLog(t, "answers_recorded")
				q.waitFor(t, request.ID, "callback_state = 'delivered' AND work_job_state = 'completed' AND callback_job_state = 'completed'")
				if runs, sent := works.passed.Load(), posts.passed.Load(); runs != 1 || sent != 1 {
					t.Errorf("got %d runs and %d POSTs, want one of each", runs, sent)
				}
				if got, want := q.outcomes(t, request.ID), []string{"delivered"}; !slices.Equal(got, want) {
					t.Errorf("log: got %q, want %q", got, want)
				}
			})
		}
	}

	t.Run("ApartFromAnswersWhoseRowsAreFree", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		locked, free := newRequest("http://127.0.0.1:9/"), newRequest("http://127.0.0.1:9/")
		q.accept(t, locked)
		q.accept(t, free)
		tx, err := q.direct.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(context.Background())
		if _, err := tx.Exec(t.Context(), "SELECT FROM requests WHERE id = $1 FOR UPDATE", locked.ID); err != nil {
			t.Fatal(err)
		}
		recorded := make(chan error, 1)
		go func() { recorded <- q.record.insist(q.runner.recording(locked, succeeded)) }()
		const waiting = `
			SELECT coalesce(min(pid), 0)
			FROM pg_stat_activity
			WHERE datname = current_database()
			  AND wait_event_type = 'Lock'
			  AND query LIKE '%UPDATE requests%'`
		waiter := func() (pid int) {
			for pid == 0 {
				if err := q.direct.QueryRow(t.Context(), waiting).Scan(&pid); err != nil {
					t.Fatal(err)
				}
			}
			return pid
		}
		q.exec(t, "SELECT pg_cancel_backend($1)", waiter()) // the first write, in a batch
		q.waitForLog(t, "answers_not_recorded")
		waiter() // the second write
		if err := q.finish(t.Context(), free, succeeded); err != nil {
			t.Errorf("an answer whose row is free: %v", err)
		}
		if !q.holds(t, "SELECT EXISTS ("+waiting+" HAVING count(*) = 1)") {
			t.Error("the answer whose row is free had to wait for the other answer")
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-recorded; err != nil {
			t.Errorf("the answer whose row was locked: %v", err)
		}
	})

	for _, refusal := range []struct{ name, index string }{
		{"OfWorkThatTheDatabaseRefuses", "requests ((1 / (CASE status WHEN 'accepted' THEN 1 ELSE 0 END)))"},
		{"OfReceiversThatTheDatabaseRefuses", "callback_attempts ((1 / (attempt - attempt)))"},
	} {
		t.Run(refusal.name, func(t *testing.T) {
			t.Parallel()
			var runs atomic.Int64
			q, receiver := newQueue(t, func(context.Context, jsontext.Value) (jsontext.Value, error) {
				runs.Add(1)
				return succeeded.Result, nil
			}), newReceiver(t, always(http.StatusOK))
			q.exec(t, "CREATE INDEX refuses ON "+refusal.index)
			q.start(t)
			request := newRequest(receiver.URL)
			q.accept(t, request)
			q.waitForLog(t, "answers_not_recorded")
			q.exec(t, "DROP INDEX refuses")
			q.waitFor(t, request.ID, "status = 'succeeded' AND callback_state = 'delivered' AND callback_job_state = 'completed'")
			receiver.next(t)
			if runs.Load() != 1 || len(receiver.calls) > 0 {
				t.Errorf("got %d runs and %d more POSTs, want one run and none", runs.Load(), len(receiver.calls))
			}
			if got, want := q.outcomes(t, request.ID), []string{"delivered"}; !slices.Equal(got, want) {
				t.Errorf("log: got %q, want %q", got, want)
			}
		})
	}

	// The next process records the answer, whether it ends the callback or not.
	t.Run("ByTheNextProcessOnceThisOneStops", func(t *testing.T) {
		t.Parallel()
		for way, walk := range map[string]bool{"ThroughTheQueue": true, "BornRunning": false} {
			for name, test := range map[string]struct {
				statuses []int
				want     []string
			}{
				"Delivered":       {[]int{http.StatusOK}, []string{"delivered"}},
				"Failed":          {[]int{http.StatusInternalServerError, http.StatusOK}, []string{"http_status", "delivered"}},
				"ToldToComeLater": {[]int{http.StatusServiceUnavailable, http.StatusOK}, []string{"throttled", "delivered"}},
			} {
				t.Run(name+"/"+way, func(t *testing.T) {
					t.Parallel()
					posts := newGate()
					receiver := newServer(t, func(w http.ResponseWriter, _ *http.Request) {
						posts.pass()
						w.Header().Set("Retry-After", "1")
						w.WriteHeader(test.statuses[min(posts.passed.Load(), int64(len(test.statuses)))-1])
					})
					url, through := impatient(t)
					first := newQueueAt(t, url, through, doNothing)
					first.startBoth(t, walk)
					request := newRequest(receiver)
					first.accept(t, request)
					<-posts.reached
					release := first.lockTable(t, "callback_attempts")
					close(posts.opens)
					first.waitForLog(t, "answers_not_recorded")
					first.stop(t)
					first.waitForLog(t, "callback_cut_off "+request.ID.String())
					release()
					second := newQueueAt(t, url, url, doNothing)
					second.start(t)
					second.waitFor(t, request.ID, "callback_state = 'delivered'")
					if got := second.outcomes(t, request.ID); !slices.Equal(got, test.want) || posts.passed.Load() != int64(len(test.want)) {
						t.Errorf("got %q in the log and %d POSTs, want %q", got, posts.passed.Load(), test.want)
					}
				})
			}
		}
	})

	t.Run("IsInTheLogOnceHoweverOftenItIsWritten", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		request := newRequest("http://127.0.0.1:9/")
		q.accept(t, request)
		if err := q.finish(t.Context(), request, succeeded); err != nil {
			t.Fatal(err)
		}
		var numbers []int
		for _, minute := range []int{0, 0, 1, 0, 1} { // of the attempt
			at := morning.Add(time.Duration(minute)*time.Minute + 789) // finer than Postgres is
			sent := webhook.Attempt{StartedAt: at, EndedAt: at, Outcome: webhook.HTTPStatus, Status: 500}
			number, err := q.Queue.settle(t.Context(), request, sent, step{state: db.CallbackPending}, true)
			if err != nil {
				t.Fatal(err)
			}
			numbers = append(numbers, number)
		}
		if want := []int{1, 1, 2, 1, 2}; !slices.Equal(numbers, want) {
			t.Errorf("got attempts %v, want %v", numbers, want)
		}
	})
}
