package db_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"ringback/db"
	"ringback/db/dbtest"
)

func TestCountUnfinished(t *testing.T) {
	t.Parallel()

	t.Run("CountsTheUnfinishedOfTheQueues", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		// A different number of each, so that a sum tells which were counted. Pending jobs wait
		// in the order of their key.
		for state, count := range map[string]int{
			"available": 1, "running": 2, "retryable": 4, "scheduled": 8, "pending": 16, "completed": 200, "cancelled": 400, "discarded": 800,
		} {
			for queue, times := range map[string]int{"work": 1, "callback": 2, "other": 3} {
				insertJobs(t, pool, queue, state, count*times)
			}
		}
		for _, test := range []struct {
			queues []string
			most   int64
			want   int64
		}{
			{[]string{"work"}, 1000, 15},
			{[]string{"callback"}, 1000, 30},
			{[]string{"work", "callback"}, 1000, 45},
			{[]string{"nobody's"}, 1000, 0},
			{[]string{"work", "callback"}, 45, 45},
			{[]string{"work", "callback"}, 44, 44},
			{[]string{"work", "callback"}, 1, 1},
		} {
			got, err := db.CountUnfinished(t.Context(), pool, test.queues, time.Minute, test.most)
			if err != nil || got != test.want {
				t.Errorf("in %q, at most %d: got %d, %v, want %d", test.queues, test.most, got, err, test.want)
			}
		}
	})

	t.Run("LeavesOutAndDoesNotReadWhatIsDueLater", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		for state, count := range map[string]int{"available": 20_000, "retryable": 20_000, "scheduled": 20_000} {
			insertJobs(t, pool, "callback", state, count)
		}
		if _, err := pool.Exec(t.Context(), "UPDATE river_job SET scheduled_at = now() + interval '2 minutes'"); err != nil {
			t.Fatal(err)
		}
		insertJobs(t, pool, "callback", "retryable", 3)
		if _, err := pool.Exec(t.Context(), "VACUUM river_job"); err != nil { // the index entries before the update, that is
			t.Fatal(err)
		}
		conn := connect(t, pool.Config().ConnString())
		seen := &recorder{Querier: conn}
		for within, want := range map[time.Duration]int64{time.Minute: 3, 3 * time.Minute: 60_003} {
			if got, err := db.CountUnfinished(t.Context(), seen, []string{"work", "callback"}, within, 100_000); err != nil || got != want {
				t.Fatalf("due within %v: got %d, %v, want %d", within, got, err, want)
			}
		}
		if _, err := conn.Exec(t.Context(), "SET plan_cache_mode = force_generic_plan; PREPARE unfinished AS "+seen.sql); err != nil {
			t.Fatal(err)
		}
		if blocks := blocksRead(t, conn, "EXECUTE unfinished ('{work,callback}', '1 minute', 100000)"); blocks > 250 { // of some 700 that the index has
			t.Errorf("%d blocks were read, want few", blocks)
		}
	})

	// With many ended jobs reading the whole table is wrong, with any statistics and at any
	// time of planning.
	t.Run("NeverReadsTheWholeTable", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		if _, err := pool.Exec(t.Context(), "ALTER TABLE river_job SET (autovacuum_enabled = false)"); err != nil {
			t.Fatal(err)
		}
		insertJobs(t, pool, "work", "completed", 50_000)
		insertJobs(t, pool, "work", "available", 10)
		conn := connect(t, pool.Config().ConnString())
		seen := &recorder{Querier: conn}
		if got, err := db.CountUnfinished(t.Context(), seen, []string{"work", "callback"}, time.Minute, 100_000); err != nil || got != 10 {
			t.Fatalf("got %d, %v, want 10", got, err)
		}
		if _, err := conn.Exec(t.Context(), "PREPARE unfinished AS "+seen.sql); err != nil {
			t.Fatal(err)
		}
		for _, statistics := range []string{"SELECT", "ANALYZE river_job"} {
			for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
				for _, most := range []int{1, 100, 100_000, 10_000_000} {
					if _, err := conn.Exec(t.Context(), statistics+"; SET plan_cache_mode = "+mode); err != nil {
						t.Fatal(err)
					}
					plan := explain(t, conn, fmt.Sprintf("EXECUTE unfinished ('{work,callback}', '1 minute', %d)", most))
					if strings.Contains(plan, "Seq Scan on river_job") || removedByFilter(t, plan) > 100 {
						t.Errorf("after %s, with %s, at most %d:\n%s", statistics, mode, most, plan)
					}
				}
			}
		}
	})
}

// blocksRead is how many blocks a statement looks at.
func blocksRead(t *testing.T, conn *pgx.Conn, statement string) int {
	t.Helper()
	var plans []struct {
		Plan struct {
			Hit  int `json:"Shared Hit Blocks"`
			Read int `json:"Shared Read Blocks"`
		}
	}
	if err := conn.QueryRow(t.Context(), "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "+statement).Scan(&plans); err != nil {
		t.Fatal(err)
	}
	return plans[0].Plan.Hit + plans[0].Plan.Read
}

// insertJobs inserts jobs of a queue that are in the given state.
func insertJobs(t *testing.T, q db.Querier, queue, state string, count int) {
	t.Helper()
	const sql = `
		INSERT INTO river_job (kind, queue, args, max_attempts, state, finalized_at)
		SELECT 'work', $1, '{}', 1000, $2::river_job_state,
		       CASE WHEN $2::text IN ('completed', 'cancelled', 'discarded') THEN now() END
		FROM generate_series(1, $3)`
	if _, err := q.Exec(t.Context(), sql, queue, state, count); err != nil {
		t.Fatal(err)
	}
}

func (r *recorder) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	r.sql = sql
	return r.Querier.QueryRow(ctx, sql, args...)
}
