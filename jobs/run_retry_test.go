package jobs

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"ringback/db"
	"ringback/jobs/flow"
	"ringback/work"
)

// offering gives a queue one kind of work.
func (q *testQueue) offering(t *testing.T, w work.Work) {
	t.Helper()
	catalog, err := work.NewCatalog(work.Set{"plain": w}, "plain", 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	q.runner.catalog, q.flows = catalog, flow.OfCatalog(catalog, flow.NewRoom(2, 0, false), false, slog.New(slog.DiscardHandler))
}

func freshRequest(callbackURL string) db.Request {
	request := newRequest(callbackURL)
	request.AcceptedAt = time.Now().UTC().Truncate(time.Microsecond)
	return request
}

var errBusy = &work.Error{Code: "busy", Message: "m"}

func TestWorkIsTriedAgain(t *testing.T) {
	t.Parallel()
	for name, walk := range map[string]bool{"BornRunning": false, "ByRiver": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
			var attempts atomic.Int64
			q.offering(t, work.Work{Do: func(_ context.Context, call work.Call) (jsontext.Value, error) {
				if n := attempts.Add(1); int64(call.Attempt) != n {
					t.Errorf("got attempt %d, want %d", call.Attempt, n)
				}
				if call.Attempt == 1 {
					return nil, work.Retry(errBusy, 0)
				}
				return jsontext.Value(`1`), nil
			}})
			request := freshRequest(receiver.URL)
			q.startBoth(t, walk)
			q.accept(t, request)
			receiver.next(t)
			q.waitFor(t, request.ID, "status = 'succeeded' AND callback_state = 'delivered' AND work_job_attempt = 2 AND work_job_state = 'completed'")
			if attempts.Load() != 2 {
				t.Errorf("got %d attempts, want 2", attempts.Load())
			}
			got := q.get(t, request.ID)
			if len(got.WorkAttempts) != 1 || got.WorkAttempts[0].Code != "busy" || got.WorkAttempts[0].Attempt != 1 || got.WorkAttempts[0].At.Before(request.AcceptedAt) {
				t.Errorf("attempts that did not do it: got %+v, want the first", got.WorkAttempts)
			}
			if !q.holds(t, `SELECT count(*) = 1 FROM request_trace, unnest(work_job_errors) AS e (failure)
				WHERE request_id = $1 AND failure ->> 'error' = 'not done: busy'`, request.ID) {
				t.Error("the trace doesn't have it")
			}
		})
	}
}

func TestWorkEndsWithItsLastAttempt(t *testing.T) {
	t.Parallel()
	q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
	q.offering(t, work.Work{Retry: work.Policy{Times: 1}, Do: func(context.Context, work.Call) (jsontext.Value, error) {
		return nil, work.Retry(errBusy, 0)
	}})
	request := freshRequest(receiver.URL)
	q.accept(t, request)
	q.start(t)
	receiver.next(t)
	q.waitFor(t, request.ID, "status = 'failed' AND error_code = 'busy' AND work_job_attempt = 2 AND callback_state = 'delivered'")
}

func TestThrottledWorkIsChargedNothing(t *testing.T) {
	t.Parallel()
	q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
	var attempts atomic.Int64
	q.offering(t, work.Work{Retry: work.Policy{Times: -1}, Do: func(context.Context, work.Call) (jsontext.Value, error) {
		if attempts.Add(1) < 3 {
			return nil, work.Retry(errBusy, 50*time.Millisecond)
		}
		return jsontext.Value(`1`), nil
	}})
	request := freshRequest(receiver.URL)
	q.accept(t, request)
	q.start(t)
	receiver.next(t)
	q.waitFor(t, request.ID, "status = 'succeeded' AND work_job_attempt = 1")
	got := q.get(t, request.ID).WorkAttempts
	if len(got) != 2 || got[0].Code != "busy" || got[0].Attempt != 1 || !got[0].At.Before(got[1].At) {
		t.Errorf("attempts that did not do it: got %+v, want both", got)
	}
}

