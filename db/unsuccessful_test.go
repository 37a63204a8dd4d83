package db_test

import (
	"context"
	"io/fs"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
	"ringback/db/dbtest"
)

// noted are the endings that are known of each request, by its id.
func noted(t *testing.T, pool *pgxpool.Pool) map[uuid.UUID]string {
	t.Helper()
	return endingsBy(t, pool, `
		SELECT request_id, string_agg(client || ' ' || mode || ' ' || ending, ', ' ORDER BY ending)
		FROM unsuccessful_requests
		GROUP BY request_id`)
}

// toBeNoted are the requests that should be noted.
func toBeNoted(t *testing.T, pool *pgxpool.Pool) map[uuid.UUID]string {
	t.Helper()
	return endingsBy(t, pool, `
		SELECT id, concat_ws(', ',
			CASE WHEN callback_state = 'cancelled' THEN client || ' ' || mode || ' callback_cancelled' END,
			CASE WHEN status IN ('failed', 'expired', 'cancelled') THEN client || ' ' || mode || ' ' || status END)
		FROM requests
		WHERE status IN ('failed', 'expired', 'cancelled')
		   OR callback_state = 'cancelled'`)
}

func endingsBy(t *testing.T, pool *pgxpool.Pool, sql string) map[uuid.UUID]string {
	t.Helper()
	rows, err := pool.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	endings := map[uuid.UUID]string{}
	var id uuid.UUID
	var ending string
	if _, err := pgx.ForEachRow(rows, []any{&id, &ending}, func() error { endings[id] = ending; return nil }); err != nil {
		t.Fatal(err)
	}
	return endings
}

