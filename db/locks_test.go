package db_test

import (
	"context"
	"encoding/json"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
	"ringback/db/dbtest"
)

// session is a connection of a test's own.
func session(t *testing.T, pool *pgxpool.Pool) *pgx.Conn {
	t.Helper()
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	own := conn.Hijack()
	t.Cleanup(func() { _ = own.Close(context.Background()) })
	return own
}

// hold lets a process hold its lock.
func hold(t *testing.T, pool *pgxpool.Pool, process string) *pgx.Conn {
	t.Helper()
	conn := session(t, pool)
	if held, err := db.HoldLock(t.Context(), conn, process, conn.PgConn().PID()); !held || err != nil {
		t.Fatalf("HoldLock of %s: got %v, %v, want true", process, held, err)
	}
	return conn
}

// end ends a session and returns when its locks are free.
func end(t *testing.T, pool *pgxpool.Pool, conn *pgx.Conn) {
	t.Helper()
	backend := conn.PgConn().PID()
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for there := true; there; {
		if err := pool.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1)", backend).Scan(&there); err != nil {
			t.Fatal(err)
		}
	}
}

func exec(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func free(t *testing.T, q db.Querier, process string) (free []db.Process) {
	t.Helper()
	free, err := db.FreeLocks(t.Context(), q, process)
	if err != nil {
		t.Fatal(err)
	}
	return free
}

func TestHoldLock(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		prepare func(*testing.T, *pgxpool.Pool, *pgx.Conn)
		backend func(uint32) uint32
		want    bool
		unknown bool // its row in processes is gone, and so is what would be said of it
	}{
		{name: "IsHeld", want: true},
		{name: "IsHeldAgain", want: true, prepare: func(t *testing.T, _ *pgxpool.Pool, conn *pgx.Conn) {
			if held, err := db.HoldLock(t.Context(), conn, "this one", conn.PgConn().PID()); !held || err != nil {
				t.Fatalf("the first time: got %v, %v", held, err)
			}
		}},
		{name: "IsHeldByTheNextSession", want: true, prepare: func(t *testing.T, pool *pgxpool.Pool, _ *pgx.Conn) {
			end(t, pool, hold(t, pool, "this one"))
		}},
		{name: "IsNotWhereAnotherSessionHasIt", prepare: func(t *testing.T, pool *pgxpool.Pool, _ *pgx.Conn) {
			hold(t, pool, "this one")
		}},
		{name: "IsNotBehindAPooler", backend: func(real uint32) uint32 { return real | 1<<31 }},
		{name: "IsHeldByAProcessThatNobodyKnows", want: true, unknown: true, prepare: func(t *testing.T, pool *pgxpool.Pool, _ *pgx.Conn) {
			exec(t, pool, "DELETE FROM processes")
		}},
		// As in a database that takes the call and does nothing.
		{name: "IsNotWhereItIsNotListed", prepare: func(t *testing.T, pool *pgxpool.Pool, conn *pgx.Conn) {
			exec(t, pool, `
				CREATE SCHEMA silent
				CREATE VIEW pg_locks AS SELECT * FROM pg_catalog.pg_locks WHERE false`)
			if _, err := conn.Exec(t.Context(), "SET search_path = silent, public, pg_catalog"); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			pool := dbtest.NewPool(t)
			beatAt(t, pool, "this one", 0)
			beatAt(t, pool, "another", 0)
			hold(t, pool, "another")
			// An earlier message must go when it is no longer true.
			exec(t, pool, "INSERT INTO locked_processes (id, locked_at, database_started_at) VALUES ('this one', now() - interval '1 day', pg_postmaster_start_time())")
			conn := session(t, pool)
			if test.prepare != nil {
				test.prepare(t, pool, conn)
			}
			backend := conn.PgConn().PID()
			if test.backend != nil {
				backend = test.backend(backend)
			}
			held, err := db.HoldLock(t.Context(), conn, "this one", backend)
			if err != nil || held != test.want {
				t.Errorf("got %v, %v, want %v", held, err, test.want)
			}
			var rows, valid int
			const sql = `
				SELECT count(*), count(*) FILTER (WHERE locked_at > now() - interval '1 hour' AND database_started_at = pg_postmaster_start_time())
				FROM locked_processes
				WHERE id = 'this one'`
			if err := pool.QueryRow(t.Context(), sql).Scan(&rows, &valid); err != nil || rows != valid || (rows == 1) != (test.want && !test.unknown) {
				t.Errorf("what is said: got %d rows, %d of them valid, %v, want it: %v", rows, valid, err, test.want && !test.unknown)
			}
		})
	}
}

