package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"ringback/db"
	"ringback/db/dbtest"
	"ringback/work"
)

// startBoth starts a queue whose jobs take River's way, or are born running.
func (q *testQueue) startBoth(t *testing.T, walk bool) {
	t.Helper()
	q.start(t)
	if walk {
		q.work.stop()
		q.callback.stop()
		return
	}
	q.waitForClear(t)
}

// waitForClear returns when jobs can be born running.
func (q *testQueue) waitForClear(t *testing.T) {
	t.Helper()
	waitUntil(t, func() bool { return q.work.isClear() && q.callback.isClear() })
}

func (l *lane) isClear() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open && l.clear
}

// times are as Postgres writes them in JSON, and Go in the errors of a job.
var times = regexp.MustCompile(`"\d{4}-\d\d-\d\dT[^"]*"`)

// rows returns the jobs of a kind as the database has them, column by column, without ids
// and times, which differ by nature.
func (q *testQueue) rows(t *testing.T, kind string) (rows []map[string]any) {
	t.Helper()
	const sql = `
		SELECT coalesce(json_agg(to_jsonb(river_job) - 'id' || jsonb_build_object(
			'args', ARRAY(SELECT jsonb_object_keys(args)),
			'attempted_by', array_replace(attempted_by, $2, 'this process')
		)), '[]')
		FROM river_job
		WHERE kind = $1`
	var encoded string
	if err := q.direct.QueryRow(t.Context(), sql, kind, q.client.ID()).Scan(&encoded); err != nil {
		t.Fatal(err)
	}
	encoded = times.ReplaceAllString(encoded, `"some time"`)
	encoded = regexp.MustCompile(`"trace": ?"(?:[^"\\]|\\.)+"`).ReplaceAllString(encoded, `"trace":"some trace"`)
	if err := json.Unmarshal([]byte(encoded), &rows); err != nil {
		t.Fatal(err)
	}
	return rows
}

// TestBornRunning holds the rows of jobs that were born running against River's rows of the
// same lives, so that neither our own changes nor a new version of River part them.
func TestBornRunning(t *testing.T) {
	t.Parallel()
	nothing := func(*testing.T, *testQueue, db.Request) {}
	hang := func(ctx context.Context, _ jsontext.Value) (jsontext.Value, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	running := func(t *testing.T, q *testQueue, request db.Request) {
		q.waitFor(t, request.ID, "work_job_state = 'running'")
	}
	for _, life := range []struct {
		name     string
		work     func(context.Context, jsontext.Value) (jsontext.Value, error)
		client   string
		answer   int
		then     func(*testing.T, *testQueue, db.Request)
		until    string
		callback int // jobs
	}{
		{"Delivered", doNothing, "alice", 200, nothing, "callback_job_state = 'completed'", 1},
		{"Gone", doNothing, "alice", 410, nothing, "callback_job_state = 'completed'", 1},
		{"FailedOnce", doNothing, "alice", 500, nothing, "callback_job_state = 'completed'", 1},
		{"PanickedOnce", doNothing, panicking, 200, nothing, "callback_job_state = 'completed'", 1},
		{"Throttled", doNothing, "alice", 429, nothing, "callback_job_state = 'scheduled'", 1},
		{"Interrupted", hang, "alice", 200, func(t *testing.T, q *testQueue, request db.Request) {
			running(t, q, request)
			q.stop(t)
		}, "work_job_state = 'available' AND work_job_attempt = 0", 0},
		{"Cancelled", hang, "alice", 200, func(t *testing.T, q *testQueue, request db.Request) {
			running(t, q, request)
			if _, err := q.Cancel(t.Context(), request.Client, request.ID); err != nil {
				t.Fatal(err)
			}
		}, "work_job_state = 'cancelled'", 0},
		{"CancelledByTheOperator", hang, "alice", 200, func(t *testing.T, q *testQueue, request db.Request) {
			running(t, q, request)
			var job int64
			if err := q.direct.QueryRow(t.Context(), "SELECT work_job_id FROM requests").Scan(&job); err != nil {
				t.Fatal(err)
			}
			if _, err := q.River().JobCancel(t.Context(), job); err != nil {
				t.Fatal(err)
			}
		}, "work_job_state = 'cancelled'", 0},
	} {
		t.Run(life.name, func(t *testing.T) {
			t.Parallel()
			live := func(walk bool) (rows map[string][]map[string]any) {
				answers := []int{life.answer, http.StatusOK}
				url := newServer(t, func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Retry-After", "3600")
					w.WriteHeader(answers[0])
					answers = answers[1:]
				})
				q := newQueue(t, life.work)
				q.startBoth(t, walk)
				request := newRequest(url)
				request.Client = life.client
				if life.client == panicking {
					request.Client += request.ID.String()
				}
				q.accept(t, request)
				life.then(t, q, request)
				q.waitFor(t, request.ID, life.until)
				return map[string][]map[string]any{"work": q.rows(t, "work"), "callback": q.rows(t, "callback")}
			}
			walked, born := live(true), live(false)
			if diff := cmp.Diff(walked, born); diff != "" || len(born["work"]) != 1 || len(born["callback"]) != life.callback {
				t.Errorf("rows (-River's +born running):\n%s\nof %v", diff, born)
			}
		})
	}
}

