package jobs

import (
	"bufio"
	"cmp"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"ringback/db"
	"ringback/db/dbtest"
	"ringback/jobs/limit"
	"ringback/jobs/pacing"
)

func TestPacing(t *testing.T) {
	t.Parallel()

	t.Run("GivesAStrangerThatRefusesNoMoreThanAFewFromTwoClients", func(t *testing.T) {
		t.Parallel()
		times := make(chan time.Time, 100)
		stranger := newServer(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			times <- time.Now()
		})
		url := dbtest.New(t)
		q := newQueueOf(t, url, url, doNothing, 40)
		for n := range 80 {
			request := newRequest(stranger)
			request.Client = []string{"alice", "bob"}[n%2]
			q.accept(t, request)
		}
		q.start(t)
		first := <-times
		const callbacks = 10
		for range callbacks - 2 {
			<-times
		}
		// Of each client 20 a second, and half of it after each of its own: 1/10 s after its
		// first, 1/5 after its second, and so on. Taking longer does no harm.
		if took, least := (<-times).Sub(first), time.Second*(1+2+4+8)/10/2; took < least {
			t.Errorf("got %d callbacks within %v, want it to take %v at least", callbacks, took, least)
		}
		waitUntil(t, func() bool {
			return q.holds(t, "SELECT count(*) >= 60 FROM river_job WHERE kind = 'callback' AND attempt = 0 AND metadata ? 'snoozes'")
		})
		if q.holds(t, "SELECT EXISTS (SELECT FROM river_job WHERE metadata ? 'snoozes' AND metadata #>> '{output,waits_for}' IS NULL)") {
			t.Error("callbacks were postponed without a reason")
		}
	})

	t.Run("GivesAnOrdinaryReceiverFullSpeedOnceItIsKnown", func(t *testing.T) {
		t.Parallel()
		var asked, together atomic.Int32
		all := make(chan struct{})
		const callbacks = 10 // a quarter of the workers
		receiver := newServer(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodPost {
				asked.Add(1)
			}
			if together.Add(1) == callbacks {
				close(all)
			}
			<-all // all must be under way for a callback to end
		})
		url := dbtest.New(t)
		q := newQueueOf(t, url, url, doNothing, 4*callbacks)
		q.exec(t, `INSERT INTO callback_origins (origin, rate, in_flight, answered_from, openings, expires_at)
			VALUES ($1, 2000, $2, '{127.0.0.1/32}', 0, now() + '1h')`, pacing.ReceiverOf(receiver), 2*callbacks)
		q.start(t)
		for range callbacks {
			q.accept(t, newRequest(receiver))
		}
		select {
		case <-all:
		case <-time.After(patience):
			t.Fatalf("got %d callbacks under way, want %d", together.Load(), callbacks)
		}
		waitUntil(t, func() bool {
			return q.holds(t, "SELECT count(*) = $1 FROM requests WHERE callback_state = 'delivered'", callbacks)
		})
		if asked.Load() != 0 || q.holds(t, "SELECT EXISTS (SELECT FROM river_job WHERE metadata ? 'snoozes')") {
			t.Errorf("some were postponed, or it was asked %d times: want neither", asked.Load())
		}
	})

	t.Run("RemembersWhatAReceiverTakesWhenTheProcessStops", func(t *testing.T) {
		t.Parallel()
		q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
		if err := q.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		request := newRequest(receiver.URL)
		q.accept(t, request)
		q.waitFor(t, request.ID, "callback_state = 'delivered'")
		q.stop(t)
		q.waitForOrigin(t, "rate >= 20 AND in_flight >= 1 AND answered_from = '{127.0.0.1/32}' AND last_outcome = 'delivered' AND saved_at IS NOT NULL")
	})

	t.Run("PausesAReceiverForTheClientThatItToldAloneAndRemembersItInTheNextProcess", func(t *testing.T) {
		t.Parallel()
		receiver := newReceiver(t, func(w http.ResponseWriter, call int) {
			if call == 0 {
				w.Header().Set("Retry-After", "3600")
				w.WriteHeader(http.StatusTooManyRequests)
			}
		})
		first := newQueue(t, doNothing)
		if err := first.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		first.accept(t, newRequest(receiver.URL))
		receiver.next(t)
		const postponed = `attempt IS NULL AND callback_job_attempt = 0 AND callback_job_state = 'scheduled'
			AND callback_job_scheduled_at BETWEEN now() + '59m' AND now() + '61m'`
		others := []db.Request{newRequest(receiver.URL + "other"), newRequest(receiver.URL + "another")}
		first.waitForOrigin(t, `closed_until IS NULL AND openings = 0
			AND (closings->'alice'->>'claimed_until')::timestamptz BETWEEN now() + '30s' AND now() + '1m'
			AND (closings->'alice'->>'paused_until')::timestamptz BETWEEN now() + '59m' AND now() + '60m'`)
		first.accept(t, others[0])
		first.waitFor(t, others[0].ID, "status = 'succeeded'")
		first.stop(t)
		second := newQueueAt(t, first.url, first.url, doNothing)
		second.start(t)
		second.accept(t, others[1])
		for _, other := range others {
			second.waitFor(t, other.ID, postponed)
		}
		if got := len(receiver.calls); got != 0 {
			t.Errorf("got %d more calls within the pause, want none", got)
		}
		probe := newRequest(receiver.URL + "probe")
		probe.Client = "bob"
		second.accept(t, probe)
		second.waitFor(t, probe.ID, "callback_state = 'delivered'")
		third := newQueueAt(t, first.url, first.url, doNothing) // which never met the receiver
		for _, other := range others {
			got, err := third.WaitOf(t.Context(), third.direct, third.get(t, other.ID), db.Attempt{})
			if left := time.Until(got.Until); got.Reason != pacing.Paused || left < 59*time.Minute || left > 61*time.Minute || err != nil {
				t.Errorf("got %+v, %v, want it paused for an hour", got, err)
			}
		}
	})

	t.Run("EndsWhatWasHeldBackUntilItWasTooOld", func(t *testing.T) {
		t.Parallel()
		q, receiver := newQueue(t, nil), newReceiver(t, always(http.StatusOK))
		q.exec(t, `INSERT INTO callback_origins (origin, openings, closings, expires_at)
			VALUES ($1, 0, jsonb_build_object('alice', jsonb_build_object('openings', 6, 'down_until', now() + '15m')), now() + '1h')`, pacing.ReceiverOf(receiver.URL))
		request := newRequest(receiver.URL)
		q.accept(t, request)
		if err := q.finish(t.Context(), request, outcomeAt(time.Now().Add(-maxCallbackAge+10*time.Minute))); err != nil {
			t.Fatal(err)
		}
		q.start(t)
		q.waitFor(t, request.ID, "callback_state = 'dead' AND callback_job_state = 'completed' AND outcome = 'not_sent' AND next_attempt_at IS NULL")
		if got := len(receiver.calls); got != 0 {
			t.Errorf("got %d calls, want none", got)
		}
	})

	t.Run("EndsWhatWaitsForAReceiverThatTheOperatorDenies", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, doNothing)
		throttling := newReceiver(t, func(w http.ResponseWriter, _ int) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusTooManyRequests)
		})
		other := strings.Replace(throttling.URL, "127.0.0.1", "localhost", 1)
		throttled, failed, elsewhere := newRequest(throttling.URL), newRequest(throttling.URL), newRequest(other)
		for _, request := range []db.Request{throttled, failed, elsewhere} {
			q.accept(t, request)
		}
		q.start(t)
		for _, request := range []db.Request{throttled, failed, elsewhere} {
			q.waitFor(t, request.ID, "callback_job_state = 'scheduled' AND callback_job_scheduled_at > now() + '50m'")
		}
		q.exec(t, "UPDATE river_job SET state = 'retryable' WHERE id = (SELECT callback_job_id FROM requests WHERE id = $1)", failed.ID)
		denied := db.Ruling{Target: pacing.RulingTarget("127.0.0.1", ""), Effect: db.ReceiverDenied}
		err := db.InTx(t.Context(), q.direct, func(tx pgx.Tx) error {
			if _, err := db.SetRuling(t.Context(), tx, denied); err != nil {
				return err
			}
			_, err := tx.Exec(t.Context(), "UPDATE callback_origins SET word_at = now() - interval '1 minute' WHERE word IS NOT NULL")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, request := range []db.Request{throttled, failed} {
			q.waitFor(t, request.ID, "callback_state = 'dead' AND outcome = 'not_sent' AND cause = 'receiver_denied' AND callback_job_state = 'completed'")
		}
		q.waitFor(t, elsewhere.ID, "callback_job_state = 'scheduled' AND callback_job_scheduled_at > now() + '50m'")
		if !q.IsDenied(throttling.URL) || q.IsDenied(other) {
			t.Error("requests that name it are not refused, or others are")
		}
	})
}

