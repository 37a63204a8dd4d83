package db_test

import (
	"fmt"
	"maps"
	"math"
	"strings"
	"testing"

	"ringback/db"
	"ringback/db/dbtest"
)

// insertAccepted inserts async requests of a client, with their work jobs in the
// given state.
func insertAccepted(t *testing.T, q db.Querier, client, callbackURL, state string, count int) {
	t.Helper()
	const sql = `
		WITH request AS (
			INSERT INTO requests (id, mode, client, status, input, callback_url, callback_state, work_job_id, accepted_at)
			SELECT gen_random_uuid(), 'async', $1, 'accepted', '{}', $2, 'waiting', number, now()
			FROM generate_series(1, $4) AS number
			RETURNING id
		)
		INSERT INTO river_job (kind, queue, args, max_attempts, state, finalized_at)
		SELECT 'work', 'work', jsonb_build_object('request_id', id), 1000, $3::river_job_state,
		       CASE WHEN $3::text IN ('completed', 'cancelled', 'discarded') THEN now() END
		FROM request`
	if _, err := q.Exec(t.Context(), sql, client, callbackURL, state, count); err != nil {
		t.Fatal(err)
	}
}

func TestCountByDestination(t *testing.T) {
	t.Parallel()
	queues := []string{"work", "callback"}

	t.Run("CountsTheUnfinishedOfEachClientAndHost", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		// A different number of each, so that a sum tells which were counted.
		for state, count := range map[string]int{
			"available": 1, "pending": 2, "running": 4, "retryable": 8, "scheduled": 16, "completed": 100, "cancelled": 200, "discarded": 400,
		} {
			insertAccepted(t, pool, "alice", "https://a.example:8443/hook?a=//b/c", state, count)
		}
		insertAccepted(t, pool, "alice", "https://b.example/", "available", 5)
		insertAccepted(t, pool, "alice", "http://[::1]:9999/hook", "available", 6)
		insertAccepted(t, pool, "bob", "https://b.example/other", "available", 7)
		got, err := db.CountByDestination(t.Context(), pool, queues, 1000)
		want := map[db.Destination]int64{
			{Client: "alice", Host: "a.example:8443"}: 31, {Client: "alice", Host: "b.example"}: 5,
			{Client: "alice", Host: "[::1]:9999"}: 6, {Client: "bob", Host: "b.example"}: 7,
		}
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
	})

	t.Run("CountsWhatIsDueLaterToo", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		insertAccepted(t, pool, "alice", "https://a.example/", "retryable", 3)
		if _, err := pool.Exec(t.Context(), "UPDATE river_job SET scheduled_at = now() + interval '1 day'"); err != nil {
			t.Fatal(err)
		}
		if got, err := db.CountByDestination(t.Context(), pool, queues, 1000); err != nil || sum(got) != 3 {
			t.Errorf("got %v, %v, want 3", got, err)
		}
	})

	t.Run("LetsOneJobStandForSeveral", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		insertAccepted(t, pool, "alice", "https://a.example/", "available", 4000)
		insertAccepted(t, pool, "bob", "https://a.example/", "available", 400)
		const sample, share = 300, 16 // 4,400 are more than eight times 300
		got, err := db.CountByDestination(t.Context(), pool, queues, sample)
		if err != nil {
			t.Fatal(err)
		}
		for client, want := range map[string]int64{"alice": 4000, "bob": 400} {
			// Four standard deviations: a draw in ten thousand is farther off.
			count, off := got[db.Destination{Client: client, Host: "a.example"}], int64(4*math.Sqrt(float64(want*share)))
			if count < want-off || count > want+off || count%share != 0 {
				t.Errorf("%s: got %d, want %d, give or take %d, and a multiple of %d", client, count, want, off, share)
			}
		}
	})

	t.Run("SkipsJobsWithoutARequest", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		insertJobs(t, pool, "work", "available", 3) // of no request
		if got, err := db.CountByDestination(t.Context(), pool, queues, 1000); err != nil || len(got) != 0 {
			t.Errorf("got %v, %v, want none", got, err)
		}
	})

	// No table is read from its start, with any statistics.
	t.Run("NeverReadsAWholeTable", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		if _, err := pool.Exec(t.Context(), "ALTER TABLE river_job SET (autovacuum_enabled = false); ALTER TABLE requests SET (autovacuum_enabled = false)"); err != nil {
			t.Fatal(err)
		}
		insertAccepted(t, pool, "alice", "https://a.example/", "completed", 20_000)
		insertAccepted(t, pool, "alice", "https://a.example/", "available", 10)
		conn := connect(t, pool.Config().ConnString())
		seen := &recorder{Querier: conn}
		if got, err := db.CountByDestination(t.Context(), seen, queues, 1000); err != nil || sum(got) != 10 {
			t.Fatalf("got %v, %v, want 10", got, err)
		}
		if _, err := conn.Exec(t.Context(), "PREPARE destinations AS "+seen.sql); err != nil {
			t.Fatal(err)
		}
		for _, statistics := range []string{"SELECT", "ANALYZE river_job, requests"} {
			for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
				for _, sample := range []int{5, 20_000} {
					if _, err := conn.Exec(t.Context(), statistics+"; SET plan_cache_mode = "+mode); err != nil {
						t.Fatal(err)
					}
					plan := explain(t, conn, fmt.Sprintf("EXECUTE destinations ('{work,callback}', %d)", sample))
					if strings.Contains(plan, "Seq Scan on") || removedByFilter(t, plan) > 100 {
						t.Errorf("after %s, with %s, a sample of %d:\n%s", statistics, mode, sample, plan)
					}
				}
			}
		}
	})
}

func sum(counts map[db.Destination]int64) (total int64) {
	for _, count := range counts {
		total += count
	}
	return total
}