func search(t *testing.T, pool *pgxpool.Pool) (searched, done bool) {
	t.Helper()
	err := db.InTx(t.Context(), pool, func(tx pgx.Tx) (err error) {
		searched, done, err = db.SearchUnsuccessful(t.Context(), tx)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return searched, done
}

// plantOld writes requests as if they had ended before anything was noted.
func plantOld(t *testing.T, pool *pgxpool.Pool, last int) {
	t.Helper()
	exec := func(sql string) {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec("ALTER TABLE requests DISABLE TRIGGER USER")
	for i, k := range kinds() {
		plantKind(t, pool, "alice", k, i+1, last, len(kinds()))
	}
	exec("ALTER TABLE requests ENABLE TRIGGER USER")
	exec("UPDATE unsuccessful_search SET done = false")
}

func TestUnsuccessfulRequestsAreNoted(t *testing.T) {
	t.Parallel()

	t.Run("AsTheyAreRecorded", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		var all []db.Request
		for _, status := range []db.Status{db.Succeeded, db.Failed, db.Cancelled} {
			request := db.Request{
				ID: uuid.Must(uuid.NewV7()), Mode: db.Sync, Client: "alice", Status: status, Input: jsontext.Value(`1`),
				AcceptedAt: morning, FinishedAt: morning,
			}
			if status == db.Succeeded {
				request.Result = jsontext.Value(`1`)
			} else {
				request.Error = jsontext.Value(`1`)
			}
			all = append(all, request)
		}
		if _, err := db.InsertRequests(t.Context(), pool, workJobs, all); err != nil {
			t.Fatal(err)
		}
		got := noted(t, pool)
		if len(got) != 2 || got[all[1].ID] != "alice sync failed" || got[all[2].ID] != "alice sync cancelled" {
			t.Errorf("got %v, want the failed and the cancelled one", got)
		}
	})

	t.Run("UntilTheyAreRemoved", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		for i, k := range kinds() {
			plantKind(t, pool, "alice", k, i+1, i+1, 1)
		}
		if _, err := pool.Exec(t.Context(), "UPDATE requests SET finished_at = finished_at - '1 day'::interval, settled_at = settled_at - '1 day'::interval"); err != nil {
			t.Fatal(err)
		}
		swept := remove(t, pool, uuid.Nil, time.Now().Add(-time.Hour))
		got, want := noted(t, pool), toBeNoted(t, pool)
		if swept.Removed == 0 || len(want) == 0 || !equal(got, want) {
			t.Errorf("%d removed: got %v, want those that are left, %v", swept.Removed, got, want)
		}
	})
}

func equal(a, b map[uuid.UUID]string) bool {
	for id, ending := range a {
		if b[id] != ending {
			return false
		}
	}
	return len(a) == len(b)
}

// listingMigration is the version that makes unsuccessful_requests.
const listingMigration = 18

// migrateBelow undoes a version, and all above it.
func migrateBelow(t *testing.T, url string, version uint) {
	t.Helper()
	files, err := fs.Glob(db.Migrations(), "*.up.sql")
	if err != nil {
		t.Fatal(err)
	}
	var below uint
	for _, file := range files {
		if n, err := strconv.ParseUint(file[:6], 10, 32); err == nil && uint(n) < version {
			below = max(below, uint(n))
		}
	}
	if err := db.MigrateTo(t.Context(), url, below); err != nil {
		t.Fatal(err)
	}
}

func TestSearchUnsuccessful(t *testing.T) {
	t.Parallel()

	t.Run("FindsAllThatEndedBeforeABatchAtATime", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		plantOld(t, pool, db.SearchedAtOnce+100)
		for batch, wantDone := range []bool{false, true, true} {
			if searched, done := search(t, pool); !searched || done != wantDone {
				t.Errorf("batch %d: got searched %v, done %v, want it done: %v", batch, searched, done, wantDone)
			}
		}
		if got, want := noted(t, pool), toBeNoted(t, pool); !equal(got, want) || len(got) < 600 {
			t.Errorf("got %d of them, want %d", len(got), len(want))
		}
	})

	t.Run("IsDoneByOneProcessAtATime", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		plantOld(t, pool, 20)
		err := db.InTx(t.Context(), pool, func(tx pgx.Tx) error {
			if searched, done, err := db.SearchUnsuccessful(t.Context(), tx); !searched || !done || err != nil {
				t.Errorf("first: got %v, %v, %v, want it searched and done", searched, done, err)
			}
			if searched, done := search(t, pool); searched || done {
				t.Errorf("second: got %v, %v, want nothing", searched, done)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})

	t.Run("WaitsForNobodyWhoRemovesRequests", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		plantOld(t, pool, 40)
		err := db.InTx(t.Context(), pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), "DELETE FROM requests WHERE id < $1", db.FirstID(time.Unix(20, 0))); err != nil {
				return err
			}
			if searched, done := search(t, pool); !searched || !done {
				t.Errorf("got %v, %v, want it searched and done", searched, done)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := noted(t, pool), toBeNoted(t, pool); !equal(got, want) || len(got) == 0 {
			t.Errorf("got %v, want those that are left, %v", got, want)
		}
	})

	t.Run("IsDueWhereThereWereRequestsBeforeTheMigration", func(t *testing.T) {
		t.Parallel()
		url := dbtest.New(t)
		pool := dbtest.Pool(t, url)
		if known := valueOf[bool](t, pool, "SELECT done FROM unsuccessful_search"); !known {
			t.Error("where there is no request: it isn't done, want nothing to look for")
		}
		migrateBelow(t, url, listingMigration)
		pool.Reset() // plans of tables that are gone
		for i, k := range earlierKinds() {
			plantKind(t, pool, "alice", k, i+1, i+1, 1)
		}
		if err := db.Migrate(t.Context(), url); err != nil {
			t.Fatal(err)
		}
		// Requests that end from now on are noted at once, for either version of the program.
		const sql = `
			UPDATE requests
			SET status = 'failed', error = '1', finished_at = now(), callback_state = 'pending', callback_job_id = 1
			WHERE status = 'accepted'`
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
		if got := noted(t, pool); len(got) != 1 {
			t.Errorf("before the search: got %v, want what ended afterwards", got)
		}
		if searched, done := search(t, pool); !searched || !done {
			t.Errorf("got %v, %v, want it searched and done", searched, done)
		}
		if got, want := noted(t, pool), toBeNoted(t, pool); !equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})

	t.Run("HoldsUpNobodyWhoWritesWhileItsMigrationWaits", func(t *testing.T) {
		t.Parallel()
		url := dbtest.New(t)
		pool := dbtest.Pool(t, url)
		migrateBelow(t, url, listingMigration)
		pool.Reset()
		writer, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = writer.Rollback(context.WithoutCancel(t.Context())) }()
		if _, err := writer.Exec(t.Context(), "LOCK TABLE requests IN ROW EXCLUSIVE MODE"); err != nil { // as a write does
			t.Fatal(err)
		}
		migrated := make(chan error, 1)
		go func() { migrated <- db.MigrateTo(t.Context(), url, listingMigration) }()
		wait(t, pool, "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'requests'::regclass AND NOT granted)")
		for n := range 5 {
			plantKind(t, pool, "alice", earlierKinds()[n], n+1, n+1, 1)
		}
		select {
		case err := <-migrated:
			t.Errorf("it ended with %v, want it waiting for a transaction", err)
		default:
		}
		if err := writer.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-migrated; err != nil {
			t.Fatal(err)
		}
	})

	t.Run("ReadsNoTableFromItsStart", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		plantOld(t, pool, 6000)
		if _, err := pool.Exec(t.Context(), "ANALYZE"); err != nil {
			t.Fatal(err)
		}
		err := db.InTx(t.Context(), pool, func(tx pgx.Tx) error {
			if _, _, err := db.SearchUnsuccessful(t.Context(), tx); err != nil {
				return err
			}
			return wantNoSequentialScan(t.Context(), t, tx)
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// earlierKinds are the kinds of requests before sync requests could be stored before
// their work.
func earlierKinds() []kind {
	return slices.DeleteFunc(kinds(), func(k kind) bool { return k.mode == db.Sync && k.status == db.Accepted })
}