func TestHandoff(t *testing.T) {
	t.Parallel()

	t.Run("CompletesAsRiverDoes", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, doNothing)
		var ids []int64
		for range 2 {
			request := newRequest("http://127.0.0.1:9/")
			inserted, err := db.InsertRequests(t.Context(), q.direct, q.bornHere(workJobs, 1), []db.Request{request})
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, inserted[request.ID].WorkJobID)
		}
		ends := &riverdriver.JobSetStateIfRunningManyParams{
			ID: ids[:1], Attempt: []*int{nil}, ErrData: [][]byte{nil}, FinalizedAt: []*time.Time{&morning}, MetadataDoMerge: []bool{false},
			MetadataUpdates: [][]byte{nil}, ScheduledAt: []*time.Time{nil}, State: []rivertype.JobState{rivertype.JobStateCompleted},
		}
		_, err := riverpgxv5.New(q.direct).GetExecutor().JobSetStateIfRunningMany(t.Context(), ends)
		if err := errors.Join(err, db.CompleteJob(t.Context(), q.direct, ids[1])); err != nil {
			t.Fatal(err)
		}
		rows := q.rows(t, "work")
		if diff := cmp.Diff(rows[0], rows[1]); diff != "" || rows[0]["state"] != "completed" {
			t.Errorf("rows (-River's +Ringback's):\n%s\nof %v", diff, rows)
		}
	})

	// As after a pause of this process, in which another took the job over.
	t.Run("LeavesAJobToTheProcessThatRunsItNow", func(t *testing.T) {
		t.Parallel()
		running, goOn := make(chan struct{}), make(chan struct{})
		q := newQueue(t, func(context.Context, jsontext.Value) (jsontext.Value, error) {
			running <- struct{}{}
			<-goOn
			return nil, work.Retry(errors.New("not now"), 0)
		})
		fetched, born := newRequest("http://127.0.0.1:9/"), newRequest("http://127.0.0.1:9/")
		q.accept(t, fetched)
		q.start(t)
		<-running
		q.accept(t, born)
		<-running
		q.exec(t, "UPDATE river_job SET attempted_by = attempted_by || 'another'::text, attempt = attempt + 1 WHERE kind = 'work'")
		close(goOn)
		waitUntil(t, func() bool { return q.local.running() == 0 })
		if err := q.Stop(t.Context()); err != nil { // which waits for River to write
			t.Fatal(err)
		}
		for _, request := range []db.Request{fetched, born} {
			q.waitFor(t, request.ID, "work_job_state = 'running' AND work_job_attempted_by = 'another'")
		}
	})

	t.Run("NeedsNoFetch", func(t *testing.T) {
		t.Parallel()
		q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
		q.startBoth(t, false)
		// On a busy machine some jobs go through the queue.
		waitUntil(t, func() bool {
			request := newRequest(receiver.URL)
			q.accept(t, request)
			receiver.next(t)
			q.waitFor(t, request.ID, "callback_state = 'delivered' AND work_job_state = 'completed' AND callback_job_state = 'completed'")
			const sql = `
				SELECT count(*) = 2
				FROM river_job
				WHERE args = jsonb_build_object('request_id', $1::text)
				  AND attempted_at = created_at
				  AND attempted_by = ARRAY[$2]`
			return q.holds(t, sql, request.ID.String(), q.client.ID())
		})
	})

	t.Run("LetsNobodyOvertake", func(t *testing.T) {
		t.Parallel()
		started, release := make(chan struct{}, 10), make(chan struct{})
		var mu sync.Mutex
		var order []string
		url := dbtest.New(t)
		q := newQueueOf(t, url, url, func(_ context.Context, input jsontext.Value) (jsontext.Value, error) {
			started <- struct{}{}
			<-release
			mu.Lock()
			defer mu.Unlock()
			order = append(order, string(input))
			return succeeded.Result, nil
		}, 1)
		q.startBoth(t, false)
		var requests []db.Request
		var want []string
		for n := range 6 { // the first takes the only worker, and the others wait
			request := newRequest("http://127.0.0.1:9/")
			request.Input = jsontext.Value([]byte{byte('0' + n)})
			requests, want = append(requests, request), append(want, string(request.Input))
			q.accept(t, request)
			if n == 0 {
				<-started
			}
		}
		close(release)
		for _, request := range requests {
			q.waitFor(t, request.ID, "status = 'succeeded'")
		}
		if !slices.Equal(order, want) {
			t.Errorf("got %q worked, want %q", order, want)
		}
	})

	t.Run("LeavesAPausedQueueAlone", func(t *testing.T) {
		t.Parallel()
		q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
		q.startBoth(t, false)
		paused, stop := q.client.Subscribe(river.EventKindQueuePaused)
		defer stop()
		if err := q.client.QueuePause(t.Context(), workQueue, nil); err != nil {
			t.Fatal(err)
		}
		<-paused
		q.work.mu.Lock()
		q.work.asOf = q.work.asOf.Add(-freshFor)
		q.work.mu.Unlock()
		request := newRequest(receiver.URL)
		q.accept(t, request)
		q.waitFor(t, request.ID, "work_job_state = 'available' AND work_job_attempt = 0")
		if err := q.client.QueueResume(t.Context(), workQueue, nil); err != nil {
			t.Fatal(err)
		}
		receiver.next(t)
	})

	// The notification of a cancellation may get lost with the connection that brings it.
	t.Run("FindsCancellationsThatItDidNotHearOf", func(t *testing.T) {
		t.Parallel()
		started, ended := make(chan struct{}, 16), make(chan struct{}, 16)
		q := newQueue(t, func(ctx context.Context, _ jsontext.Value) (jsontext.Value, error) {
			started <- struct{}{}
			<-ctx.Done()
			ended <- struct{}{}
			return nil, ctx.Err()
		})
		q.startBoth(t, false)
		var request db.Request
		waitUntil(t, func() bool { // on a busy machine the answer of a commit may be late, and River runs the job
			request = newRequest("http://127.0.0.1:9/")
			q.accept(t, request)
			<-started
			return len(q.local.born()) > 0
		})
		q.exec(t, `UPDATE river_job SET metadata = metadata || '{"cancel_attempted_at": "2026-03-01T08:00:00Z"}'`)
		q.handoff.cancelRequested(q.local.born())
		<-ended
		q.waitFor(t, request.ID, "work_job_state = 'cancelled'")
	})

	// As after an insert that committed and whose answer was lost.
	t.Run("GivesBackAJobThatItNeverHeardOf", func(t *testing.T) {
		t.Parallel()
		q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
		request := newRequest(receiver.URL)
		if _, err := db.InsertRequests(t.Context(), q.direct, q.bornHere(workJobs, 1), []db.Request{request}); err != nil {
			t.Fatal(err)
		}
		q.exec(t, "UPDATE river_job SET attempted_at = attempted_at - interval '1 minute'")
		q.start(t)
		receiver.next(t)
		q.waitFor(t, request.ID, "callback_state = 'delivered' AND work_job_attempt = 1 AND work_job_state = 'completed'")
	})

	t.Run("CompletesTheJobOfARequestThatWasCancelledMeanwhile", func(t *testing.T) {
		t.Parallel()
		started, release := make(chan struct{}), make(chan struct{})
		q := newQueue(t, func(context.Context, jsontext.Value) (jsontext.Value, error) {
			close(started)
			<-release // even after its context has ended
			return succeeded.Result, nil
		})
		q.startBoth(t, false)
		request := newRequest("http://127.0.0.1:9/")
		q.accept(t, request)
		<-started
		q.exec(t, "UPDATE requests SET status = 'cancelled', error = '{}', finished_at = now(), settled_at = now(), callback_state = 'cancelled'")
		close(release)
		q.waitFor(t, request.ID, "work_job_state = 'completed' AND callback_job_id IS NULL")
	})

	t.Run("RunsTheNewRequestsOfABatchWithKeys", func(t *testing.T) {
		t.Parallel()
		q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
		q.startBoth(t, false)
		request := newRequest(receiver.URL)
		key := db.Key{Client: "alice", Key: "k", RequestID: request.ID, HeldUntil: time.Now().Add(time.Hour), ExpiresAt: time.Now().Add(time.Hour)}
		if holder, err := q.AcceptOnce(t.Context(), request, key); err != nil || holder.Held {
			t.Fatalf("first: got %+v, %v, want it accepted", holder, err)
		}
		receiver.next(t)
		again := newRequest(receiver.URL)
		key.RequestID = again.ID
		if holder, err := q.AcceptOnce(t.Context(), again, key); err != nil || holder.RequestID != request.ID {
			t.Errorf("again: got %+v, %v, want the first request", holder, err)
		}
		q.waitFor(t, request.ID, "callback_job_state = 'completed'")
		waitUntil(t, func() bool { return q.work.isIdle() && q.callback.isIdle() })
	})

	t.Run("GivesItsWorkersBackWhenTheDatabaseRefuses", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, doNothing)
		q.startBoth(t, false)
		broken := newRequest("http://127.0.0.1:9/")
		broken.Input = jsontext.Value(`{`)
		if err := q.Accept(t.Context(), broken); err == nil {
			t.Error("input that is not JSON: got no error")
		}
		if !q.work.isIdle() {
			t.Error("a worker is still taken")
		}
	})
}

