package jobs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"ringback/db"
	"ringback/db/dbtest"
	"ringback/work"
)

func TestFinish(t *testing.T) {
	t.Parallel()

	t.Run("KeepsTheFirstOutcomeAndInsertsOneCallbackJob", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		request := newRequest("http://127.0.0.1:9/")
		q.accept(t, request)
		failed := work.Outcome{StartedAt: morning, FinishedAt: morning.Add(time.Hour), Error: &work.Error{Code: "late", Message: "m"}}
		if err := errors.Join(q.finish(t.Context(), request, succeeded), q.finish(t.Context(), request, failed)); err != nil {
			t.Fatal(err)
		}
		got := q.get(t, request.ID)
		if got.Status != db.Succeeded || string(got.Result) != `{"words":1}` || !got.FinishedAt.Equal(succeeded.FinishedAt) || got.CallbackState != db.CallbackPending {
			t.Errorf("got %+v, want the first outcome and a pending callback", got)
		}
		const sql = "SELECT count(*) = 1 AND min(id) = $1 FROM river_job WHERE kind = 'callback' AND queue = 'callback'"
		if !q.holds(t, sql, got.CallbackJobID) {
			t.Errorf("want one callback job, which is %d", got.CallbackJobID)
		}
	})

	t.Run("KeepsOneOutcomeOfManyAtATime", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		request := newRequest("http://127.0.0.1:9/")
		q.accept(t, request)
		results := make(chan error)
		for range 8 {
			go func() { results <- q.finish(t.Context(), request, succeeded) }()
		}
		for range 8 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if !q.holds(t, "SELECT count(*) = 1 FROM river_job WHERE kind = 'callback'") {
			t.Error("want one callback job")
		}
	})

	t.Run("LeavesNoCallbackJobWhenTheRowIsRefused", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		request := newRequest("http://127.0.0.1:9/")
		q.accept(t, request)
		broken := succeeded
		broken.Result = jsontext.Value(`{`)
		if err := q.finish(t.Context(), request, broken); err == nil {
			t.Error("a result that is not JSON: got no error")
		}
		if !q.holds(t, "SELECT NOT EXISTS (SELECT FROM river_job WHERE kind = 'callback')") || q.get(t, request.ID).Status != db.Accepted {
			t.Error("want the request as it was")
		}
	})

	t.Run("OfABatchLeavesOutWhatIsFinishedBefore", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		before, now := newRequests(3), newRequests(5)
		for _, request := range append(before, now...) {
			q.accept(t, request)
		}
		for _, request := range before {
			if err := q.finish(t.Context(), request, outcomeAt(morning)); err != nil {
				t.Fatal(err)
			}
		}
		// The requests between the others, one of them twice, and an id that doesn't exist.
		batch := outcomesOf(morning.Add(time.Hour), before[0], now[0], now[1], before[1], now[1], now[2], now[3], newRequest(""), now[4], before[2])
		written, err := q.finishAll(t.Context(), batch)
		if want := []bool{false, true, true, false, false, true, true, false, true, false}; err != nil || !slices.Equal(written, want) {
			t.Errorf("got %v, %v, want %v", written, err, want)
		}
		for n, request := range append(before, now...) {
			want := morning
			if n >= len(before) {
				want = morning.Add(time.Hour)
			}
			if got := q.get(t, request.ID); got.Status != db.Succeeded || !got.FinishedAt.Equal(want) {
				t.Errorf("request %d: got %s at %v, want it to succeed at %v", n, got.Status, got.FinishedAt, want)
			}
		}
		if !q.holds(t, "SELECT count(*) = 8 AND count(DISTINCT args) = 8 FROM river_job WHERE kind = 'callback'") {
			t.Error("want one callback job for each of the 8 requests")
		}
		q.wantNoOrphans(t)
	})

	t.Run("OfBatchesThatShareRequestsFinishesEachOnce", func(t *testing.T) {
		t.Parallel()
		q, requests := newQueue(t, nil), newRequests(20)
		for _, request := range requests {
			q.accept(t, request)
		}
		results := make(chan error)
		for n := range 6 {
			batch := outcomesOf(morning, requests[2*n:2*n+10]...)
			if n%2 == 1 {
				slices.Reverse(batch)
			}
			go func() {
				_, err := q.finishAll(t.Context(), batch)
				results <- err
			}()
		}
		for range 6 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if !q.holds(t, "SELECT count(*) = 20 AND count(DISTINCT args) = 20 FROM river_job WHERE kind = 'callback'") {
			t.Error("want one callback job for each of the 20 requests")
		}
		q.wantNoOrphans(t)
	})
}

