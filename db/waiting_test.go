package db_test

import (
	"fmt"
	"testing"
	"time"

	"ringback/db"
	"ringback/db/dbtest"
)

// plantWaiting inserts a job of the queue callback for each due time from now, in seconds.
func plantWaiting(t *testing.T, q db.Querier, state string, priority, from, to int) {
	t.Helper()
	const sql = `
		INSERT INTO river_job (kind, queue, args, max_attempts, state, priority, scheduled_at)
		SELECT 'callback', 'callback', '{}', 1000, $1::text::river_job_state, $2, now() + n / 2 * interval '1 second'
		FROM generate_series($3::integer, $4::integer) AS n`
	if _, err := q.Exec(t.Context(), sql, state, priority, from, to); err != nil {
		t.Fatal(err)
	}
}

// listWaiting goes through all waiting callbacks, and counts each job.
func listWaiting(t *testing.T, q db.Querier, most int) map[int64]int {
	t.Helper()
	found := map[int64]int{}
	for _, from := range db.WaitingFrom("callback", time.Now()) {
		for more := true; more; {
			waiting, next, err := db.ListWaiting(t.Context(), q, from, most)
			if err != nil {
				t.Fatal(err)
			}
			for _, callback := range waiting {
				found[callback.JobID]++
			}
			from, more = next, len(waiting) == most
		}
	}
	return found
}

func TestWaitingCallbacks(t *testing.T) {
	t.Parallel()

	t.Run("AreListedOnceAndMadeDue", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		plantWaiting(t, pool, "scheduled", 1, 100, 120) // pairs that are due at the same time
		plantWaiting(t, pool, "retryable", 1, 100, 110)
		plantWaiting(t, pool, "available", 4, 100, 110)
		plantWaiting(t, pool, "available", 1, -10, 0) // due
		plantWaiting(t, pool, "running", 1, 100, 110)
		plantWaiting(t, pool, "pending", 1, 100, 110)
		found := listWaiting(t, pool, 3)
		if len(found) != 21+11+11 {
			t.Errorf("got %d jobs, want 43", len(found))
		}
		var ids []int64
		for id, times := range found {
			if ids = append(ids, id); times != 1 {
				t.Errorf("job %d was listed %d times", id, times)
			}
		}
		if due, err := db.AnyDue(t.Context(), pool, ids); due || err != nil {
			t.Errorf("before: got %v, %v, want none due", due, err)
		}
		if err := db.MakeDue(t.Context(), pool, ids); err != nil {
			t.Fatal(err)
		}
		if left := listWaiting(t, pool, 100); len(left) != 0 {
			t.Errorf("got %d jobs that still wait, want none", len(left))
		}
		if due, err := db.AnyDue(t.Context(), pool, ids); !due || err != nil {
			t.Errorf("after: got %v, %v, want some due", due, err)
		}
	})

	t.Run("AreFoundWithoutReadingTheOthers", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		insertJobs(t, pool, "callback", "completed", 50_000)
		plantWaiting(t, pool, "scheduled", 1, 100, 30_000)
		if _, err := pool.Exec(t.Context(), "VACUUM ANALYZE river_job"); err != nil {
			t.Fatal(err)
		}
		conn := connect(t, pool.Config().ConnString())
		seen := &recorder{Querier: conn}
		from := db.WaitingPosition{Queue: "callback", State: "scheduled", Priority: 1, DueAt: time.Now().Add(3 * time.Hour)}
		waiting, _, err := db.ListWaiting(t.Context(), seen, from, 100)
		if err != nil || len(waiting) != 100 {
			t.Fatalf("got %d, %v, want a whole batch", len(waiting), err)
		}
		if _, err := conn.Exec(t.Context(), "SET plan_cache_mode = force_generic_plan; PREPARE waiting AS "+seen.sql); err != nil {
			t.Fatal(err)
		}
		execute := fmt.Sprintf("EXECUTE waiting ('scheduled', 'callback', 1, '%s', 0, 100)", from.DueAt.Format(time.RFC3339Nano))
		if blocks := blocksRead(t, conn, execute); blocks > 500 { // of some 1,700
			t.Errorf("%d blocks were read, want few", blocks)
		}
	})
}