func (l *lane) isIdle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.born == 0
}

// fixedRetry is a worker whose next attempt is due after a fixed time.
type fixedRetry struct {
	worker
	delay time.Duration
}

func (w fixedRetry) retryAt(*rivertype.JobRow) time.Time { return time.Now().Add(w.delay) }

// River's scheduler takes care of jobs that are due later than it looks.
func TestEnding(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		failure error
		delay   time.Duration
		want    rivertype.JobState
	}{
		{"FailedAndDueSoon", errNotDelivered, schedulerInterval, rivertype.JobStateAvailable},
		{"FailedAndDueLater", errNotDelivered, 2 * schedulerInterval, rivertype.JobStateRetryable},
		{"PostponedForAMoment", river.JobSnooze(schedulerInterval), 0, rivertype.JobStateAvailable},
		{"PostponedForLonger", river.JobSnooze(2 * schedulerInterval), 0, rivertype.JobStateScheduled},
		{"TimedOut", context.DeadlineExceeded, time.Second, rivertype.JobStateAvailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			job := &rivertype.JobRow{ID: 7, Attempt: 1}
			got, err := ending(t.Context(), task{worker: fixedRetry{delay: test.delay}, job: job}, morning, test.failure, "")
			if err != nil || got.State != test.want || got.ID != 7 {
				t.Errorf("got %+v, %v, want it %s", got, err, test.want)
			}
			var snooze *rivertype.JobSnoozeError
			if charged := !errors.As(test.failure, &snooze); charged != (got.ErrData != nil) || charged != (got.Attempt == nil) {
				t.Errorf("got %+v, want an error in the job: %v", got, charged)
			}
		})
	}
}