// outcomesOf are the requests as finishAll takes them.
func outcomesOf(at time.Time, requests ...db.Request) (outcomes []db.Request) {
	for _, request := range requests {
		outcomes = append(outcomes, db.Request{ID: request.ID, Status: db.Succeeded, Result: succeeded.Result, StartedAt: at, FinishedAt: at})
	}
	return outcomes
}

// asStored is a time as Postgres keeps it.
func asStored(at time.Time) time.Time { return at.UTC().Truncate(time.Microsecond) }

func TestWriteOutcome(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]db.Status{
		"": db.Succeeded, "panic": db.Failed, work.CodeDeadline: db.Failed, work.CodeAbandoned: db.Cancelled,
	} {
		outcome := succeeded
		if code != "" {
			outcome.Result, outcome.Error = nil, &work.Error{Code: code, Message: "m"}
		}
		var got db.Request
		if err := newQueue(t, nil).WriteOutcome(&got, outcome); err != nil {
			t.Fatal(err)
		}
		wantError := ""
		if code != "" {
			wantError = fmt.Sprintf(`{"code":%q,"message":"m"}`, code)
		}
		if got.Status != want || string(got.Error) != wantError || string(got.Result) != string(outcome.Result) ||
			got.StartedAt != asStored(outcome.StartedAt) || got.FinishedAt != asStored(outcome.FinishedAt) {
			t.Errorf("code %q: got %+v, want %s with error %s", code, got, want, wantError)
		}
	}
}

