package jobs

import (
	"net/http"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/riverqueue/river/rivertype"

	"ringback/db"
)

func TestRecent(t *testing.T) {
	t.Parallel()

	t.Run("GivesWhatTheDatabaseHolds", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, doNothing)
		request := newRequest("http://127.0.0.1:9/")
		request.Traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		q.accept(t, request)
		accepted, _ := q.recent.take(&rivertype.JobRow{ID: q.get(t, request.ID).WorkJobID})
		stored, err := db.LoadWork(t.Context(), q.direct, []uuid.UUID{request.ID})
		if diff := cmp.Diff(stored[request.ID], accepted); err != nil || diff != "" {
			t.Errorf("accepted: got error %v and (-stored +remembered):\n%s", err, diff)
		}

		if err := q.finish(t.Context(), accepted, succeeded); err != nil {
			t.Fatal(err)
		}
		finished, _ := q.recent.take(&rivertype.JobRow{ID: q.get(t, request.ID).CallbackJobID})
		stored, err = db.LoadCallbacks(t.Context(), q.direct, []uuid.UUID{request.ID})
		if diff := cmp.Diff(stored[request.ID], finished); err != nil || diff != "" {
			t.Errorf("finished: got error %v and (-stored +remembered):\n%s", err, diff)
		}
	})

	t.Run("GivesEachOnce", func(t *testing.T) {
		t.Parallel()
		var r recent
		r.put(7, db.Request{Client: "alice"})
		if got, ok := r.take(&rivertype.JobRow{ID: 7}); !ok || got.Client != "alice" {
			t.Errorf("first: got %+v, %v, want the request", got, ok)
		}
		if _, ok := r.take(&rivertype.JobRow{ID: 7}); ok {
			t.Error("second: got it again")
		}
	})

	t.Run("GivesNothingToAJobThatRunsAgain", func(t *testing.T) {
		t.Parallel()
		var r recent
		r.put(7, db.Request{Client: "alice"})
		if _, ok := r.take(&rivertype.JobRow{ID: 7, AttemptedBy: []string{"another", "this"}}); ok {
			t.Error("got it, want it to be loaded")
		}
	})

	t.Run("ForgetsTheOldestWhenItIsFull", func(t *testing.T) {
		t.Parallel()
		var r recent
		const size = 1 << 20
		const last = 3 * recentBytes / size
		for id := range int64(last + 1) {
			r.put(id, db.Request{Input: make(jsontext.Value, size)})
		}
		if held := len(r.young) + len(r.old); held > 2*recentBytes/size {
			t.Errorf("holds %d MiB, want at most two generations of %d bytes", held, recentBytes)
		}
		if _, ok := r.take(&rivertype.JobRow{ID: 0}); ok {
			t.Error("the oldest is still there")
		}
		if _, ok := r.take(&rivertype.JobRow{ID: last}); !ok {
			t.Error("the newest is not there")
		}
	})

	t.Run("IsNotNeeded", func(t *testing.T) {
		t.Parallel()
		q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
		request := newRequest(receiver.URL)
		q.accept(t, request)
		q.recent.take(&rivertype.JobRow{ID: q.get(t, request.ID).WorkJobID})
		q.start(t)
		receiver.next(t)
		q.waitFor(t, request.ID, "callback_state = 'delivered'")
	})
}
