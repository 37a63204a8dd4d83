package jobs

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"ringback/db"
)

func TestSigning(t *testing.T) {
	t.Parallel()

	t.Run("SignsEveryAttempt", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, doNothing)
		receiver := newReceiver(t, func(w http.ResponseWriter, n int) {
			if n == 0 {
				w.WriteHeader(http.StatusInternalServerError)
			}
		})
		q.start(t)
		q.accept(t, newRequest(receiver.URL))
		webhook, err := standardwebhooks.NewWebhook(testSecret)
		if err != nil {
			t.Fatal(err)
		}
		for attempt := range 2 {
			got := receiver.next(t)
			if err := webhook.Verify(got.body, got.header); err != nil {
				t.Errorf("attempt %d: %v", attempt+1, err)
			}
		}
	})

	t.Run("SendsNothingUnsigned", func(t *testing.T) {
		t.Parallel()
		q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
		request := newRequest(receiver.URL)
		request.Client = unreadable
		q.start(t)
		q.accept(t, request)
		q.waitForLog(t, "callback_not_made: "+(&fault{what: unsigned}).remedy())
		q.waitFor(t, request.ID, "callback_state = 'pending' AND attempt IS NULL AND callback_job_state IN ('available', 'retryable')")
		if !q.holds(t, `SELECT errors[1] ->> 'error' = 'fault: the callback can''t be signed' FROM river_job WHERE kind = 'callback'`) {
			t.Error("the job doesn't say why it waits")
		}
		if got := len(receiver.calls); got != 0 {
			t.Errorf("got %d callbacks, want none", got)
		}
		if got := q.faults(t, callbackQueue); got == 0 {
			t.Error("the metrics don't count the fault")
		}
	})
}

// faults is how many faults of a step the metrics count.
func (q *testQueue) faults(t *testing.T, step string) (count float64) {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(q.metrics.faults)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, metric := range families[0].GetMetric() {
		if metric.GetLabel()[0].GetValue() == step {
			count += metric.GetCounter().GetValue()
		}
	}
	return count
}

func TestNothingIsAcceptedThatCannotBeSigned(t *testing.T) {
	t.Parallel()
	q := newQueue(t, nil)
	if err := q.Admit(unreadable); !errors.Is(err, ErrUnsignable) {
		t.Errorf("a request: got %v, want %v", err, ErrUnsignable)
	}
	done, err := q.Redeliver(t.Context(), []Redelivery{{Redelivery: db.Redelivery{Client: unreadable, At: time.Now()}}})
	if err != nil || done.Count != 0 || len(done.Refused) != 1 || !errors.Is(done.Refused[0].Reason, ErrUnsignable) {
		t.Errorf("a redelivery: got %+v, %v, want it refused by %v", done, err, ErrUnsignable)
	}
	if err := q.Admit("alice"); err != nil {
		t.Errorf("of another client: got %v", err)
	}
}

// faulty gives all jobs so many faults in a row, behind a failed attempt.
func (q *testQueue) faulty(t *testing.T, count int) {
	t.Helper()
	q.exec(t, `
		UPDATE river_job
		SET errors = '{"at": "2026-03-01T08:00:00Z", "attempt": 1, "error": "not delivered", "trace": ""}'::jsonb
		             || array_fill('{"at": "2026-03-01T08:00:00Z", "attempt": 2, "error": "fault: of a test", "trace": ""}'::jsonb, ARRAY[$1::integer]),
		    attempt = 1 + $1`, count)
}

// refuseDeepResults lets the database refuse results that nest, as it does where its stack is
// too small for them. How deep that is depends on the compiler of Postgres.
func refuseDeepResults(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	for _, sql := range []string{
		`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
		 $$ BEGIN RAISE 'stack depth limit exceeded' USING ERRCODE = 'statement_too_complex'; END $$`,
		`CREATE TRIGGER refuse BEFORE UPDATE ON requests FOR EACH ROW WHEN (NEW.result::text LIKE '[[[%') EXECUTE FUNCTION refuse()`,
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFaultsThatLastEndTheStep(t *testing.T) {
	t.Parallel()

	t.Run("OfACallbackAsADeadLetter", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, doNothing)
		request := newRequest("http://127.0.0.1:9/")
		request.Client = unreadable
		q.accept(t, request)
		if err := q.finish(t.Context(), request, succeeded); err != nil {
			t.Fatal(err)
		}
		q.faulty(t, maxFaults)
		q.start(t)
		q.waitFor(t, request.ID, "callback_state = 'dead' AND outcome = 'not_sent' AND cause = 'of a test' AND callback_job_state = 'completed'")
		if !q.holds(t, "SELECT EXISTS (SELECT FROM dead_letters)") {
			t.Error("it is not among the dead letters")
		}
	})

	t.Run("AndFewerDoNot", func(t *testing.T) {
		t.Parallel()
		q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
		request := newRequest(receiver.URL)
		q.accept(t, request)
		q.faulty(t, maxFaults-1)
		q.start(t)
		receiver.next(t)
		q.waitFor(t, request.ID, "callback_state = 'delivered'")
	})

	t.Run("OfWorkAsAFailedRequestInItsOrder", func(t *testing.T) {
		t.Parallel()
		q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
		var requests []db.Request
		for range 2 {
			request := newRequest(receiver.URL)
			request.OrderingKey = "k"
			q.accept(t, request)
			requests = append(requests, request)
		}
		q.faulty(t, maxFaults)
		q.start(t)
		for i, request := range requests {
			if got := receiver.next(t).event; got.Data.ID != request.ID || got.Type != "request.failed" {
				t.Errorf("callback %d: got %s of %s, want request.failed of %s", i, got.Type, got.Data.ID, request.ID)
			}
			q.waitFor(t, request.ID, "status = 'failed' AND error_code = 'fault' AND callback_state = 'delivered' AND work_job_state = 'completed'")
		}
	})

	t.Run("OfAResultThatCannotBeStoredAtOnce", func(t *testing.T) {
		t.Parallel()
		const deep = 1000 // the deepest that is taken
		runs := 0
		q, receiver := newQueue(t, func(context.Context, jsontext.Value) (jsontext.Value, error) {
			runs++
			return jsontext.Value(strings.Repeat("[", deep) + strings.Repeat("]", deep)), nil
		}), newReceiver(t, always(http.StatusOK))
		refuseDeepResults(t, q.pool)
		q.start(t)
		request := newRequest(receiver.URL)
		q.accept(t, request)
		receiver.next(t)
		q.waitFor(t, request.ID, "status = 'failed' AND error_code = 'result_not_storable' AND callback_state = 'delivered'")
		if runs != 1 {
			t.Errorf("the work ran %d times, want once", runs)
		}
		if got := q.faults(t, workQueue); got != 1 {
			t.Errorf("the metrics count %v faults of the work, want one", got)
		}
	})
}
