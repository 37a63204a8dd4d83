package db_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"ringback/db"
	"ringback/db/dbtest"
	"ringback/internal/bubble"
)

// record is a log that tests read while it is written.
type record struct {
	mu    sync.Mutex
	lines bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lines.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lines.String()
}

// await returns when the log holds text.
func (r *record) await(t *testing.T, text string) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(dbtest.Patience); !strings.Contains(r.String(), text); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %q in the log:\n%s", text, r)
		}
	}
}

func newHealth(t *testing.T, url string) (*db.Health, *record) {
	t.Helper()
	log := &record{}
	return db.NewHealth(slog.New(slog.NewJSONHandler(log, nil)), dbtest.Pool(t, url)), log
}

// tablesOf returns the tables of the schema.
func tablesOf(t *testing.T) []string {
	t.Helper()
	const sql = "SELECT array_agg(tablename::text) FROM pg_tables WHERE schemaname = current_schema()"
	return valueOf[[]string](t, dbtest.Pool(t, dbtest.New(t)), sql)
}

func TestHealthOfReads(t *testing.T) {
	t.Parallel()
	health, log := newHealth(t, dbtest.New(t))
	health.NoteRead(&pgconn.PgError{Code: "57014"}) // too slow: nobody but the caller minds
	if health.Met(db.Slow) != 0 {
		t.Error("a slow read counts as a fault")
	}
	health.NoteRead(&pgconn.PgError{Code: "53300"})
	if got := health.Trouble(); got != "" || !health.Lasts(db.NoResources) || health.Met(db.NoResources) != 1 {
		t.Errorf("a read without a connection: got trouble %q, want none, and the fault told:\n%s", got, log)
	}
	health.NoteRead(nil)
	if health.Lasts(db.NoResources) {
		t.Error("the fault outlasts the next read")
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()

	t.Run("TellsAgainWhileAFaultLasts", func(t *testing.T) {
		t.Parallel()
		health, log := newHealth(t, dbtest.New(t))
		health.TellAgainAfter(0)
		for range 3 {
			health.Note(db.AcceptStep, &pgconn.PgError{Code: "53100"})
		}
		health.Note(db.AcceptStep, nil)
		for message, want := range map[string]int{"database_fault": 1, "database_fault_lasts": 2, "database_fault_over": 1} {
			if got := strings.Count(log.String(), `"msg":"`+message+`"`); got != want {
				t.Errorf("%s: got %d lines, want %d:\n%s", message, got, want, log)
			}
		}
	})

	t.Run("TellsOfAFaultThatComesBackAndLasts", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			log := &record{}
			health, full := db.NewHealth(slog.New(slog.NewJSONHandler(log, nil)), nil), &pgconn.PgError{Code: "53100"}
			wantLines := func(when string, faults, ends int) {
				t.Helper()
				if got := log.String(); strings.Count(got, `"msg":"database_fault"`) != faults || strings.Count(got, `"msg":"database_fault_over"`) != ends {
					t.Errorf("%s: want %d lines of the fault and %d of its end, got:\n%s", when, faults, ends, got)
				}
			}
			health.Note(db.AcceptStep, full)
			health.Note(db.AcceptStep, nil)
			wantLines("first", 1, 1)
			health.Note(db.AcceptStep, full)
			health.Note(db.AcceptStep, nil)
			wantLines("again for a moment", 1, 1)
			for range 9 {
				health.Note(db.AcceptStep, full)
				time.Sleep(time.Second)
			}
			wantLines("again for seconds", 2, 1)
			health.Note(db.AcceptStep, nil)
			wantLines("at the end", 2, 2)
			if !strings.HasSuffix(strings.TrimSpace(log.String()), `"duration_ms":9000}`) {
				t.Errorf("want the whole duration told, got:\n%s", log)
			}
		})
	})

	t.Run("MakesAFileGrowWhereTheDiskWasFull", func(t *testing.T) {
		t.Parallel()
		url := dbtest.New(t)
		health, _ := newHealth(t, url)
		full := connect(t, url)
		const sql = `
			CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$;
			CREATE TRIGGER fill BEFORE INSERT ON write_checks FOR EACH ROW WHEN (length(NEW.filling) > 100000) EXECUTE FUNCTION fill()`
		if err := query(t.Context(), full, sql); err != nil {
			t.Fatal(err)
		}
		if err := health.Check(t.Context()); err != nil {
			t.Fatalf("a small check: %v", err)
		}
		health.Note(db.AcceptStep, &pgconn.PgError{Code: "53100"})
		if err := health.Check(t.Context()); db.FaultOf(err) != db.DiskFull || health.Trouble() != db.DiskFull {
			t.Errorf("check: got %v and %q, want the disk full", err, health.Trouble())
		}
		if err := query(t.Context(), full, "DROP TRIGGER fill ON write_checks"); err != nil {
			t.Fatal(err)
		}
		if err := health.Check(t.Context()); err != nil || health.Trouble() != "" || health.Met(db.DiskFull) != 2 {
			t.Errorf("check with room: got %v, %q, met %d times, want no trouble after two", err, health.Trouble(), health.Met(db.DiskFull))
		}
		if left := valueOf[int](t, full, "SELECT count(*) FROM write_checks"); left != 0 {
			t.Errorf("rows left by checks: got %d, want none", left)
		}
	})

	t.Run("TellsOfEveryErrorThatKeepsItFromWriting", func(t *testing.T) {
		t.Parallel()
		url := dbtest.New(t)
		operator := connect(t, url)
		for _, state := range []string{"P0001", "0A000"} {
			health, log := newHealth(t, url)
			sql := `
				CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today' USING ERRCODE = '` + state + `'; END $$;
				CREATE TRIGGER refuse BEFORE INSERT ON write_checks FOR EACH ROW EXECUTE FUNCTION refuse()`
			if err := query(t.Context(), operator, sql); err != nil {
				t.Fatal(err)
			}
			if err := health.Check(t.Context()); err == nil || health.Trouble() != db.Broken {
				t.Errorf("%s: got %v and %q, want the trigger's error, and that the schema is broken", state, err, health.Trouble())
			}
			if err := query(t.Context(), operator, "DROP FUNCTION refuse CASCADE"); err != nil {
				t.Fatal(err)
			}
			if err := health.Check(t.Context()); err != nil || health.Trouble() != "" {
				t.Errorf("%s: without the trigger: got %v and %q, want no trouble", state, err, health.Trouble())
			}
			if !strings.Contains(log.String(), "not today") || !strings.Contains(log.String(), "undo what the error names") {
				t.Errorf("%s: no line has the error and its remedy:\n%s", state, log)
			}
		}
	})

	t.Run("WritesWhereAllTablesArePublished", func(t *testing.T) {
		t.Parallel()
		url := dbtest.New(t)
		health, _ := newHealth(t, url)
		if err := query(t.Context(), connect(t, url), "CREATE PUBLICATION everything FOR ALL TABLES"); err != nil {
			t.Fatal(err)
		}
		if err := health.Check(t.Context()); err != nil {
			t.Errorf("got %v, want no error", err)
		}
	})

	t.Run("LetsALockOfAnotherStepKeepNobodyFromAccepting", func(t *testing.T) {
		t.Parallel()
		health, _ := newHealth(t, dbtest.New(t))
		health.Note(db.SettleStep, &pgconn.PgError{Code: "57014"})
		if got := health.Trouble(); got != "" || !health.Lasts(db.Slow) {
			t.Errorf("trouble: got %q, lasts %v, want none, and that it lasts", got, health.Lasts(db.Slow))
		}
		health.Note(db.SettleStep, nil)
		if health.Lasts(db.Slow) {
			t.Error("the fault lasts after the step succeeded")
		}
	})

	t.Run("GivesConnectionsUpThatAreReadOnly", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.Pool(t, dbtest.New(t)+"&pool_max_conns=1")
		backend := valueOf[int](t, pool, "SELECT pg_backend_pid()")
		if _, err := pool.Exec(t.Context(), "SET default_transaction_read_only = on"); err != nil {
			t.Fatal(err)
		}
		if _, err := pool.Exec(t.Context(), "DELETE FROM requests"); db.FaultOf(err) != db.ReadOnly {
			t.Fatalf("writing: got %v, want it refused as read-only", err)
		}
		if _, err := pool.Exec(t.Context(), "DELETE FROM requests"); err != nil {
			t.Errorf("writing on the next connection: %v", err)
		}
		if valueOf[int](t, pool, "SELECT pg_backend_pid()") == backend {
			t.Error("the connection is still there")
		}
	})
}
