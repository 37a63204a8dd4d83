package db_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"ringback/db"
	"ringback/db/dbtest"
)

// asPlainRole returns the URL for a role that may do nothing but use the tables.
func asPlainRole(t *testing.T, database string) string {
	t.Helper()
	pool := dbtest.Pool(t, database)
	role := "plain_" + valueOf[string](t, pool, "SELECT current_database()::text")
	for _, sql := range []string{
		"CREATE ROLE " + role + " LOGIN PASSWORD 'ringback'",
		"GRANT ALL ON ALL TABLES IN SCHEMA public TO " + role,
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	t.Cleanup(func() {
		for _, sql := range []string{"DROP OWNED BY " + role, "DROP ROLE " + role} {
			if _, err := pool.Exec(context.Background(), sql); err != nil {
				t.Errorf("%s: %v", sql, err)
			}
		}
	})
	return strings.Replace(database, "://ringback:", "://"+role+":", 1)
}

// Health names the sessions and transactions that hold the locks for which steps wait.
func TestHolders(t *testing.T) {
	t.Parallel()

	t.Run("TellsOfALockedTableAndOfItsEnd", func(t *testing.T) {
		t.Parallel()
		url := dbtest.New(t)
		health, log := newHealth(t, url)
		locker := connect(t, url+"&application_name=pg_dump")
		if err := query(t.Context(), locker, "BEGIN; LOCK TABLE requests IN SHARE MODE"); err != nil {
			t.Fatal(err)
		}
		waiting := make(chan error)
		waiter := connect(t, url)
		go func() {
			waiting <- query(t.Context(), waiter, "BEGIN; LOCK TABLE requests IN ROW EXCLUSIVE MODE; COMMIT")
		}()
		wait(t, dbtest.Pool(t, url), "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = $1)", waiter.PgConn().PID())
		for range 3 {
			if err := health.Check(t.Context()); db.FaultOf(err) != db.Locked {
				t.Fatalf("check of a locked table: got %v, want it locked", err)
			}
		}
		if got := health.Trouble(); got != db.Locked {
			t.Errorf("trouble: got %q, want %q", got, db.Locked)
		}
		log.await(t, fmt.Sprintf(`"blocked_by":"pid %d (pg_dump of user ringback, idle in transaction`, locker.PgConn().PID()))
		remedy := fmt.Sprintf("end the session that holds the lock on requests: SELECT pg_terminate_backend(%d)", locker.PgConn().PID())
		if got := health.Lasting(); len(got) != 1 || got[db.Locked].Remedy != remedy || !strings.HasPrefix(got[db.Locked].BlockedBy, fmt.Sprintf("pid %d (pg_dump of user ringback", locker.PgConn().PID())) || !strings.Contains(log.String(), `"remedy":"`+remedy+`"`) {
			t.Errorf("got %v, want the holder and the remedy %q, there and in the log:\n%s", got, remedy, log)
		}
		if err := query(t.Context(), locker, "ROLLBACK"); err != nil {
			t.Fatal(err)
		}
		if err := <-waiting; err != nil {
			t.Error(err)
		}
		if err := health.Check(t.Context()); err != nil {
			t.Errorf("check afterwards: got %v, want no error", err)
		}
		if got := health.Trouble(); got != "" || len(health.Lasting()) != 0 {
			t.Errorf("trouble afterwards: got %q, %v, want none", got, health.Lasting())
		}
		if got := log.String(); strings.Count(got, `"level":"ERROR"`) != 1 || strings.Count(got, "database_fault_over") != 1 {
			t.Errorf("the log has other than one line of each kind:\n%s", got)
		}
	})

	t.Run("CallsAStepThatTookTooLongLockedWhereATableIsLocked", func(t *testing.T) {
		t.Parallel()
		url := dbtest.New(t)
		health, log := newHealth(t, url)
		locker := connect(t, url+"&application_name=pg_dump")
		if err := query(t.Context(), locker, "BEGIN; LOCK TABLE callback_attempts IN SHARE MODE"); err != nil {
			t.Fatal(err)
		}
		writer := connect(t, url+"&statement_timeout=50")
		var cause error
		// On a busy machine the holder isn't found in time, and the next step asks again.
		for turn := 0; turn < 100 && !health.Lasts(db.Locked); turn++ {
			_, cause = writer.Exec(t.Context(), "DELETE FROM callback_attempts")
			if got := db.FaultOf(cause); got != db.Slow {
				t.Fatalf("writing a locked table: got %q of %v, want it too slow", got, cause)
			}
			health.Note(db.SettleStep, cause)
		}
		if !health.Lasts(db.Locked) || health.Lasts(db.Slow) || health.Met(db.Locked) != 1 {
			t.Errorf("got locked %v, slow %v, met %d times, want it locked once", health.Lasts(db.Locked), health.Lasts(db.Slow), health.Met(db.Locked))
		}
		got := log.String()
		remedy := fmt.Sprintf("end the session that holds the lock on callback_attempts: SELECT pg_terminate_backend(%d)", locker.PgConn().PID())
		if told := fmt.Sprintln(health.Explain(cause, "look for the cause")...); !strings.Contains(told, remedy) || !strings.Contains(told, fmt.Sprintf("blocked_by pid %d (pg_dump", locker.PgConn().PID())) || strings.Contains(told, "look for the cause") {
			t.Errorf("a line about it: got %s, want the holder and %s", told, remedy)
		}
		denied := &pgconn.PgError{Code: "42501"}
		if told := health.Explain(denied, "look for the cause"); !slices.Equal(told, []any{"error", error(denied), "remedy", db.Faults[db.Denied]}) {
			t.Errorf("a line about a denial: got %v, want its own remedy", told)
		}
		other := errors.New("something else")
		if told := health.Explain(other, "look for the cause"); !slices.Equal(told, []any{"error", other, "remedy", "look for the cause"}) {
			t.Errorf("a line about something else: got %v, want it as it is", told)
		}
		for _, part := range []string{`"fault":"locked"`, `"remedy":"` + remedy, fmt.Sprintf(`"blocked_by":"pid %d (pg_dump of user ringback, idle in transaction, its transaction is`, locker.PgConn().PID())} {
			if !strings.Contains(got, part) {
				t.Errorf("the log lacks %s:\n%s", part, got)
			}
		}
	})

	t.Run("NamesNoSessionThatWaitsForItsCommit", func(t *testing.T) {
		t.Parallel()
		cluster := dbtest.NewCluster(t)
		url := cluster.URL + "&application_name=ours"
		health, log := newHealth(t, url)
		pool := dbtest.Pool(t, url)
		if err := query(t.Context(), connect(t, cluster.URL), "CREATE TABLE counts AS SELECT 1 AS count"); err != nil {
			t.Fatal(err)
		}
		cluster.Set(t, "synchronous_standby_names", "nobody")
		const add = "UPDATE counts SET count = count + 1"
		committed := make(chan error)
		committer := connect(t, cluster.URL+"&application_name=another&statement_timeout=0")
		go func() { committed <- query(t.Context(), committer, add) }()
		wait(t, pool, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'SyncRep')", committer.PgConn().PID())
		waiter, waited := connect(t, url+"&statement_timeout=0"), make(chan error)
		go func() { waited <- query(t.Context(), waiter, add) }()
		wait(t, pool, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = $1 AND waitstart < clock_timestamp() - interval '1 second')", waiter.PgConn().PID())
		health.Note(db.FinishStep, nil) // so that the check writes nothing
		if err := health.Check(t.Context()); err != nil || health.Lasts(db.Locked) {
			t.Errorf("check: got %v, locked %v, want neither", err, health.Lasts(db.Locked))
		}
		health.Note(db.SettleStep, context.DeadlineExceeded)
		if health.Lasts(db.Locked) || !health.Lasts(db.Slow) {
			t.Errorf("got locked %v, slow %v, want that the commit is slow:\n%s", health.Lasts(db.Locked), health.Lasts(db.Slow), log)
		}
		cluster.Set(t, "synchronous_standby_names", "")
		if err := errors.Join(<-committed, <-waited); err != nil {
			t.Error(err)
		}
	})

	t.Run("NamesAHolderThatItsRoleCanNeitherSeeNorEnd", func(t *testing.T) {
		t.Parallel()
		url := dbtest.New(t)
		plain := asPlainRole(t, url)
		health, log := newHealth(t, plain)
		locker := connect(t, url)
		if err := query(t.Context(), locker, "BEGIN; LOCK TABLE callback_attempts IN SHARE MODE"); err != nil {
			t.Fatal(err)
		}
		behind := connect(t, url)
		waited := make(chan error, 1)
		go func() { waited <- query(t.Context(), behind, "BEGIN; LOCK TABLE callback_attempts") }()
		pool := dbtest.Pool(t, url)
		for valueOf[bool](t, pool, fmt.Sprintf("SELECT NOT EXISTS (SELECT FROM pg_locks WHERE pid = %d AND NOT granted)", behind.PgConn().PID())) {
		}
		writer := connect(t, plain+"&statement_timeout=50")
		for turn := 0; turn < 100 && !health.Lasts(db.Locked); turn++ {
			_, cause := writer.Exec(t.Context(), "DELETE FROM callback_attempts")
			health.Note(db.SettleStep, cause)
		}
		pid := locker.PgConn().PID()
		for _, part := range []string{
			fmt.Sprintf(`"remedy":"end the session that holds the lock on callback_attempts: SELECT pg_terminate_backend(%d) as user ringback, or as a superuser"`, pid),
			fmt.Sprintf(`"blocked_by":"pid %d (of user ringback; to see more of it, a user needs the role pg_read_all_stats)"`, pid),
		} {
			if got := log.String(); !strings.Contains(got, part) {
				t.Errorf("the log lacks %s:\n%s", part, got)
			}
		}
		if err := query(t.Context(), locker, "ROLLBACK"); err != nil {
			t.Fatal(err)
		}
		if err := <-waited; err != nil {
			t.Errorf("the lock behind: got %v, want it granted", err)
		}
	})

	t.Run("TellsOfAnyTableThatIsLockedFromItsFirstWaitToItsEnd", func(t *testing.T) {
		t.Parallel()
		for _, table := range tablesOf(t) {
			t.Run(table, func(t *testing.T) {
				t.Parallel()
				url := dbtest.New(t)
				health, log := newHealth(t, url)
				health.Note(db.AcceptStep, nil) // wrote just now, so a check need not write
				locker := connect(t, url+"&application_name=pg_dump")
				if err := query(t.Context(), locker, "BEGIN; LOCK TABLE "+table+" IN SHARE MODE"); err != nil {
					t.Fatal(err)
				}
				waiter := connect(t, url)
				gaveUp := make(chan error, 1)
				go func() {
					gaveUp <- query(t.Context(), waiter, "BEGIN; LOCK TABLE "+table+" IN ROW EXCLUSIVE MODE; COMMIT")
				}()
				wait(t, dbtest.Pool(t, url), "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = $1 AND waitstart < clock_timestamp() - interval '1 s')", waiter.PgConn().PID())
				_ = health.Check(t.Context())
				log.await(t, fmt.Sprintf(`"blocked_by":"pid %d (pg_dump of user ringback`, locker.PgConn().PID()))
				if _, err := locker.Exec(t.Context(), "SELECT pg_cancel_backend($1)", waiter.PgConn().PID()); err != nil {
					t.Fatal(err)
				}
				<-gaveUp
				if _ = health.Check(t.Context()); !health.Lasts(db.Locked) {
					t.Error("the fault is over while the table is locked")
				}
				if err := query(t.Context(), locker, "ROLLBACK"); err != nil {
					t.Fatal(err)
				}
				if err := health.Check(t.Context()); err != nil || health.Lasts(db.Locked) {
					t.Errorf("afterwards: got %v, locked %v, want no fault", err, health.Lasts(db.Locked))
				}
			})
		}
	})

	// Postgres has no pid for it, and a coordinator may have prepared many.
	for held, test := range map[string]struct{ lock, remedy string }{
		"Table": {"LOCK TABLE callback_attempts IN SHARE MODE", "the lock on callback_attempts"},
		"Row":   {"SELECT FROM reconciliation FOR UPDATE", "the lock"},
	} {
		t.Run("NamesThePreparedTransactionThatHoldsA"+held, func(t *testing.T) {
			t.Parallel()
			url := dbtest.New(t)
			health, log := newHealth(t, url)
			health.Note(db.AcceptStep, nil) // wrote just now, so a check need not write
			locker, waiter := connect(t, url), connect(t, url+"&application_name=ringback")
			gid := "somebody's " + uuid.NewString() // of the whole cluster
			prepare(t, locker, "innocent "+uuid.NewString(), "INSERT INTO write_checks (id, filling) VALUES (gen_random_uuid(), '')")
			prepare(t, locker, gid, test.lock)
			literal := "'" + strings.ReplaceAll(gid, "'", "''") + "'"
			gaveUp := make(chan error, 1)
			const want = "SELECT FROM reconciliation FOR UPDATE; LOCK TABLE callback_attempts IN ROW EXCLUSIVE MODE"
			go func() { gaveUp <- query(t.Context(), waiter, "BEGIN; "+want) }()
			wait(t, dbtest.Pool(t, url), "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = $1 AND waitstart < clock_timestamp() - interval '1 s')", waiter.PgConn().PID())
			_ = health.Check(t.Context())
			remedy := "end the prepared transaction that holds " + test.remedy + ": ROLLBACK PREPARED " + literal + ", or COMMIT PREPARED where its program wants that"
			if got := health.Lasting()[db.Locked]; got.Remedy != remedy || !strings.HasPrefix(got.BlockedBy, "the prepared transaction "+literal+" (of user ringback, ") || strings.Contains(got.BlockedBy, "innocent") {
				t.Errorf("got %+v, want the transaction and the remedy %q; the log:\n%s", got, remedy, log)
			}
			if err := query(t.Context(), locker, "ROLLBACK PREPARED "+literal); err != nil {
				t.Error(err)
			}
			if err := <-gaveUp; err != nil {
				t.Error(err)
			}
			if _ = health.Check(t.Context()); health.Lasts(db.Locked) {
				t.Error("the fault lasts, want it over with the lock")
			}
		})
	}

	t.Run("TellsWhoHasLockedRows", func(t *testing.T) {
		t.Parallel()
		url := dbtest.New(t)
		health, log := newHealth(t, url)
		health.Note(db.AcceptStep, nil) // wrote just now, so a check need not write
		const one = "SELECT FROM reconciliation FOR UPDATE"
		locker, waiter := connect(t, url+"&application_name=psql"), connect(t, url+"&application_name=ringback")
		if err := query(t.Context(), locker, "BEGIN; "+one); err != nil {
			t.Fatal(err)
		}
		gaveUp := make(chan error, 1)
		go func() { gaveUp <- query(t.Context(), waiter, one) }()
		wait(t, dbtest.Pool(t, url), "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = $1 AND waitstart < clock_timestamp() - interval '1 s')", waiter.PgConn().PID())
		_ = health.Check(t.Context())
		log.await(t, fmt.Sprintf(`"blocked_by":"pid %d (psql of user ringback, idle in transaction`, locker.PgConn().PID()))
		if _, err := locker.Exec(t.Context(), "SELECT pg_cancel_backend($1)", waiter.PgConn().PID()); err != nil {
			t.Fatal(err)
		}
		health.Note(db.FinishStep, <-gaveUp)
		if !health.Lasts(db.Locked) || health.Lasts(db.Slow) {
			t.Errorf("a step that gave up: got locked %v, slow %v, want it locked", health.Lasts(db.Locked), health.Lasts(db.Slow))
		}
		if got := health.Trouble(); got != "" {
			t.Errorf("trouble: got %q, want none", got)
		}
	})
}

// prepare leaves a transaction prepared, at most until the end of the test.
func prepare(t *testing.T, conn *pgx.Conn, gid, sql string) {
	t.Helper()
	literal := "'" + strings.ReplaceAll(gid, "'", "''") + "'"
	var most int
	if err := conn.QueryRow(t.Context(), "SELECT current_setting('max_prepared_transactions')::int").Scan(&most); err != nil {
		t.Fatal(err)
	} else if most == 0 {
		t.Skip("this Postgres takes no prepared transactions: max_prepared_transactions is 0")
	}
	if err := query(t.Context(), conn, "BEGIN; "+sql+"; PREPARE TRANSACTION "+literal); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = conn.Exec(context.WithoutCancel(t.Context()), "ROLLBACK PREPARED "+literal) // it may have ended
	})
}

