package jobs

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"ringback/db"
)

func TestAccept(t *testing.T) {
	t.Parallel()

	t.Run("CommitsTheRowWithItsJob", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		request := newRequest("http://127.0.0.1:9/")
		q.accept(t, request)
		q.waitFor(t, request.ID, "status = 'accepted' AND callback_state = 'waiting' AND work_job_state = 'available' AND work_job_attempt = 0")
		const sql = "SELECT count(*) = 1 FROM river_job WHERE kind = 'work' AND queue = 'work' AND args = jsonb_build_object('request_id', $1::text)"
		if !q.holds(t, sql, request.ID.String()) {
			t.Error("there is not exactly one work job whose args are the request's id alone")
		}
	})

	for name, spoil := range map[string]func(*db.Request){
		"requests_async_has_callback": func(r *db.Request) { r.CallbackURL = "" },
		"requests_sync_is_finished":   func(r *db.Request) { r.Mode, r.CallbackURL, r.CallbackState = db.Sync, "", "" },
		"requests_pkey":               nil, // the same request again
	} {
		t.Run("LeavesNothingOfARefusedRow/"+name, func(t *testing.T) {
			t.Parallel()
			q := newQueue(t, nil)
			request, stored := newRequest("http://127.0.0.1:9/"), 0
			if spoil != nil {
				spoil(&request)
			} else {
				q.accept(t, request)
				stored = 1
			}
			var refused *pgconn.PgError
			if err := q.Accept(t.Context(), request); !errors.As(err, &refused) {
				t.Errorf("got %v, want the database to refuse", err)
			}
			if !q.holds(t, "SELECT (SELECT count(*) FROM requests) = $1 AND (SELECT count(*) FROM river_job) = $1", stored) {
				t.Errorf("want %d rows and as many jobs", stored)
			}
		})
	}

	t.Run("IsWholeWhenTheCallerHasGone", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		request := newRequest("http://127.0.0.1:9/")
		if err := q.Accept(ctx, request); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
		q.waitFor(t, request.ID, "status = 'accepted' AND work_job_state = 'available'")
	})
}