func TestFreeLocks(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		prepare func(*testing.T, *pgxpool.Pool)
		asks    string
		want    bool
	}{
		{"OfAnEndedSession", func(t *testing.T, pool *pgxpool.Pool) { end(t, pool, hold(t, pool, "this one")) }, "another", true},
		{"NotOfALivingSession", func(t *testing.T, pool *pgxpool.Pool) { hold(t, pool, "this one") }, "another", false},
		{"NotOfAProcessThatNeverHeldOne", func(*testing.T, *pgxpool.Pool) {}, "another", false},
		{"NotOfTheProcessThatAsks", func(t *testing.T, pool *pgxpool.Pool) { end(t, pool, hold(t, pool, "this one")) }, "this one", false},
		{"NotFromBeforeTheDatabaseWasStartedAgain", func(t *testing.T, pool *pgxpool.Pool) {
			end(t, pool, hold(t, pool, "this one"))
			exec(t, pool, "UPDATE locked_processes SET database_started_at = database_started_at - interval '1 day'")
		}, "another", false},
		{"NotOfAProcessThatHasLeft", func(t *testing.T, pool *pgxpool.Pool) {
			conn := hold(t, pool, "this one")
			if err := db.RemoveProcess(t.Context(), pool, "this one"); err != nil {
				t.Fatal(err)
			}
			end(t, pool, conn)
		}, "another", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			pool := dbtest.NewPool(t)
			beatAt(t, pool, "this one", 5)
			test.prepare(t, pool)
			got := free(t, pool, test.asks)
			if (len(got) == 1) != test.want || test.want && got[0].ID != "this one" {
				t.Errorf("got %v, want this one: %v", got, test.want)
			}
		})
	}

	// Processes that look must not keep a returning process from its lock.
	t.Run("AreLeftFree", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		beatAt(t, pool, "this one", 5)
		end(t, pool, hold(t, pool, "this one"))
		looking := session(t, pool)
		before := free(t, looking, "another")
		hold(t, pool, "this one")
		if after := free(t, looking, "another"); len(before) != 1 || len(after) != 0 {
			t.Errorf("got %v, and %v once it is held again, want one and none", before, after)
		}
	})

	t.Run("TellTheLastSignOfLife", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		beatAt(t, pool, "this one", 5)
		end(t, pool, hold(t, pool, "this one"))
		locked := free(t, pool, "another")
		if _, err := db.Beat(t.Context(), pool, "this one", false); err != nil {
			t.Fatal(err)
		}
		if beaten := free(t, pool, "another"); len(locked) != 1 || len(beaten) != 1 || !beaten[0].SeenAt.After(locked[0].SeenAt) {
			t.Errorf("got %v, and %v after a heartbeat, want it later", locked, beaten)
		}
	})
}

