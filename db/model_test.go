package db_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"ringback/db"
	"ringback/db/dbtest"
)

// life is the possible life of a request, step by step, in a few lines. Each step of the
// database is tried in any state, as after a crash or in a race, and must do as life
// says, or nothing.
type life struct {
	status   db.Status
	callback db.CallbackState
	attempts int
	jobs     int // callback jobs: a redelivery's job replaces the last
	letter   bool
	endings  string // under which it is found among the unsuccessful
}

func (l *life) finish(status db.Status) bool {
	if l.status != db.Accepted {
		return false
	}
	l.status, l.callback, l.jobs = status, db.CallbackPending, l.jobs+1
	if status != db.Succeeded {
		l.endings = string(status)
	}
	return true
}

func (l *life) settle(state db.CallbackState, latest bool) {
	l.attempts++
	if l.callback == db.CallbackPending && latest {
		l.callback, l.letter = state, state == db.CallbackDead
	}
}

func (l *life) redeliver(from db.CallbackState) bool {
	if l.callback != db.CallbackDead && l.callback != db.CallbackDelivered || from != "" && from != l.callback {
		return false
	}
	l.callback, l.letter = db.CallbackPending, false
	return true
}

func (l *life) cancel() db.Stopped {
	if l.callback != db.CallbackWaiting && l.callback != db.CallbackPending {
		return db.Stopped{}
	}
	work := l.status == db.Accepted
	if work {
		l.status = db.Cancelled
	}
	l.callback = db.CallbackCancelled
	if work {
		l.endings = "cancelled"
	}
	l.endings = strings.TrimSpace("callback_cancelled " + l.endings)
	return db.Stopped{Work: work, JobID: 1} // any
}

// machine drives a request through steps in any order.
type machine struct {
	pool    *pgxpool.Pool
	request db.Request
	jobs    []int64 // that sent its callback, the latest last
	want    life
}

func (m *machine) finish(t *rapid.T) {
	outcome := m.request
	outcome.Status = rapid.SampledFrom([]db.Status{db.Succeeded, db.Failed, db.Expired}).Draw(t, "status")
	outcome.FinishedAt = morning.Add(time.Minute)
	if outcome.Status == db.Succeeded {
		outcome.Result = jsontext.Value(`1`)
	} else {
		outcome.Error = jsontext.Value(`{"code":"c"}`)
	}
	finished, err := db.FinishRequests(context.Background(), m.pool, callbackJobs, []db.Request{outcome})
	if want := m.want.finish(outcome.Status); err != nil || (len(finished) == 1) != want {
		t.Fatalf("finish: got %v, %v, want it done: %v", finished, err, want)
	}
	if one, made := finished[m.request.ID]; made {
		m.jobs = append(m.jobs, one.CallbackJobID)
	}
}

func (m *machine) noteJob(ids map[uuid.UUID]int64) {
	if id, made := ids[m.request.ID]; made {
		m.jobs = append(m.jobs, id)
	}
}

// settle settles the latest job, or a job before a redelivery.
func (m *machine) settle(t *rapid.T) {
	attempt := attemptAt(morning.Add(2 * time.Minute))
	attempt.RequestID = m.request.ID
	state := rapid.SampledFrom([]db.CallbackState{db.CallbackPending, db.CallbackDelivered, db.CallbackDead}).Draw(t, "state")
	job := rapid.SampledFrom(append([]int64{0}, m.jobs...)).Draw(t, "job")
	numbers, err := db.SettleCallbacks(context.Background(), m.pool, []db.Settlement{{Attempt: attempt, JobID: job, State: state}})
	m.want.settle(state, len(m.jobs) > 0 && job == m.jobs[len(m.jobs)-1])
	if err != nil || len(numbers) != 1 || numbers[0] != m.want.attempts {
		t.Fatalf("settle: got %v, %v, want attempt %d", numbers, err, m.want.attempts)
	}
}

