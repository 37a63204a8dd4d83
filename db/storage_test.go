package db_test

import (
	"maps"
	"math"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
	"ringback/db/dbtest"
)

// plantKept stores requests of a client with inputs and results of so many bytes.
func plantKept(t *testing.T, pool *pgxpool.Pool, client string, count, input, result int) {
	t.Helper()
	const sql = `
		INSERT INTO requests (id, mode, client, status, input, result, accepted_at, finished_at)
		SELECT gen_random_uuid(), 'sync', $1, 'succeeded', to_json(repeat('x', $3 - 2)), to_json(repeat('y', $4 - 2)), now(), now()
		FROM generate_series(1, $2)`
	if _, err := pool.Exec(t.Context(), sql, client, count, input, result); err != nil {
		t.Fatal(err)
	}
}

func sampleKept(t *testing.T, pool *pgxpool.Pool) map[string]db.Kept {
	t.Helper()
	kept, err := db.SampleKept(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	return kept
}

func TestSampleKept(t *testing.T) {
	t.Parallel()

	t.Run("IsExactForTablesOfFewPages", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		if got := sampleKept(t, pool); len(got) != 0 {
			t.Errorf("of nothing: got %v", got)
		}
		plantKept(t, pool, "alice", 10, 50, 30)
		plantKept(t, pool, "bob", 3, 100, 20)
		const more = `
			INSERT INTO callback_attempts (request_id, attempt, started_at, ended_at, outcome)
			SELECT id, number, now(), now(), 'timeout' FROM requests, generate_series(1, 2) AS number WHERE client = 'bob';
			INSERT INTO dead_letters (client, request_id, callback_host, accepted_at)
			SELECT 'carol', gen_random_uuid(), 'h', now() FROM generate_series(1, 7)`
		if _, err := pool.Exec(t.Context(), more); err != nil {
			t.Fatal(err)
		}
		const header = 2 // of two short values
		want := map[string]db.Kept{
			"alice": {Bytes: 10 * (db.RequestBytes + 80 + header)}, "bob": {Bytes: 3*(db.RequestBytes+120+header) + 6*db.AttemptBytes},
			"carol": {DeadLetters: 7},
		}
		if got := sampleKept(t, pool); !maps.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})

	t.Run("CountsLargeValuesAsTheyAreStored", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		const sql = `
			INSERT INTO requests (id, mode, client, status, input, result, accepted_at, finished_at)
			SELECT gen_random_uuid(), 'sync', 'alice', 'succeeded', to_json(string_agg(md5(number::text), '')), '{}', now(), now()
			FROM generate_series(1, 2000) AS number` // 64,000 bytes that compress badly
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
		if got := sampleKept(t, pool)["alice"].Bytes; got < 60_000 || got > 70_000 {
			t.Errorf("got %d bytes, want about 66,000", got)
		}
	})

	t.Run("CountsWhatCallersAndTheWorkAdd", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		const sql = `
			INSERT INTO requests (id, mode, client, status, input, error, ordering_key, callback_url, callback_headers, callback_state, work_job_id, callback_job_id, accepted_at, finished_at)
			VALUES (gen_random_uuid(), 'async', 'alice', 'failed', '1', '{"code":"x","message":"y"}', 'ordered', 'http://' || repeat('u', 13), repeat('h', 100), 'pending', 1, 2, now(), now())`
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
		const header = 5 // of five short values
		if got := sampleKept(t, pool)["alice"].Bytes; got != db.RequestBytes+1+26+7+20+100+header {
			t.Errorf("got %d bytes, want its error, ordering key, URL and headers counted", got)
		}
	})

	t.Run("EstimatesFromAPartOfALargeTable", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		const pages, sampled = 4000, 2000 // rows fill 30 % of a page, so each of these has a page of its own
		plantKept(t, pool, "alice", pages/2, 900, 900)
		plantKept(t, pool, "bob", pages/2, 900, 900)
		conn := connect(t, pool.Config().ConnString())
		seen := &recorder{Querier: conn}
		got, err := db.SampleKept(t.Context(), seen)
		if err != nil {
			t.Fatal(err)
		}
		for client, kept := range got {
			// Six standard deviations of drawing every other page.
			want := float64(pages/2) * (db.RequestBytes + 1800)
			if off := math.Abs(float64(kept.Bytes)-want) / want; off > 6/math.Sqrt(pages/2) {
				t.Errorf("%s: got %d bytes, want %.0f, give or take a seventh", client, kept.Bytes, want)
			}
		}
		if blocks := blocksRead(t, conn, seen.sql); blocks > sampled*5/4 {
			t.Errorf("%d blocks were read, want about %d", blocks, sampled)
		}
	})
}
