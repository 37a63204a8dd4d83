package main

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"ringback/db/dbtest"
)

// TestGrowMakesWholeRequests compares the copies of a delivered request with the
// original.
func TestGrowMakesWholeRequests(t *testing.T) {
	t.Parallel()
	d := database{Name: "test", URL: dbtest.New(t)}
	plantByHand(t, d)
	const copies = 20
	if err := grow(t.Context(), d, copies); err != nil {
		t.Fatal(err)
	}
	const sql = `
		SELECT count(DISTINCT request_id)
		FROM request_trace
		WHERE callback_state = 'delivered'
		  AND outcome = 'delivered'
		  AND work_job_state = 'completed'
		  AND callback_job_state = 'completed'
		  AND settled_at <= now()`
	const unready = "SELECT count(*) FROM pg_index WHERE NOT (indisready AND indisvalid)"
	var whole, left int
	err := d.Connect(t.Context(), func(conn *pgx.Conn) error {
		return errors.Join(conn.QueryRow(t.Context(), sql).Scan(&whole), conn.QueryRow(t.Context(), unready).Scan(&left))
	})
	if err != nil || whole != copies+1 || left > 0 {
		t.Errorf("%d requests are whole (%v), and %d indexes are not ready, want %d and none", whole, err, left, copies+1)
	}
}

// plantByHand stores a request that was delivered, with its attempt and its jobs.
func plantByHand(t *testing.T, d database) {
	t.Helper()
	id := uuid.Must(uuid.NewV7())
	err := d.Connect(t.Context(), func(conn *pgx.Conn) error {
		for _, sql := range []string{
			`INSERT INTO river_job (id, kind, state, args, max_attempts, finalized_at)
			 SELECT n, 'work', 'completed', jsonb_build_object('request_id', $1::uuid), 1, now()
			 FROM generate_series(1, 2) AS n`,
			`INSERT INTO requests (id, mode, client, status, input, result, callback_url, callback_state,
			                       work_job_id, callback_job_id, accepted_at, finished_at, settled_at)
			 VALUES ($1, 'async', 'local', 'succeeded', '{}', '{}', 'http://127.0.0.1/', 'delivered', 1, 2, now(), now(), now())`,
			`INSERT INTO callback_attempts (request_id, attempt, started_at, ended_at, outcome, http_status)
			 VALUES ($1, 1, now(), now(), 'delivered', 204)`,
		} {
			if _, err := conn.Exec(t.Context(), sql, id); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRiverAlone(t *testing.T) {
	t.Parallel()
	url := dbtest.NewEmpty(t)
	b := &bench{options: options{plan: plan{saturated: time.Second}}}
	for rate := 0.0; rate == 0; { // a busy machine may get no job done in a second
		if err := b.on(t.Context(), func(s *measurement) { rate = s.workEmptyJobs(url) }); err != nil {
			t.Fatal(err)
		}
	}
}