func (m *machine) redeliver(t *rapid.T) {
	from := rapid.SampledFrom([]db.CallbackState{"", db.CallbackDead, db.CallbackDelivered}).Draw(t, "from")
	ids, err := db.RedeliverCallbacks(context.Background(), m.pool, callbackJobs,
		[]db.Redelivery{{RequestID: m.request.ID, Client: m.request.Client, From: from, At: morning.Add(time.Hour)}})
	if want := m.want.redeliver(from); err != nil || (len(ids) == 1) != want {
		t.Fatalf("redeliver: got %v, %v, want it done: %v", ids, err, want)
	}
	m.noteJob(ids)
}

func (m *machine) cancel(t *rapid.T) {
	got, err := db.CancelRequest(context.Background(), m.pool, db.Cancellation{
		RequestID: m.request.ID, Client: m.request.Client, At: morning.Add(time.Hour), Error: jsontext.Value(`{"code":"cancelled"}`),
	})
	if want := m.want.cancel(); err != nil || got.Work != want.Work || (got.JobID != 0) != (want.JobID != 0) {
		t.Fatalf("cancel: got %+v, %v, want %+v", got, err, want)
	}
}

// stranger is another client, who changes nothing.
func (m *machine) stranger(t *rapid.T) {
	stopped, err := db.CancelRequest(context.Background(), m.pool, db.Cancellation{RequestID: m.request.ID, Client: "mallory", At: morning})
	ids, redeliverErr := db.RedeliverCallbacks(context.Background(), m.pool, callbackJobs,
		[]db.Redelivery{{RequestID: m.request.ID, Client: "mallory", At: morning}})
	if err != nil || redeliverErr != nil || stopped != (db.Stopped{}) || len(ids) != 0 {
		t.Fatalf("another client: got %+v, %v, %v, %v, want nothing done", stopped, ids, err, redeliverErr)
	}
}

// check compares the database with the model after each step.
func (m *machine) check(t *rapid.T) {
	const sql = `
		SELECT status, callback_state,
		       (SELECT count(*) FROM callback_attempts WHERE request_id = id),
		       (SELECT count(*) FROM river_job WHERE kind = 'callback' AND args ->> 'request_id' = requests.id::text),
		       EXISTS (SELECT FROM dead_letters WHERE request_id = id),
		       coalesce((SELECT string_agg(ending, ' ' ORDER BY ending) FROM unsuccessful_requests WHERE request_id = id), '')
		FROM requests
		WHERE id = $1`
	var got life
	err := m.pool.QueryRow(context.Background(), sql, m.request.ID).Scan(&got.status, &got.callback, &got.attempts, &got.jobs, &got.letter, &got.endings)
	if err != nil || got != m.want {
		t.Fatalf("got %+v, %v, want %+v", got, err, m.want)
	}
	ids := []uuid.UUID{m.request.ID}
	works, err := db.LoadWork(context.Background(), m.pool, ids)
	if want := m.want.status == db.Accepted; err != nil || (len(works) == 1) != want {
		t.Fatalf("work to do: got %v, %v, want %v", works, err, want)
	}
	callbacks, err := db.LoadCallbacks(context.Background(), m.pool, ids)
	if want := m.want.callback == db.CallbackPending; err != nil || (len(callbacks) == 1) != want {
		t.Fatalf("callback to send: got %v, %v, want %v", callbacks, err, want)
	}
}

func TestModel(t *testing.T) {
	t.Parallel()
	pool := dbtest.NewPool(t)
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{pool: pool, request: asyncRequest(), want: life{status: db.Accepted, callback: db.CallbackWaiting}}
		m.request.ExpiresAt = morning.Add(time.Second)
		if _, err := db.InsertRequests(context.Background(), pool, workJobs, []db.Request{m.request}); err != nil {
			t.Fatal(err)
		}
		t.Repeat(map[string]func(*rapid.T){
			"": m.check, "finish": m.finish, "settle": m.settle, "redeliver": m.redeliver, "cancel": m.cancel, "stranger": m.stranger,
		})
	})
}
