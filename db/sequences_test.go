package db_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
	"ringback/db/dbtest"
)

func TestCatchUpSequences(t *testing.T) {
	t.Parallel()
	next := func(pool *pgxpool.Pool, sequence string) int64 {
		return valueOf[int64](t, pool, "SELECT nextval($1::text::regclass)", sequence)
	}
	catchUp := func(pool *pgxpool.Pool, want int) {
		t.Helper()
		if moved, err := db.CatchUpSequences(t.Context(), pool); err != nil || len(moved) != want {
			t.Errorf("got %+v, %v, want %d sequences moved", moved, err, want)
		}
	}

	pool := dbtest.NewPool(t)
	catchUp(pool, 0) // nothing is taken
	const taken = `
		INSERT INTO river_job (id, args, kind, max_attempts) VALUES (1, '{}', 'k', 1), (700, '{}', 'k', 1);
		INSERT INTO ordered_requests (client, ordering_key, seq, request_id) VALUES ('c', 'k', 800, gen_random_uuid())`
	if _, err := pool.Exec(t.Context(), taken); err != nil {
		t.Fatal(err)
	}
	catchUp(pool, 2)
	if job, request := next(pool, "river_job_id_seq"), next(pool, "requests_seq_seq"); job != 701 || request != 801 {
		t.Errorf("next: got %d and %d, want 701 and 801", job, request)
	}
	catchUp(pool, 0)
}
