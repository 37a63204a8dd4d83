package jobs

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/riverqueue/river"

	"ringback/db"
	"ringback/jobs/webhook"
	"ringback/work"
)

func TestNextStep(t *testing.T) {
	t.Parallel()
	const job = 7
	const hour, age48 = time.Hour, 48 * time.Hour
	after := func(attempt int) step {
		delay, _ := retryDelay(job, attempt)
		return step{state: db.CallbackPending, delay: delay, charged: true}
	}
	delivered, dead := step{state: db.CallbackDelivered}, step{state: db.CallbackDead}
	for _, test := range []struct {
		name    string
		outcome webhook.Outcome
		attempt int
		age     time.Duration
		want    step
	}{
		{"DeliveredEndsIt", webhook.Delivered, 1, 0, delivered},
		{"DeliveredCountsHoweverLate", webhook.Delivered, 11, 2 * age48, delivered},
		{"GoneIsDeadAtOnce", webhook.Gone, 1, 0, dead},
		{"StatusIsTriedAgain", webhook.HTTPStatus, 1, 0, after(1)},
		{"TimeoutIsTriedAgain", webhook.Timeout, 2, hour, after(2)},
		{"TLSFailedIsTriedAgain", webhook.TLSFailed, 3, hour, after(3)},
		{"ConnectionFailedIsTriedAgain", webhook.ConnectionFailed, 4, hour, after(4)},
		{"TenthFailureIsTriedAgain", webhook.HTTPStatus, 10, 17 * hour, after(10)},
		{"EleventhFailureIsTheLast", webhook.HTTPStatus, 11, 17 * hour, dead},
		{"NextTryAt48HoursIsStillMade", webhook.Timeout, 1, age48 - after(1).delay, after(1)},
		{"NextTryBeyond48HoursIsNot", webhook.Timeout, 1, age48 - after(1).delay + 1, dead},
		{"LateLongRetryIsNotMade", webhook.Timeout, 10, 29 * hour, dead},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := nextStep(webhook.Attempt{Outcome: test.outcome}, job, test.attempt, test.age); got != test.want {
				t.Errorf("%s at attempt %d, age %v: got %+v, want %+v", test.outcome, test.attempt, test.age, got, test.want)
			}
		})
	}
	for _, test := range []struct {
		name      string
		attempt   int
		wait, age time.Duration
		wantState db.CallbackState
	}{
		{"ThrottledWaitsUncharged", 1, time.Minute, 0, db.CallbackPending},
		{"ThrottledAtTheLastAttemptWaitsToo", 11, time.Minute, hour, db.CallbackPending},
		{"ThrottledBeyond48HoursIsDead", 1, 2 * hour, 46*hour + time.Second, db.CallbackDead},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := nextStep(webhook.Attempt{Outcome: webhook.Throttled, RetryAfter: test.wait}, job, test.attempt, test.age)
			if got.state != test.wantState || got.charged {
				t.Errorf("wait %v at age %v: got %+v, want %s, not charged", test.wait, test.age, got, test.wantState)
			}
			if again := got.state == db.CallbackPending; again && (got.delay < test.wait || got.delay > test.wait*11/10) {
				t.Errorf("wait %v: got %v, want the same or up to a tenth more", test.wait, got.delay)
			}
		})
	}
}

func TestJobResult(t *testing.T) {
	t.Parallel()
	for _, state := range []db.CallbackState{db.CallbackDelivered, db.CallbackDead} {
		if err := (step{state: state}).jobResult(); err != nil {
			t.Errorf("%s: got %v, want the job to end", state, err)
		}
	}
	if err := (step{state: db.CallbackPending, delay: time.Minute, charged: true}).jobResult(); !errors.Is(err, errNotDelivered) {
		t.Errorf("charged: got %v, want %v", err, errNotDelivered)
	}
	var snooze *river.JobSnoozeError
	if err := (step{state: db.CallbackPending, delay: time.Minute}).jobResult(); !errors.As(err, &snooze) || snooze.Duration != time.Minute {
		t.Errorf("not charged: got %v, want a snooze of 1m", err)
	}
}

