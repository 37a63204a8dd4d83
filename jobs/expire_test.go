package jobs

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/riverqueue/river/rivertype"

	"ringback/db"
	"ringback/internal/bubble"
	"ringback/jobs/flow"
	"ringback/work"
)

func TestExpire(t *testing.T) {
	t.Parallel()

	for name, test := range map[string]struct {
		expires time.Time
		want    bool
	}{
		"NeverWithoutAnEnd":  {time.Time{}, false},
		"NotBeforeItsEnd":    {morning.Add(time.Microsecond), false},
		"AtItsEnd":           {morning, true},
		"LongAfterItsEndToo": {morning.Add(-time.Hour), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outcome, over := expire(db.Request{ExpiresAt: test.expires}, morning)
			if over != test.want || over != (statusOf(outcome) == db.Expired) {
				t.Errorf("expires %v at %v: got %v with %+v, want %v", test.expires, morning, over, outcome, test.want)
			}
		})
	}

	t.Run("IsNotWhatTheWorkSaysOfItself", func(t *testing.T) {
		t.Parallel()
		own := work.Outcome{StartedAt: morning, FinishedAt: morning, Error: &work.Error{Code: codeExpired, Message: "m"}}
		if got := statusOf(own); got != db.Failed {
			t.Errorf("got %s, want failed: requests without an end can't expire", got)
		}
	})

	t.Run("IsCalledBackAndTheWorkIsNotDone", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, func(context.Context, jsontext.Value) (jsontext.Value, error) {
			t.Error("the work began, want it left")
			return succeeded.Result, nil
		})
		receiver := newReceiver(t, always(http.StatusOK))
		request := newRequest(receiver.URL)
		request.ExpiresAt = morning.Add(time.Second)
		q.accept(t, request)
		q.start(t)
		if call := receiver.next(t); call.event.Type != "request.expired" {
			t.Errorf("callback: got %s, want request.expired", call.event.Type)
		}
		q.waitFor(t, request.ID, "status = 'expired' AND error_code = 'expired' AND started_at IS NULL AND callback_state = 'delivered' AND work_job_state = 'completed'")
	})

	t.Run("IsSeenByAProcessThatDidNotAccept", func(t *testing.T) {
		t.Parallel()
		accepting := newQueue(t, nil)
		request := newRequest("http://127.0.0.1:9/")
		request.ExpiresAt = morning.Add(time.Second)
		accepting.accept(t, request)
		working := newQueueAt(t, accepting.url, accepting.url, doNothing)
		working.start(t)
		working.waitFor(t, request.ID, "status = 'expired'")
	})

	t.Run("IsSeenAfterTheWaitForAPlace", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			w := &runWorker{queue: &Queue{}, slots: flow.NewSlots(1, flow.NewRoom(10, 1, false), false), catalog: catalogOf(t, doNothing)}
			leave, _ := w.slots.Enter(t.Context(), "alice", false)
			request := db.Request{Client: "alice", ExpiresAt: time.Now().Add(20 * time.Millisecond)}
			time.AfterFunc(time.Until(request.ExpiresAt), leave)
			if outcome, _, err := w.begin(t.Context(), &rivertype.JobRow{}, w.catalog.Default(), request); err != nil || statusOf(outcome) != db.Expired {
				t.Errorf("got %+v, %v, want it expired", outcome, err)
			}
			if w.slots.Running() != 0 {
				t.Error("its slot is still taken")
			}
		})
	})
}