// Callbacks that wait for the pace that was don't wait on.
func TestForgottenReceiverGetsWhatWaitedForIt(t *testing.T) {
	t.Parallel()
	q := newQueue(t, doNothing)
	receiver := newReceiver(t, func(w http.ResponseWriter, call int) {
		if call == 0 {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	told, waiting := newRequest(receiver.URL), newRequest(receiver.URL)
	q.accept(t, told)
	q.start(t)
	q.waitFor(t, told.ID, "callback_job_state = 'scheduled' AND callback_job_scheduled_at > now() + '50m'")
	q.accept(t, waiting)
	q.waitFor(t, waiting.ID, "callback_job_state = 'scheduled' AND callback_job_scheduled_at > now() + '50m'")
	if err := db.InTx(t.Context(), q.direct, func(tx pgx.Tx) error { _, err := db.ForgetReceiver(t.Context(), tx, "127.0.0.1", "*"); return err }); err != nil {
		t.Fatal(err)
	}
	q.waitFor(t, told.ID, "callback_state = 'delivered'")
	q.waitFor(t, waiting.ID, "callback_state = 'delivered'")
}

func TestWaitOf(t *testing.T) {
	t.Parallel()
	q := newQueue(t, doNothing)
	denied := db.Ruling{Target: pacing.RulingTarget("denied.example.com", ""), Effect: db.ReceiverDenied}
	if _, err := db.SetRuling(t.Context(), q.direct, denied); err != nil {
		t.Fatal(err)
	}
	q.pacing.Start(t.Context())
	const closed, hour = `'{"snoozes": 3, "output": {"waits_for": "receiver_closed"}}'`, "now() + interval '1 hour'"
	failed := db.Attempt{Outcome: "timeout", NextAttemptAt: time.Now().Add(-time.Second)}
	for name, test := range map[string]struct {
		state, dueAt, metadata string
		url                    string
		last                   db.Attempt
		redelivered            time.Time
		want                   limit.Reason
		known                  bool // until when
	}{
		"Running":             {state: "running", dueAt: "now()", metadata: closed},
		"Cancelled":           {state: "cancelled", dueAt: hour, metadata: closed},
		"HeldBack":            {state: "pending", dueAt: "now()", want: waitsForOrder},
		"Due":                 {state: "available", dueAt: "now()", metadata: closed, want: pacing.Workers},
		"Postponed":           {state: "scheduled", dueAt: hour, metadata: closed, want: pacing.Closed, known: true},
		"PostponedBriefly":    {state: "available", dueAt: hour, metadata: closed, want: pacing.Closed, known: true},
		"PostponedAgain":      {state: "scheduled", dueAt: hour, metadata: closed, last: failed, want: pacing.Closed, known: true},
		"PostponedUntilNow":   {state: "scheduled", dueAt: "now()", metadata: closed, want: pacing.Closed},
		"Failed":              {state: "retryable", dueAt: hour, last: failed, want: waitsForRetry, known: true},
		"FailedAfterAWait":    {state: "retryable", dueAt: hour, metadata: `'{"output": {"waits_for": "retry"}}'`, last: failed, want: waitsForRetry, known: true},
		"RedeliveredForLater": {state: "available", dueAt: hour, redelivered: time.Now(), want: waitsForRedelivery, known: true},
		"Denied":              {state: "scheduled", dueAt: hour, metadata: closed, url: "https://denied.example.com/", want: pacing.Denied, known: true},
	} {
		t.Run(name, func(t *testing.T) {
			request := newRequest(cmp.Or(test.url, "https://a.example.com/"))
			request.RedeliveredAt = test.redelivered
			sql := `
				INSERT INTO river_job (state, args, kind, queue, max_attempts, scheduled_at, metadata, finalized_at)
				VALUES ($1::text::river_job_state, '{}', 'callback', 'callback', 25, ` + test.dueAt + `, ` + cmp.Or(test.metadata, "'{}'") + `,
				        CASE $1::text WHEN 'cancelled' THEN now() END)
				RETURNING id`
			if err := q.direct.QueryRow(t.Context(), sql, test.state).Scan(&request.CallbackJobID); err != nil {
				t.Fatal(err)
			}
			got, err := q.WaitOf(t.Context(), q.direct, request, test.last)
			if got.Reason != test.want || !got.Until.IsZero() != test.known || err != nil {
				t.Errorf("got %+v, %v, want %q", got, err, test.want)
			}
		})
	}
	request := newRequest("https://a.example.com/") // whose job is gone
	if got, err := q.WaitOf(t.Context(), q.direct, request, db.Attempt{}); (got != Wait{}) || err != nil {
		t.Errorf("without a job: got %+v, %v", got, err)
	}
}

// A server that keeps a connection open serves no other meanwhile, as Python's
// HTTPServer does.
func TestServerOfOneConnectionAtATime(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	q := newQueueOf(t, url, url, doNothing, 40)
	receiver := newOneByOne(t)
	for range 40 {
		q.accept(t, newRequest(receiver))
	}
	q.start(t)
	waitUntil(t, func() bool {
		return q.holds(t, "SELECT count(*) >= 39 FROM requests WHERE callback_state = 'delivered'")
	})
	if !q.holds(t, "SELECT count(*) <= 1 FROM callback_attempts WHERE outcome <> 'delivered'") {
		t.Error("more than one callback was not delivered at once")
	}
}

// newOneByOne starts a server that takes the next connection when the connection before is
// closed.
func newOneByOne(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serveConnection(conn)
		}
	}()
	return "http://" + listener.Addr().String() + "/"
}

// serveConnection answers calls one after the other until its end.
func serveConnection(conn net.Conn) {
	defer conn.Close()
	for reader := bufio.NewReader(conn); ; {
		call, err := http.ReadRequest(reader)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, call.Body)
		if _, err := io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n"); err != nil {
			return
		}
	}
}

// waitForOrigin returns when the only known receiver meets condition.
func (q *testQueue) waitForOrigin(t *testing.T, condition string) {
	t.Helper()
	waitUntil(t, func() bool {
		return q.holds(t, "SELECT count(*) = 1 AND coalesce(bool_and("+condition+"), false) FROM callback_origins")
	})
}