func TestCallbackBody(t *testing.T) {
	t.Parallel()
	largest := db.Request{
		ID: uuid.Must(uuid.NewV7()), Mode: db.Async, Client: "alice", Status: db.Succeeded,
		Result:      jsontext.Value(`"` + strings.Repeat("x", work.MaxResultBytes-2) + `"`),
		CallbackURL: "https://hooks.example.com/" + strings.Repeat("x", 2048-26), CallbackState: db.CallbackPending,
		WorkJobID: 987654321, CallbackJobID: 987654322,
		Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		AcceptedAt:  morning, StartedAt: morning, FinishedAt: morning,
	}

	t.Run("StaysWithin64KiB", func(t *testing.T) {
		t.Parallel()
		body, err := callbackBody(largest)
		if err != nil || len(body) > 64<<10 {
			t.Errorf("largest: got %d bytes, %v, want at most %d", len(body), err, 64<<10)
		}
		if !bytes.Contains(body, largest.Result) {
			t.Error("the result is not in it byte for byte")
		}
	})

	t.Run("IsTheSameForEveryAttempt", func(t *testing.T) {
		t.Parallel()
		first, err1 := callbackBody(largest)
		second, err2 := callbackBody(largest)
		if err := errors.Join(err1, err2); err != nil || !bytes.Equal(first, second) {
			t.Errorf("got two bodies, %v, want one", err)
		}
	})

	t.Run("TellsWhatCallersMaySee", func(t *testing.T) {
		t.Parallel()
		request := largest
		request.Status, request.Result, request.Error = db.Failed, nil, jsontext.Value(`{"code":"panic","message":"m"}`)
		body, err := callbackBody(request)
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatal(err)
		}
		want := map[string]any{
			"type": "request.failed", "timestamp": "2026-03-01T08:00:00.123456Z",
			"data": map[string]any{
				"id": request.ID.String(), "mode": "async", "status": "failed",
				"error":        map[string]any{"code": "panic", "message": "m"},
				"callback_url": request.CallbackURL, "callback_state": "pending", "traceparent": request.Traceparent,
				"accepted_at": "2026-03-01T08:00:00.123456Z", "started_at": "2026-03-01T08:00:00.123456Z", "finished_at": "2026-03-01T08:00:00.123456Z",
			},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("body (-want +got):\n%s", diff)
		}
	})
}

func TestSettle(t *testing.T) {
	t.Parallel()
	q := newQueue(t, nil)
	sent := func(outcome webhook.Outcome, status int) webhook.Attempt {
		return webhook.Attempt{StartedAt: morning, EndedAt: morning.Add(time.Second), Outcome: outcome, Status: status, Cause: "cause", Address: "192.0.2.1:443"}
	}
	pending := func(t *testing.T) uuid.UUID {
		request := newRequest("http://127.0.0.1:9/")
		q.accept(t, request)
		if err := q.finish(t.Context(), request, succeeded); err != nil {
			t.Fatal(err)
		}
		return request.ID
	}

	t.Run("LogsTwiceAndSettlesOnce", func(t *testing.T) {
		t.Parallel()
		id := pending(t)
		first, err1 := q.settle(t.Context(), db.Request{ID: id}, sent(webhook.Delivered, 200), step{state: db.CallbackDelivered})
		later := sent(webhook.HTTPStatus, 500)
		later.EndedAt = later.EndedAt.Add(time.Hour)
		second, err2 := q.settle(t.Context(), db.Request{ID: id}, later, step{state: db.CallbackDead})
		if err := errors.Join(err1, err2); err != nil || first != 1 || second != 2 {
			t.Errorf("attempts: got %d, %d, %v, want 1, 2", first, second, err)
		}
		request := q.get(t, id)
		if want := morning.Add(time.Second); request.CallbackState != db.CallbackDelivered || !request.SettledAt.Equal(want) {
			t.Errorf("request: got %s at %v, want delivered at %v", request.CallbackState, request.SettledAt, want)
		}
		if got, want := q.outcomes(t, id), []string{"delivered", "http_status"}; !slices.Equal(got, want) {
			t.Errorf("log: got %q, want %q", got, want)
		}
	})

	t.Run("OfManyAtATimeLogsEachAndSettlesOnce", func(t *testing.T) {
		t.Parallel()
		id := pending(t)
		type result struct {
			number int
			err    error
		}
		results := make(chan result)
		for range 8 {
			go func() {
				number, err := q.settle(t.Context(), db.Request{ID: id}, sent(webhook.Delivered, 200), step{state: db.CallbackDelivered})
				results <- result{number, err}
			}()
		}
		var numbers []int
		for range 8 {
			got := <-results
			var refused *pgconn.PgError
			switch {
			case got.err == nil:
				numbers = append(numbers, got.number)
			case !errors.As(got.err, &refused) || refused.ConstraintName != "callback_attempts_pkey": // to be tried again
				t.Error(got.err)
			}
		}
		slices.Sort(numbers)
		var want []int
		for n := range numbers {
			want = append(want, n+1)
		}
		if len(want) == 0 || !slices.Equal(numbers, want) || len(q.outcomes(t, id)) != len(want) {
			t.Errorf("numbers: got %v with %d logged, want each once, from 1", numbers, len(q.outcomes(t, id)))
		}
		if got := q.get(t, id).CallbackState; got != db.CallbackDelivered {
			t.Errorf("state: got %s, want delivered", got)
		}
	})

	t.Run("KeepsTheCallbackPendingUntilTheNextTry", func(t *testing.T) {
		t.Parallel()
		id := pending(t)
		if _, err := q.settle(t.Context(), db.Request{ID: id}, sent(webhook.HTTPStatus, 500), step{state: db.CallbackPending, delay: time.Minute, charged: true}); err != nil {
			t.Fatal(err)
		}
		attempts, err := db.ListAttempts(t.Context(), q.pool, id, 10)
		want := []db.Attempt{{
			Attempt: 1, StartedAt: morning, EndedAt: morning.Add(time.Second), Outcome: "http_status", HTTPStatus: 500,
			NextAttemptAt: morning.Add(time.Second + time.Minute),
		}}
		if diff := cmp.Diff(want, attempts); err != nil || diff != "" {
			t.Errorf("log: got error %v and (-want +got):\n%s", err, diff)
		}
		if got := q.get(t, id); got.CallbackState != db.CallbackPending || !got.SettledAt.IsZero() {
			t.Errorf("request: got %s, settled at %v, want pending", got.CallbackState, got.SettledAt)
		}
	})
}