// The runbook's query names the session that holds a lock, also when its last statement is
// another.
func TestRunbookFindsTheHolderOfALock(t *testing.T) {
	t.Parallel()
	runbook, err := os.ReadFile("../scripts/operate/RUNBOOK.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(runbook), "```sql\n")
	sql, _, found := strings.Cut(after, "```")
	if !found {
		t.Fatal("the runbook has no query")
	}
	pool := dbtest.Pool(t, dbtest.New(t))
	holder, waiter := connect(t, pool.Config().ConnString()+"&application_name=holder"), connect(t, pool.Config().ConnString())
	for _, statement := range []string{"BEGIN", "LOCK TABLE callback_attempts IN SHARE MODE", "SELECT 1"} {
		if err := query(t.Context(), holder, statement); err != nil {
			t.Fatal(err)
		}
	}
	waiting := make(chan error)
	go func() {
		waiting <- query(t.Context(), waiter, "BEGIN; LOCK TABLE callback_attempts IN ROW EXCLUSIVE MODE; COMMIT")
	}()
	wait(t, pool, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = $1)", waiter.PgConn().PID())
	var got struct {
		PID                                         uint32
		Application, User, State, Table, Mode, Last string
		Age                                         time.Duration
	}
	row := pool.QueryRow(t.Context(), sql)
	if err := row.Scan(&got.PID, &got.Application, &got.User, &got.State, &got.Age, &got.Table, &got.Mode, &got.Last); err != nil {
		t.Fatal(err)
	}
	if got.PID != holder.PgConn().PID() || got.Application != "holder" || got.User == "" || got.State != "idle in transaction" ||
		got.Table != "callback_attempts" || got.Mode != "ShareLock" || got.Last != "SELECT 1" || got.Age < 0 {
		t.Errorf("got %+v, want the session %d with its lock", got, holder.PgConn().PID())
	}
	if err := query(t.Context(), holder, "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; err != nil {
		t.Error(err)
	}
}