func TestProcessWorker(t *testing.T) {
	t.Parallel()

	for _, test := range []struct {
		name     string
		do       work.Plain
		wantCode string
	}{
		{"APanicFailsTheRequest", func(context.Context, jsontext.Value) (jsontext.Value, error) { panic("secret") }, "panic"},
		{"AnErrorFailsTheRequest", func(context.Context, jsontext.Value) (jsontext.Value, error) {
			return nil, errors.New("secret")
		}, "work_failed"},
		{"AnErrorOfTheWorksOwnIsTold", func(context.Context, jsontext.Value) (jsontext.Value, error) {
			return nil, &work.Error{Code: "no_such_word", Message: "m"}
		}, "no_such_word"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			q, receiver := newQueue(t, test.do), newReceiver(t, always(http.StatusOK))
			request := newRequest(receiver.URL)
			q.accept(t, request)
			q.start(t)
			call := receiver.next(t)
			if call.event.Type != "request.failed" {
				t.Errorf("callback: got %s, want request.failed", call.event.Type)
			}
			q.waitFor(t, request.ID, "status = 'failed' AND callback_state = 'delivered' AND work_job_state = 'completed' AND work_job_attempt = 1")
			if !q.holds(t, "SELECT error_code = $2 FROM request_trace WHERE request_id = $1", request.ID, test.wantCode) {
				t.Errorf("error: got %s, want code %s", q.get(t, request.ID).Error, test.wantCode)
			}
			if !q.holds(t, "SELECT NOT EXISTS (SELECT FROM requests, river_job WHERE error::text LIKE '%secret%' OR errors::text LIKE '%secret%')") {
				t.Error("the cause stands in a row, want it in the log only")
			}
		})
	}

	// A result that can't be stored must fail the request, not keep it coming back.
	for name, do := range map[string]work.Plain{
		"NoResult":       func(context.Context, jsontext.Value) (jsontext.Value, error) { return nil, nil },
		"AResultNotJSON": func(context.Context, jsontext.Value) (jsontext.Value, error) { return jsontext.Value(`{`), nil },
		"AResultNotUTF8": func(context.Context, jsontext.Value) (jsontext.Value, error) { return jsontext.Value("\"\xff\""), nil },
		"AnErrorTextNotUTF8": func(context.Context, jsontext.Value) (jsontext.Value, error) {
			return nil, &work.Error{Code: "binary", Message: "\xff"}
		},
	} {
		t.Run(name+"FailsTheRequest", func(t *testing.T) {
			t.Parallel()
			q := newQueue(t, do)
			request := newRequest("http://127.0.0.1:9/")
			q.accept(t, request)
			q.start(t)
			if got := q.waitForLog(t, "work_finished", "work_postponed"); got != "work_finished" {
				t.Fatalf("log: got %s, want work_finished", got)
			}
			if got := q.get(t, request.ID); got.Status != db.Failed {
				t.Errorf("status: got %s, want failed", got.Status)
			}
		})
	}

	t.Run("DoesNothingWhenTheRequestIsFinished", func(t *testing.T) {
		t.Parallel()
		var runs atomic.Int32
		q := newQueue(t, func(context.Context, jsontext.Value) (jsontext.Value, error) {
			runs.Add(1)
			return jsontext.Value(`2`), nil
		})
		receiver := newReceiver(t, always(http.StatusOK))
		request := newRequest(receiver.URL)
		q.accept(t, request)
		if err := q.finish(t.Context(), request, succeeded); err != nil {
			t.Fatal(err)
		}
		q.exec(t, "UPDATE river_job SET attempted_by = ARRAY['another'] WHERE kind = 'work'") // a process that did it, and died
		q.start(t)
		receiver.next(t)
		q.waitFor(t, request.ID, "work_job_state = 'completed' AND callback_state = 'delivered'")
		if got := runs.Load(); got != 0 || string(q.get(t, request.ID).Result) != `{"words":1}` {
			t.Errorf("got %d runs and result %s, want none and the first result", got, q.get(t, request.ID).Result)
		}
	})

	const endedByFaults = maxFaults - 1
	for name, test := range map[string]struct {
		attempts, ended int // charged ones, and how many of them ended
		wantStatus      string
	}{
		"AlmostTooOftenSucceeds":             {maxCrashes - 1, 0, "succeeded"},
		"TooOftenFails":                      {maxCrashes, 0, "failed"},
		"AlmostTooOftenBesideFaultsSucceeds": {maxCrashes - 1 + endedByFaults, endedByFaults, "succeeded"},
		"TooOftenBesideFaultsFails":          {maxCrashes + endedByFaults, endedByFaults, "failed"},
	} {
		t.Run("ThatCrashed"+name, func(t *testing.T) {
			t.Parallel()
			var runs atomic.Int32
			q := newQueue(t, func(context.Context, jsontext.Value) (jsontext.Value, error) {
				runs.Add(1)
				return jsontext.Value(`1`), nil
			})
			receiver := newReceiver(t, always(http.StatusOK))
			request := newRequest(receiver.URL)
			q.accept(t, request)
			q.exec(t, `
				UPDATE river_job
				SET attempt = $1, errors = array_fill(jsonb_build_object('at', now(), 'attempt', 1, 'error', $3::text, 'trace', ''), ARRAY[$2::int])`,
				test.attempts, test.ended, faultPrefix+"a step failed")
			q.start(t)
			receiver.next(t)
			q.waitFor(t, request.ID, "work_job_state = 'completed' AND coalesce(error_code, '') = CASE status WHEN 'failed' THEN 'crashed' ELSE '' END AND status = '"+test.wantStatus+"'")
			if got, want := runs.Load() == 1, test.wantStatus == "succeeded"; got != want {
				t.Errorf("the work ran: got %v, want %v", got, want)
			}
		})
	}

	t.Run("RecordsItsOutcomeWhenTheDatabaseWasAway", func(t *testing.T) {
		t.Parallel()
		url := dbtest.New(t)
		proxy, through := dbtest.NewProxy(t, url)
		started, release := make(chan struct{}, 10), make(chan struct{})
		q := newQueueAt(t, url, through, func(context.Context, jsontext.Value) (jsontext.Value, error) {
			started <- struct{}{}
			<-release
			return jsontext.Value(`1`), nil
		})
		receiver := newReceiver(t, always(http.StatusOK))
		request := newRequest(receiver.URL)
		q.accept(t, request)
		q.start(t)
		<-started
		proxy.Refuse()
		close(release)
		q.waitForLog(t, "answers_not_recorded")
		if got := q.get(t, request.ID).Status; got != db.Accepted {
			t.Errorf("status while the database is away: got %s, want accepted", got)
		}
		proxy.Pass()
		receiver.next(t)
		q.waitFor(t, request.ID, "status = 'succeeded' AND callback_state = 'delivered' AND work_job_attempt = 1 AND work_job_state = 'completed'")
	})
}