func TestServicesThatThrottleForeverAreAskedLessAndLess(t *testing.T) {
	t.Parallel()
	w := &runWorker{queue: newQueue(t, doNothing).Queue}
	w.catalog, w.logger = w.queue.runner.catalog, w.queue.runner.logger
	job := &rivertype.JobRow{ID: 1, Attempt: 1, Errors: []rivertype.AttemptError{{Error: db.WorkNotDone + "busy"}, {Error: db.WorkUncharged + codeCutOff}}}
	now := time.Now()
	asked, age := 0, time.Duration(0)
	for ; ; asked++ {
		request := newRequest("")
		request.AcceptedAt = now.Add(-age)
		_, next := w.again(t.Context(), job, w.catalog.Default(), request, work.Outcome{StartedAt: now, FinishedAt: now, Error: errBusy, Again: &work.Again{After: time.Second}})
		var snooze *rivertype.JobSnoozeError
		if !errors.As(next, &snooze) {
			break
		}
		if least := min(time.Second<<min(asked, 20), 10*time.Minute); snooze.Duration < least || snooze.Duration > least*11/10 {
			t.Fatalf("after %d: got a wait of %s, want %s and up to a tenth more", asked, snooze.Duration, least)
		}
		age += snooze.Duration
		job.Errors = append(job.Errors, rivertype.AttemptError{Error: db.WorkUncharged + "busy"})
	}
	if asked < 250 || asked > 350 || age < maxCallbackAge-12*time.Minute {
		t.Errorf("got %d attempts in %s, want some 300 in 48 hours", asked, age)
	}
	if got := workRetryDelay(job); got > 6*time.Second {
		t.Errorf("got %s after the second charged attempt, want that no uncharged attempt counts", got)
	}
}

func TestAgain(t *testing.T) {
	t.Parallel()
	w := &runWorker{queue: newQueue(t, doNothing).Queue}
	w.catalog, w.logger = w.queue.runner.catalog, w.queue.runner.logger
	crash := rivertype.AttemptError{Error: "Stuck job rescued by Rescuer"}
	failed := rivertype.AttemptError{Error: db.WorkNotDone + "busy"}
	now := time.Now()
	outcome := func(again *work.Again) work.Outcome {
		return work.Outcome{StartedAt: now, FinishedAt: now, Error: errBusy, Again: again}
	}
	many := make([]rivertype.AttemptError, work.DefaultRetries)
	for i := range many {
		many[i] = failed
	}
	for _, test := range []struct {
		name    string
		again   *work.Again
		errors  []rivertype.AttemptError
		age     time.Duration
		expires time.Duration
		charged bool
		snoozed bool
		status  db.Status // where the request has ended
	}{
		{name: "FinalErrorsAreFinal", status: db.Failed},
		{name: "Charged", again: &work.Again{}, charged: true},
		{name: "CrashesDoNotCount", again: &work.Again{}, errors: append(many[1:len(many):len(many)], crash, crash), charged: true},
		{name: "TheLast", again: &work.Again{}, errors: many, status: db.Failed},
		{name: "Throttled", again: &work.Again{After: time.Minute}, errors: many, snoozed: true},
		{name: "ThrottledForTooLong", again: &work.Again{After: time.Minute}, age: maxCallbackAge, status: db.Failed},
		{name: "NotInTime", again: &work.Again{}, expires: 10 * time.Millisecond, status: db.Expired},
		{name: "ThrottledNotInTime", again: &work.Again{After: time.Minute}, expires: time.Minute, status: db.Expired},
		{name: "InTime", again: &work.Again{}, expires: time.Minute, charged: true},
	} {
		request := newRequest("")
		request.AcceptedAt = now.Add(-test.age)
		if test.expires > 0 {
			request.ExpiresAt = now.Add(test.expires)
		}
		final, next := w.again(t.Context(), &rivertype.JobRow{ID: 1, Attempt: 1, Errors: test.errors}, w.catalog.Default(), request, outcome(test.again))
		var snooze *rivertype.JobSnoozeError
		charged := next != nil && strings.HasPrefix(next.Error(), db.WorkNotDone)
		snoozed := errors.As(next, &snooze) && snooze.Duration >= time.Minute
		if charged != test.charged || snoozed != test.snoozed || next == nil && statusOf(final) != test.status {
			t.Errorf("%s: got %v and %+v, want charged %v, snoozed %v, or %q", test.name, next, final, test.charged, test.snoozed, test.status)
		}
	}
}

func TestWorkSchedule(t *testing.T) {
	t.Parallel()
	w := &runWorker{}
	for failed, want := range []time.Duration{time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute} {
		job := &rivertype.JobRow{ID: 7}
		for range failed {
			job.Errors = append(job.Errors, rivertype.AttemptError{Error: db.WorkNotDone + "busy"})
		}
		before := time.Now()
		got := w.NextRetry(&river.Job[workArgs]{JobRow: job}).Sub(before)
		if got < want*8/10 || got > want*12/10+patience {
			t.Errorf("after %d: got %v, want %v ± 20 %%", failed+1, got, want)
		}
	}
}