func TestReturnJobsOf(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		kind    string
		then    func(*testing.T, *pgxpool.Pool) // after it was seen
		state   string
		attempt int
	}{
		{"WorkKeepsItsAttempt", "work", nil, "available", 2},
		{"CallbackGetsItBack", "callback", nil, "available", 1},
		{"JobStaysWhereTheLockIsHeldAgain", "work", func(t *testing.T, pool *pgxpool.Pool) {
			conn := session(t, pool) // it has not said so yet
			if _, err := conn.Exec(t.Context(), "SELECT pg_advisory_lock(hashtextextended('ringback process this one', 0))"); err != nil {
				t.Fatal(err)
			}
		}, "running", 2},
		{"JobStaysAfterAHeartbeat", "work", func(t *testing.T, pool *pgxpool.Pool) {
			if _, err := db.Beat(t.Context(), pool, "this one", false); err != nil {
				t.Fatal(err)
			}
		}, "running", 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			pool := dbtest.NewPool(t)
			beatAt(t, pool, "this one", 1)
			beatAt(t, pool, "an earlier one", 1)
			end(t, pool, hold(t, pool, "this one"))
			end(t, pool, hold(t, pool, "an earlier one")) // which nobody says is gone
			id := runIn(t, pool, "this one", test.kind, 0)
			runIn(t, pool, "an earlier one", test.kind, 0)
			gone := slices.DeleteFunc(free(t, pool, "another"), func(p db.Process) bool { return p.ID != "this one" })
			if test.then != nil {
				test.then(t, pool)
			}
			want := test.state == "available"
			for round, want := range []bool{want, false} {
				if returned, err := db.ReturnJobsOf(t.Context(), pool, "callback", gone); err != nil || (returned == 1) != want {
					t.Errorf("returned in round %d: got %d, %v, want it: %v", round, returned, err, want)
				}
			}
			var state string
			var attempt, running int
			const sql = "SELECT state::text, attempt, (SELECT count(*) FROM river_job WHERE state = 'running') FROM river_job WHERE id = $1"
			if err := pool.QueryRow(t.Context(), sql, id).Scan(&state, &attempt, &running); err != nil || state != test.state || attempt != test.attempt {
				t.Errorf("got %s with %d attempts, %v, want %s with %d", state, attempt, err, test.state, test.attempt)
			}
			if running == 0 {
				t.Error("got the other's job back, too")
			}
			if still := len(free(t, pool, "another")) == 2; want && still {
				t.Error("its lock is still to be judged, want it to be done")
			}
		})
	}

	t.Run("TellsTheQueues", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		beatAt(t, pool, "this one", 1)
		end(t, pool, hold(t, pool, "this one"))
		for _, kind := range []string{"work", "callback", "work"} {
			runIn(t, pool, "this one", kind, 0)
		}
		listener := session(t, pool)
		if _, err := listener.Exec(t.Context(), `LISTEN "public.river_insert"`); err != nil {
			t.Fatal(err)
		}
		if returned, err := db.ReturnJobsOf(t.Context(), pool, "callback", free(t, pool, "another")); err != nil || returned != 3 {
			t.Fatalf("returned: got %d, %v, want 3", returned, err)
		}
		told := map[string]bool{}
		for len(told) < 2 {
			ctx, cancel := context.WithTimeout(t.Context(), dbtest.Patience)
			defer cancel()
			notification, err := listener.WaitForNotification(ctx)
			if err != nil {
				t.Fatalf("told of %v: %v", told, err)
			}
			var payload struct{ Queue string }
			if err := json.Unmarshal([]byte(notification.Payload), &payload); err != nil {
				t.Fatal(err)
			}
			told[payload.Queue] = true
		}
		if !told["work"] || !told["callback"] {
			t.Errorf("told of %v, want work and callback", told)
		}
	})

	t.Run("IsDoneOnceBySeveral", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		beatAt(t, pool, "this one", 1)
		end(t, pool, hold(t, pool, "this one"))
		for range 50 {
			runIn(t, pool, "this one", "callback", 0)
		}
		gone := free(t, pool, "another")
		results := make(chan int64)
		for range 4 {
			go func() {
				returned, err := db.ReturnJobsOf(t.Context(), pool, "callback", gone)
				if err != nil {
					t.Error(err)
				}
				results <- returned
			}()
		}
		if all := <-results + <-results + <-results + <-results; all != 50 {
			t.Errorf("returned in all: got %d, want 50", all)
		}
	})
}
