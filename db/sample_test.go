package db_test

import (
	"maps"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"ringback/db"
	"ringback/db/dbtest"
)

func TestTakeSample(t *testing.T) {
	t.Parallel()
	take := func(t *testing.T, q db.Querier) db.Sample {
		t.Helper()
		sample, err := db.TakeSample(t.Context(), q, []string{"work", "callback"}, "callback")
		if err != nil {
			t.Fatal(err)
		}
		return sample
	}

	t.Run("IsZeroWhereThereIsNothing", func(t *testing.T) {
		t.Parallel()
		got := take(t, dbtest.NewPool(t))
		if len(got.Jobs) != len(db.LiveStates) || got.Jobs["available"] != 0 || got.Unfinished != 0 || got.DueCallback != 0 || got.DeadLetters != 0 || got.Ended != 0 {
			t.Errorf("got %+v, want zeros", got)
		}
	})

	t.Run("TellsWhatThereIsToDo", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		insertAccepted(t, pool, "alice", "https://a.example.com/", "available", 3)
		insertAccepted(t, pool, "alice", "https://a.example.com/", "running", 2)
		insertJobs(t, pool, "callback", "retryable", 4)
		insertJobs(t, pool, "callback", "pending", 5)
		insertJobs(t, pool, "callback", "completed", 6)
		plantDead(t, pool, 7, 100)
		plantRequests(t, pool, 1, "delivered", 31, 30)
		for _, sql := range []string{
			"UPDATE requests SET accepted_at = now() - interval '1 hour' WHERE id = (SELECT (args ->> 'request_id')::uuid FROM river_job WHERE state = 'available' ORDER BY id LIMIT 1)",
			"UPDATE river_job SET scheduled_at = now() + interval '1 hour' WHERE state = 'retryable' AND id <> (SELECT min(id) FROM river_job WHERE state = 'retryable')",
			"UPDATE river_job SET scheduled_at = now() - interval '2 hours' WHERE id = (SELECT min(id) FROM river_job WHERE state = 'retryable')",
			"UPDATE river_job SET scheduled_at = now() - interval '3 hours' WHERE state IN ('pending', 'completed')",
		} {
			execOn(t, pool, sql)
		}
		got := take(t, pool)
		want := map[string]int64{"available": 3, "running": 2, "retryable": 4, "pending": 5, "scheduled": 0}
		if !maps.Equal(got.Jobs, want) || got.DeadLetters != 7 {
			t.Errorf("got %v and %d dead letters, want %v and 7", got.Jobs, got.DeadLetters, want)
		}
		for name, age := range map[string]struct{ got, want time.Duration }{
			"unfinished": {got.Unfinished, time.Hour}, "due": {got.DueCallback, 2 * time.Hour}, "ended": {got.Ended, 30 * time.Hour},
		} {
			if age.got.Truncate(time.Hour) != age.want {
				t.Errorf("%s: got an age of %v, want %v", name, age.got, age.want)
			}
		}
	})

	t.Run("CountsARequestThatRunsLaterFromThen", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		insertAccepted(t, pool, "alice", "https://a.example.com/", "available", 3)
		for _, sql := range []string{
			"UPDATE requests SET accepted_at = now() - interval '9 hours', run_at = now() + interval '1 hour'",
			"UPDATE river_job SET scheduled_at = now() + interval '1 hour'",
		} {
			execOn(t, pool, sql)
		}
		if got := take(t, pool); got.Unfinished != 0 || got.Jobs["available"] != 3 {
			t.Errorf("before they are due: got %+v, want 3 jobs of no age", got)
		}
		const last = "(SELECT max(id) FROM river_job)" // the first still hides it by its id
		execOn(t, pool, "UPDATE requests SET run_at = now() - interval '2 hours' WHERE work_job_id = "+last)
		execOn(t, pool, "UPDATE river_job SET scheduled_at = now() - interval '1 minute' WHERE id = "+last)
		if got := take(t, pool); got.Unfinished.Truncate(time.Hour) != 2*time.Hour {
			t.Errorf("got an age of %v, want 2h, for which it has been due", got.Unfinished)
		}
	})

	t.Run("PassesOverJobsThatWereChangedByHand", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		insertAccepted(t, pool, "alice", "https://a.example.com/", "available", 3)
		execOn(t, pool, "UPDATE requests SET accepted_at = now() - interval '1 hour'")
		execOn(t, pool, `UPDATE river_job SET args = '{"request_id": "x"}' WHERE id = (SELECT min(id) FROM river_job)`)
		execOn(t, pool, `UPDATE river_job SET args = '[]' WHERE id = (SELECT max(id) FROM river_job)`)
		if got := take(t, pool); got.Jobs["available"] != 3 || got.Unfinished.Truncate(time.Hour) != time.Hour {
			t.Errorf("got %+v, want 3 jobs, the oldest of an hour", got)
		}
	})

	t.Run("ReadsNoTableFromItsStart", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		insertJobs(t, pool, "work", "completed", 20_000)
		insertAccepted(t, pool, "alice", "https://a.example.com/", "available", 100)
		plantRequests(t, pool, 5000, "delivered", 2, 1)
		execOn(t, pool, "ANALYZE")
		inTx(t, pool, func(tx pgx.Tx) error {
			take(t, tx)
			return wantNoSequentialScan(t.Context(), t, tx)
		})
	})
}