func TestCallbackWorker(t *testing.T) {
	t.Parallel()

	t.Run("SendsTheFinishedRequestAndSettles", func(t *testing.T) {
		t.Parallel()
		q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusNoContent))
		request := newRequest(receiver.URL)
		request.Traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		q.accept(t, request)
		q.start(t)
		call := receiver.next(t)
		if got, want := call.header.Get("Webhook-Id"), "req_"+request.ID.String(); got != want {
			t.Errorf("webhook-id: got %q, want %q", got, want)
		}
		if got := call.header.Get("Traceparent"); got != request.Traceparent {
			t.Errorf("traceparent: got %q, want %q", got, request.Traceparent)
		}
		if call.event.Type != "request.succeeded" || string(call.event.Data.Result) != `{"words":1}` {
			t.Errorf("body: got %s with result %s, want request.succeeded with {\"words\":1}", call.event.Type, call.event.Data.Result)
		}
		q.waitFor(t, request.ID, "callback_state = 'delivered' AND callback_job_state = 'completed' AND work_job_state = 'completed' AND http_status = 204")
	})

	t.Run("ComesBackAfterAFailureWithTheSameMessage", func(t *testing.T) {
		t.Parallel()
		answers := []int{http.StatusInternalServerError, http.StatusOK}
		receiver := newReceiver(t, func(w http.ResponseWriter, n int) { w.WriteHeader(answers[n]) })
		q := newQueue(t, doNothing)
		request := newRequest(receiver.URL)
		q.accept(t, request)
		q.start(t)
		first := receiver.next(t)
		q.waitFor(t, request.ID, "callback_job_state IN ('available', 'retryable') AND callback_job_attempt = 1 AND attempt = 1")
		// The caller is told the time at which the queue has the job.
		const sql = "SELECT abs(extract(epoch FROM callback_job_scheduled_at - next_attempt_at)) < 0.5 FROM request_trace WHERE request_id = $1 AND attempt = 1"
		if !q.holds(t, sql, request.ID) {
			t.Error("the log names another time for the next attempt than the queue")
		}
		second := receiver.next(t)
		if !bytes.Equal(first.body, second.body) || first.header.Get("Webhook-Id") != second.header.Get("Webhook-Id") {
			t.Errorf("second message: got %s, want %s", second.body, first.body)
		}
		q.waitFor(t, request.ID, "callback_state = 'delivered' AND callback_job_state = 'completed' AND callback_job_attempt = 2")
		if got, want := q.outcomes(t, request.ID), []string{"http_status", "delivered"}; !slices.Equal(got, want) {
			t.Errorf("log: got %q, want %q", got, want)
		}
	})

	t.Run("WaitsAsLongAsAThrottlingReceiverSaysUncharged", func(t *testing.T) {
		t.Parallel()
		receiver := newReceiver(t, func(w http.ResponseWriter, _ int) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusTooManyRequests)
		})
		q := newQueue(t, doNothing)
		request := newRequest(receiver.URL)
		q.accept(t, request)
		q.start(t)
		receiver.next(t)
		q.waitFor(t, request.ID, `callback_state = 'pending' AND outcome = 'throttled' AND callback_job_state = 'scheduled'
			AND callback_job_attempt = 0 AND callback_job_scheduled_at BETWEEN now() + '59m' AND now() + '67m'`)
	})

	t.Run("EndsAtAGoneReceiver", func(t *testing.T) {
		t.Parallel()
		q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusGone))
		request := newRequest(receiver.URL)
		q.accept(t, request)
		q.start(t)
		receiver.next(t)
		q.waitFor(t, request.ID, "callback_state = 'dead' AND callback_job_state = 'completed' AND next_attempt_at IS NULL")
	})

	t.Run("SendsNothingWhenTheCallbackIsSettled", func(t *testing.T) {
		t.Parallel()
		q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
		request := newRequest(receiver.URL)
		q.accept(t, request)
		if err := q.finish(t.Context(), request, succeeded); err != nil {
			t.Fatal(err)
		}
		if _, err := q.settle(t.Context(), request, webhook.Attempt{StartedAt: morning, EndedAt: morning, Outcome: webhook.Gone}, step{state: db.CallbackDead}); err != nil {
			t.Fatal(err)
		}
		q.exec(t, "UPDATE river_job SET attempted_by = ARRAY['another'] WHERE kind = 'callback'") // a process that did it, and died
		q.start(t)
		q.waitFor(t, request.ID, "callback_job_state = 'completed'")
		if got := len(receiver.calls); got != 0 {
			t.Errorf("calls: got %d, want none", got)
		}
	})

	t.Run("DiesAtTheEleventhFailure", func(t *testing.T) {
		t.Parallel()
		q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusInternalServerError))
		request := newRequest(receiver.URL)
		q.accept(t, request)
		if err := q.finish(t.Context(), request, outcomeAt(time.Now())); err != nil {
			t.Fatal(err)
		}
		q.exec(t, "UPDATE river_job SET attempt = 10 WHERE kind = 'callback'")
		q.start(t)
		q.waitFor(t, request.ID, "callback_state = 'dead' AND callback_job_state = 'completed' AND callback_job_attempt = 11")
	})
}

// receiver takes callbacks and keeps them for next.
type receiver struct {
	URL   string
	calls chan call
}

type call struct {
	header http.Header
	body   []byte
	event  struct {
		Type string      `json:"type"`
		Data payloadData `json:"data"`
	}
}

// newReceiver starts a receiver on loopback; answer gets the number of the
// call, from 0.
func newReceiver(t *testing.T, answer func(w http.ResponseWriter, n int)) *receiver {
	t.Helper()
	calls := make(chan call, 16)
	var received atomic.Int64
	server := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		got := call{header: r.Header}
		var err error
		if got.body, err = io.ReadAll(r.Body); err == nil {
			err = json.Unmarshal(got.body, &got.event)
		}
		if err != nil {
			t.Errorf("reading a callback: %v", err)
		}
		answer(w, int(received.Add(1)-1))
		calls <- got
	})
	return &receiver{server, calls}
}

func always(status int) func(http.ResponseWriter, int) {
	return func(w http.ResponseWriter, _ int) { w.WriteHeader(status) }
}

func (r *receiver) next(t *testing.T) call {
	t.Helper()
	select {
	case got := <-r.calls:
		return got
	case <-time.After(patience):
		t.Fatal("no callback came")
		return call{}
	}
}
