package jobs

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"ringback/db"
)

func TestVigil(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		beats []int // seconds
		asked int
		want  bool
	}{
		{"ThreeIntervalsAreTrusted", []int{0, 2, 4, 6}, 6, true},
		{"FewerAreNot", []int{0, 2, 4}, 5, false},
		{"BeatMissedIsForgiven", []int{0, 2, 6}, 6, true},
		{"OutageBeginsAnew", []int{0, 2, 4, 6, 36}, 36, false},
		{"OutageIsOverThreeIntervalsLater", []int{0, 2, 36, 38, 40, 42}, 42, true},
		{"SilenceOfItsOwnIsNotTrusted", []int{0, 2, 4, 6}, 20, false},
		{"NoBeatAtAllIsNot", nil, 100, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var v vigil
			for _, second := range test.beats {
				v = v.at(morning.Add(time.Duration(second) * time.Second))
			}
			if got := v.trusts(morning.Add(time.Duration(test.asked) * time.Second)); got != test.want {
				t.Errorf("beats at %v, asked at %d: got %v, want %v", test.beats, test.asked, got, test.want)
			}
		})
	}
}

// silence makes everybody look as if they had been silent for longer than a dead
// process, and their jobs as if they had run for as long.
func (q *testQueue) silence(t *testing.T) {
	t.Helper()
	q.exec(t, "UPDATE processes SET beat_at = beat_at - interval '1 minute'")
	q.exec(t, "UPDATE river_job SET attempted_at = attempted_at - interval '1 minute' WHERE state = 'running'")
}

func TestHeartbeat(t *testing.T) {
	t.Parallel()

	t.Run("IsThereBeforeTheFirstJobAndGoneAfterTheLast", func(t *testing.T) {
		t.Parallel()
		known := make(chan bool, 1)
		var q *testQueue
		q = newQueue(t, func(context.Context, jsontext.Value) (jsontext.Value, error) {
			known <- q.holds(t, "SELECT EXISTS (SELECT FROM processes WHERE id = $1)", q.client.ID())
			return succeeded.Result, nil
		})
		q.accept(t, newRequest("http://127.0.0.1:9/"))
		if err := q.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !<-known {
			t.Error("a job ran in a process that nobody knows")
		}
		q.stop(t)
		if !q.holds(t, "SELECT NOT EXISTS (SELECT FROM processes)") {
			t.Error("the process is still known after it stopped")
		}
	})

	// What was paused goes on with its work while another process does it again.
	t.Run("OfAPausedProcessCostsNoOutcome", func(t *testing.T) {
		t.Parallel()
		started, resume := make(chan struct{}, 10), make(chan struct{})
		resumed := sync.OnceFunc(func() { close(resume) })
		paused := newQueue(t, func(context.Context, jsontext.Value) (jsontext.Value, error) {
			started <- struct{}{}
			<-resume
			return jsontext.Value(`{"words":2}`), nil
		})
		receiver := newReceiver(t, always(http.StatusOK))
		var requests []db.Request
		for range 4 { // as many as it has workers, so that it takes up no more
			requests = append(requests, newRequest(receiver.URL))
			paused.accept(t, requests[len(requests)-1])
		}
		paused.start(t)
		t.Cleanup(resumed) // before it stops
		for range requests {
			<-started
		}
		paused.heart.stop()
		<-paused.heart.ended
		paused.silence(t)

		other := newQueueAt(t, paused.url, paused.url, doNothing)
		other.start(t)
		for _, request := range requests {
			other.waitFor(t, request.ID, "status = 'succeeded' AND callback_state = 'delivered' AND work_job_attempt = 2 AND work_job_state = 'completed'")
		}
		resumed()
		for _, request := range requests {
			paused.waitForLog(t, "work_finished")
			if got := string(other.get(t, request.ID).Result); got != string(succeeded.Result) {
				t.Errorf("result: got %s, want that which was first, %s", got, succeeded.Result)
			}
		}
		if !other.holds(t, "SELECT count(*) = 4 FROM river_job WHERE kind = 'callback'") {
			t.Error("want one callback job for each request")
		}
		other.wantNoOrphans(t)
	})

	// As after a connection that broke between the commit of a fetch and its answer.
	t.Run("GivesBackWhatItDoesNotRun", func(t *testing.T) {
		t.Parallel()
		receiver := newReceiver(t, always(http.StatusOK))
		q := newQueue(t, doNothing)
		request := newRequest(receiver.URL)
		q.accept(t, request)
		q.exec(t, "UPDATE river_job SET state = 'running', attempt = 1, attempted_at = now() - interval '1 minute', attempted_by = ARRAY[$1]", q.client.ID())
		q.start(t)
		q.waitFor(t, request.ID, "callback_state = 'delivered' AND work_job_attempt = 1 AND work_job_state = 'completed'")
	})

	// As at the end of an outage: all were silent, and come back one after another.
	t.Run("ThatWasAwayForAllTakesNothingFromTheLiving", func(t *testing.T) {
		t.Parallel()
		started, resume := make(chan struct{}, 10), make(chan struct{})
		resumed := sync.OnceFunc(func() { close(resume) })
		living := newQueue(t, func(context.Context, jsontext.Value) (jsontext.Value, error) {
			started <- struct{}{}
			<-resume
			return succeeded.Result, nil
		})
		request := newRequest("http://127.0.0.1:9/")
		living.accept(t, request)
		living.start(t)
		t.Cleanup(resumed)
		<-started
		living.silence(t)
		other := newQueueAt(t, living.url, living.url, doNothing)
		other.start(t)
		var first time.Time // beat of the other
		waitUntil(t, func() bool {
			var last time.Time
			const sql = "SELECT beat_at FROM processes WHERE id = $1"
			if err := other.direct.QueryRow(t.Context(), sql, other.client.ID()).Scan(&last); err != nil {
				t.Fatal(err)
			}
			if first.IsZero() {
				first = last
			}
			return last.Sub(first) > trustAfter+beatInterval // it has looked
		})
		other.waitFor(t, request.ID, "status = 'accepted' AND work_job_state = 'running' AND work_job_attempt = 1")
	})
}
