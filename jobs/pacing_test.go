package jobs

import (
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"ringback/db"
	"ringback/db/dbtest"
)

func TestPacing(t *testing.T) {
	t.Parallel()

	t.Run("GivesAStrangerNoMoreThanItEarnsFromTwoCallers", func(t *testing.T) {
		t.Parallel()
		times := make(chan time.Time, 100)
		stranger := newStranger(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			if r.Method == http.MethodPost {
				times <- time.Now()
			}
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
		const callbacks = 5
		for range callbacks - 2 {
			<-times
		}
		took := (<-times).Sub(first)
		// As many at once as at a time, and then 4 a second: less, in truth, since it
		// refuses them all.
		if allowed := float64(newcomer.most) + newcomer.rate*took.Seconds(); allowed < callbacks {
			t.Errorf("got %d callbacks within %v, want at most %.0f", callbacks, took, allowed)
		}
		waitUntil(t, func() bool {
			return q.holds(t, "SELECT count(*) >= 60 FROM river_job WHERE kind = 'callback' AND attempt = 0 AND metadata ? 'snoozes'")
		})
	})

	t.Run("GivesAReceiverThatGrantsItFullSpeedAfterItsFirstCallback", func(t *testing.T) {
		t.Parallel()
		var asked, together atomic.Int32
		all := make(chan struct{})
		const callbacks = 10 // a quarter of the workers
		receiver := newStranger(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodOptions {
				asked.Add(1)
				w.Header().Set("WebHook-Allowed-Origin", "*")
				w.Header().Set("WebHook-Allowed-Rate", "*")
				return
			}
			if together.Add(1) > callbacks {
				close(all)
			}
			if together.Load() > 1 {
				<-all // they must all be under way for one to end
			}
		})
		url := dbtest.New(t)
		q := newQueueOf(t, url, url, doNothing, 4*callbacks)
		q.start(t)
		first := newRequest(receiver)
		q.accept(t, first)
		q.waitFor(t, first.ID, "callback_state = 'delivered'")
		for range callbacks {
			q.accept(t, newRequest(receiver))
		}
		select {
		case <-all:
		case <-time.After(patience):
			t.Fatalf("got %d callbacks under way, want %d", together.Load()-1, callbacks)
		}
		waitUntil(t, func() bool {
			return q.holds(t, "SELECT count(*) = $1 FROM requests WHERE callback_state = 'delivered'", callbacks+1)
		})
		if !q.holds(t, "SELECT NOT EXISTS (SELECT FROM river_job WHERE metadata ? 'snoozes')") || asked.Load() != 1 {
			t.Errorf("some were put off, or it was asked %d times: want neither, and once", asked.Load())
		}
		q.waitForOrigin(t, "granted_until BETWEEN now() + '23h' AND now() + '24h' AND per_minute IS NULL AND prefixes = '{127.0.0.1/32}'")
	})

	t.Run("PausesAHostForAllAndRemembersItInTheNextProcess", func(t *testing.T) {
		t.Parallel()
		receiver := newReceiver(t, func(w http.ResponseWriter, _ int) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusTooManyRequests)
		})
		first := newQueue(t, doNothing)
		if err := first.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		first.accept(t, newRequest(receiver.URL))
		receiver.next(t)
		const putOff = `attempt IS NULL AND callback_job_attempt = 0 AND callback_job_state = 'scheduled'
			AND callback_job_scheduled_at BETWEEN now() + '59m' AND now() + '61m'`
		others := []db.Request{newRequest(receiver.URL + "other"), newRequest(receiver.URL + "another")}
		first.waitForOrigin(t, "closed_until BETWEEN now() + '59m' AND now() + '60m' AND openings = 0")
		first.accept(t, others[0])
		first.waitFor(t, others[0].ID, "status = 'succeeded'")
		first.stop(t)
		second := newQueueAt(t, first.url, first.url, doNothing)
		second.start(t)
		second.accept(t, others[1])
		for _, other := range others {
			second.waitFor(t, other.ID, putOff)
		}
		if got := len(receiver.calls); got != 0 {
			t.Errorf("got %d more calls within the pause, want none", got)
		}
	})

	t.Run("EndsWhatWasHeldBackUntilItWasTooOld", func(t *testing.T) {
		t.Parallel()
		q, receiver := newQueue(t, nil), newReceiver(t, always(http.StatusOK))
		q.exec(t, `INSERT INTO callback_origins (origin, closed_until, openings, expires_at)
			VALUES ($1, now() + '15m', 6, now() + '1h')`, originOf(receiver.URL))
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
}

// waitForOrigin returns when the only origin that is remembered meets condition.
func (q *testQueue) waitForOrigin(t *testing.T, condition string) {
	t.Helper()
	waitUntil(t, func() bool {
		return q.holds(t, "SELECT count(*) = 1 AND coalesce(bool_and("+condition+"), false) FROM callback_origins")
	})
}
