package jobs

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"ringback/db"
)

// newStored is a sync request that is stored before its work is done.
func newStored() db.Request {
	request := newRequest("")
	request.Mode, request.CallbackURL, request.CallbackState = db.Sync, "", ""
	return request
}

// Postgres takes from SQL what no work may return.
func TestResultThatWasChangedBySQLIsCalledBack(t *testing.T) {
	t.Parallel()
	bodies := make(chan string, 10)
	q, request := newQueue(t, doNothing), newRequest(newServer(t, func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // checked below
		bodies <- string(body)
	}))
	q.accept(t, request)
	if err := q.finish(t.Context(), request, succeeded); err != nil {
		t.Fatal(err)
	}
	const text = `{"a":1,"a":2}`
	q.exec(t, "UPDATE requests SET result = $1::text::json", text)
	q.start(t)
	q.waitFor(t, request.ID, "callback_state = 'delivered'")
	if got := <-bodies; !strings.Contains(got, `"result":`+text) {
		t.Errorf("got %s, want the result as it stands", got)
	}
}

func TestRequestWithoutACallback(t *testing.T) {
	t.Parallel()

	t.Run("EndsWithItsWork", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, doNothing)
		stored, called := newStored(), newRequest(newServer(t, noContent))
		stored.ID[15]++
		q.start(t)
		q.accept(t, stored)
		q.accept(t, called)
		q.waitFor(t, stored.ID, "status = 'succeeded' AND callback_state IS NULL AND callback_job_id IS NULL AND settled_at IS NULL")
		q.waitFor(t, called.ID, "status = 'succeeded' AND callback_job_id IS NOT NULL")
		if !q.holds(t, "SELECT count(*) = 0 FROM river_job WHERE kind = 'callback' AND args ->> 'request_id' = $1", stored.ID.String()) {
			t.Error("it has a callback job")
		}
		q.waitFor(t, stored.ID, "work_job_state = 'completed'")
	})

	t.Run("IsFinishedByTheFormerVersion", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, doNothing)
		request := newStored()
		q.accept(t, request)
		// As the previous version writes an outcome: without an id, no job is inserted.
		const former = `
			UPDATE requests
			SET status = 'succeeded', result = '1', callback_state = 'pending', callback_job_id = 7, started_at = now(), finished_at = now()
			WHERE id = $1
			RETURNING callback_job_id IS NULL AND callback_state IS NULL`
		if !q.holds(t, former, request.ID) {
			t.Error("it has a callback")
		}
	})

	t.Run("EndsWhereItsJobIsCancelled", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, doNothing)
		request := newStored()
		q.accept(t, request)
		q.exec(t, "UPDATE river_job SET state = 'cancelled', finalized_at = now()")
		if err := q.Mend(t.Context(), request.ID); err != nil {
			t.Fatal(err)
		}
		q.waitFor(t, request.ID, "status = 'cancelled' AND callback_state IS NULL AND settled_at IS NULL")
	})

	t.Run("IsCountedForItsClient", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, doNothing)
		q.accept(t, newStored())
		counts, err := db.CountByDestination(t.Context(), q.direct, []string{workQueue}, 10)
		if want := (db.Destination{Client: newStored().Client}); err != nil || counts[want] != 1 || len(counts) != 1 {
			t.Errorf("got %v, %v, want one of %v", counts, err, want)
		}
	})
}
