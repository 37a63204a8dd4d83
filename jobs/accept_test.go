package jobs

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/riverqueue/river"

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

	t.Run("InsertsJobsAsRiverDoes", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		request := newRequest("http://127.0.0.1:9/")
		q.accept(t, request)
		if err := q.finish(t.Context(), request, succeeded); err != nil {
			t.Fatal(err)
		}
		for _, job := range []struct {
			args  river.JobArgs
			queue string
		}{{workArgs{request.ID}, workQueue}, {callbackArgs{request.ID}, callbackQueue}} {
			if _, err := q.client.Insert(t.Context(), job.args, &river.InsertOpts{Queue: job.queue}); err != nil {
				t.Fatal(err)
			}
		}
		const sql = `
			SELECT count(*) = 4
			   AND count(DISTINCT to_jsonb(river_job) - ARRAY['id', 'created_at', 'scheduled_at']) = 2
			   AND bool_and(scheduled_at <= now() AND created_at BETWEEN now() - interval '1 hour' AND now())
			FROM river_job`
		if !q.holds(t, sql) {
			t.Error("our jobs differ from River's own")
		}
	})

	t.Run("TellsTheWorkersOfEachBatch", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		listener := listen(t, q.url)
		request := newRequest("http://127.0.0.1:9/")
		q.accept(t, request)
		listener.wants(t, `{"queue" : "work"}`)
		if err := q.finish(t.Context(), request, succeeded); err != nil {
			t.Fatal(err)
		}
		listener.wants(t, `{"queue" : "callback"}`)
		sync := db.Request{
			ID: request.ID, Mode: db.Sync, Client: "alice", Status: db.Succeeded, Input: request.Input,
			Result: succeeded.Result, AcceptedAt: morning, StartedAt: morning, FinishedAt: morning,
		}
		sync.ID[15]++
		if err := q.Record(t.Context(), sync); err != nil {
			t.Fatal(err)
		}
		q.exec(t, "SELECT pg_notify(current_schema() || '.river_insert', 'last')")
		listener.wants(t, "last") // nothing of the sync request, which has no job
	})

	for name, spoil := range map[string]func(*db.Request){
		"requests_async_has_callback": func(r *db.Request) { r.CallbackURL = "" },
		"requests_async_has_work_job": func(r *db.Request) { r.Status = db.Succeeded },
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

// listener hears the notifications of inserted jobs, as River's workers do.
type listener struct{ conn *pgx.Conn }

func listen(t *testing.T, url string) listener {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	if _, err := conn.Exec(t.Context(), `LISTEN "public.river_insert"`); err != nil {
		t.Fatal(err)
	}
	return listener{conn}
}

// wants fails the test unless the next notification is payload.
func (l listener) wants(t *testing.T, payload string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got, err := l.conn.WaitForNotification(ctx)
	if err != nil {
		t.Fatalf("waiting for %s: %v", payload, err)
	}
	if got.Payload != payload {
		t.Errorf("got the notification %s, want %s", got.Payload, payload)
	}
}
