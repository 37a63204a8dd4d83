package db_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
	"ringback/db/dbtest"
)

func TestOpen(t *testing.T) {
	t.Parallel()
	url := dbtest.NewEmpty(t)

	t.Run("LimitsEveryConnection", func(t *testing.T) {
		t.Parallel()
		pool, err := db.Open(t.Context(), url, 1234*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		want := map[string]string{
			"statement_timeout": "1234ms", "idle_in_transaction_session_timeout": "10s", "idle_session_timeout": "0", "application_name": "ringback",
		}
		for setting, value := range want {
			if got := valueOf[string](t, pool, "SELECT current_setting($1)", setting); got != value {
				t.Errorf("%s: got %q, want %q", setting, got, value)
			}
		}
	})

	t.Run("WaitsForTheDiskButForRiver", func(t *testing.T) {
		t.Parallel()
		for want, open := range map[string]func(context.Context, string, time.Duration) (*pgxpool.Pool, error){"on": db.Open, "off": db.OpenRiver} {
			pool, err := open(t.Context(), url, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(pool.Close)
			if got := valueOf[string](t, pool, "SELECT current_setting('synchronous_commit')"); got != want {
				t.Errorf("synchronous_commit: got %q, want %q", got, want)
			}
		}
	})

	t.Run("DependsOnNoDefaultOfTheDatabase", func(t *testing.T) {
		t.Parallel()
		url := dbtest.NewEmpty(t)
		for setting, value := range map[string]string{
			"synchronous_commit": "off", "default_transaction_isolation": "serializable", "idle_session_timeout": "1s", "transaction_timeout": "1s",
			"session_replication_role": "replica",
		} {
			setDefault(t, url, setting, value)
		}
		pool := dbtest.Pool(t, url)
		for setting, want := range map[string]string{
			"synchronous_commit": "on", "transaction_isolation": "read committed", "idle_session_timeout": "0", "transaction_timeout": "0",
			"session_replication_role": "origin",
		} {
			if got := valueOf[*string](t, pool, "SELECT current_setting($1, true)", setting); got != nil && *got != want {
				t.Errorf("%s: got %q, want %q", setting, *got, want)
			}
		}
	})

	t.Run("LetsTheURLWin", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.Pool(t, url+"&statement_timeout=777&pool_max_conns=3")
		if got := valueOf[string](t, pool, "SELECT current_setting('statement_timeout')"); got != "777ms" {
			t.Errorf("statement_timeout: got %q, want %q", got, "777ms")
		}
		if got := pool.Config().MaxConns; got != 3 {
			t.Errorf("connections at most: got %d, want 3", got)
		}
	})

	t.Run("ReadsTimesAsUTC", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.Pool(t, url+"&timezone=Asia/Tokyo")
		if got := valueOf[time.Time](t, pool, "SELECT now()").Location(); got != time.UTC {
			t.Errorf("location of a time: got %v, want UTC", got)
		}
	})

	t.Run("ReadsHaveAFewConnectionsOfTheirOwnThatCannotWrite", func(t *testing.T) {
		t.Parallel()
		for parameters, want := range map[string]int32{"": 5, "&pool_max_conns=40": 10, "&pool_max_conns=1&pool_min_conns=1": 2, "&target_session_attrs=read-write": 5} {
			pool := dbtest.Reads(t, url+parameters)
			if got := pool.Config().MaxConns; got != want {
				t.Errorf("connections at most with %q: got %d, want %d", parameters, got, want)
			}
			if _, err := pool.Exec(t.Context(), "CREATE TABLE refused ()"); err == nil || !strings.Contains(err.Error(), "25006") {
				t.Errorf("writing with %q: got %v, want it refused as read-only", parameters, err)
			}
			if got := valueOf[time.Time](t, pool, "SELECT now()").Location(); got != time.UTC {
				t.Errorf("location of a time with %q: got %v, want UTC", parameters, got)
			}
		}
	})

	t.Run("KeepsThePasswordOutOfItsError", func(t *testing.T) {
		t.Parallel()
		const bad = "postgres://someone:hunter2@[::1/db?sslmode=nonsense"
		_, err := db.Open(t.Context(), bad, time.Second)
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("opening %q: got error %v, want one without the password", bad, err)
		}
	})
}

// setDefault gives the database at url a default of its own, where its Postgres knows the
// setting.
func setDefault(t *testing.T, url, setting, value string) {
	t.Helper()
	const sql = `
		DO $do$ BEGIN
			EXECUTE format('ALTER DATABASE %%I SET %[1]s = %%L', current_database(), '%[2]s');
		EXCEPTION WHEN undefined_object THEN
		END $do$`
	if err := query(t.Context(), connect(t, url), fmt.Sprintf(sql, setting, value)); err != nil {
		t.Fatalf("%s: %v", setting, err)
	}
}

func TestInTx(t *testing.T) {
	t.Parallel()
	pool := dbtest.Pool(t, dbtest.NewEmpty(t)+"&pool_max_conns=1") // every step below needs the only connection back
	if _, err := pool.Exec(t.Context(), "CREATE TABLE notes (note text)"); err != nil {
		t.Fatal(err)
	}
	note := func(tx pgx.Tx, text string) error {
		_, err := tx.Exec(t.Context(), "INSERT INTO notes VALUES ($1)", text)
		return err
	}
	errRefused := errors.New("refused")
	// In order: each also tells whether the connection was usable after its predecessor.
	for _, test := range []struct {
		name    string
		do      func(tx pgx.Tx, cancel context.CancelFunc) error
		wantErr error
		panics  bool
		commits bool
		loses   bool // the connection
	}{
		{name: "Commits", do: func(tx pgx.Tx, _ context.CancelFunc) error { return note(tx, "Commits") }, commits: true},
		{name: "RollsBackOnError", wantErr: errRefused, do: func(tx pgx.Tx, _ context.CancelFunc) error {
			return errors.Join(note(tx, "RollsBackOnError"), errRefused)
		}},
		{name: "RollsBackOnPanic", panics: true, do: func(tx pgx.Tx, _ context.CancelFunc) error {
			_ = note(tx, "RollsBackOnPanic")
			panic("broken")
		}},
		{name: "RollsBackWhenTheContextEndsBeforeTheCommit", loses: true, wantErr: context.Canceled, do: func(tx pgx.Tx, cancel context.CancelFunc) error {
			defer cancel()
			return note(tx, "RollsBackWhenTheContextEndsBeforeTheCommit")
		}},
		{name: "RollsBackOnErrorAfterTheContextEnded", wantErr: errRefused, do: func(tx pgx.Tx, cancel context.CancelFunc) error {
			err := note(tx, "RollsBackOnErrorAfterTheContextEnded")
			cancel()
			return errors.Join(err, errRefused)
		}},
		{name: "CommitsAgain", do: func(tx pgx.Tx, _ context.CancelFunc) error { return note(tx, "CommitsAgain") }, commits: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), dbtest.Patience)
			defer cancel()
			backend := valueOf[int](t, pool, "SELECT pg_backend_pid()")
			panicked, err := func() (panicked any, err error) {
				defer func() { panicked = recover() }()
				return nil, db.InTx(ctx, pool, func(tx pgx.Tx) error { return test.do(tx, cancel) })
			}()
			if (panicked != nil) != test.panics {
				t.Errorf("panic: got %v, want one: %v", panicked, test.panics)
			}
			if !errors.Is(err, test.wantErr) {
				t.Errorf("error: got %v, want %v", err, test.wantErr)
			}
			stored := valueOf[bool](t, pool, "SELECT EXISTS (SELECT FROM notes WHERE note = $1)", test.name)
			if stored != test.commits {
				t.Errorf("row stored: got %v, want %v", stored, test.commits)
			}
			if got := valueOf[int](t, pool, "SELECT pg_backend_pid()") != backend; got != test.loses {
				t.Errorf("connection lost: got %v, want %v", got, test.loses)
			}
		})
	}
	if got := valueOf[string](t, pool, "SELECT string_agg(note, ' ') FROM notes"); got != "Commits CommitsAgain" {
		t.Errorf("rows: got %q, want %q", got, "Commits CommitsAgain")
	}
}

func TestIsUnavailable(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	pool := dbtest.Pool(t, url)
	for _, test := range []struct {
		name string
		err  func(t *testing.T) error
		want bool
	}{
		{"ConnectionRefused", func(t *testing.T) error {
			return ping(t, closedPort(t))
		}, true},
		{"ConnectionBroken", func(t *testing.T) error {
			proxy, through := dbtest.NewProxy(t, url)
			conn := connect(t, through)
			proxy.Refuse()
			return query(t.Context(), conn, "SELECT 1")
		}, true},
		{"ConnectionUsedAfterItBroke", func(t *testing.T) error {
			proxy, through := dbtest.NewProxy(t, url)
			conn := connect(t, through)
			proxy.Refuse()
			_ = query(t.Context(), conn, "SELECT 1")
			return query(t.Context(), conn, "SELECT 1")
		}, true},
		{"BackendTerminated", func(t *testing.T) error {
			conn := connect(t, url)
			return query(t.Context(), conn, "SELECT pg_terminate_backend(pg_backend_pid())")
		}, true},
		{"StatementTimeout", func(t *testing.T) error {
			return query(t.Context(), connect(t, url+"&statement_timeout=1"), "SELECT pg_sleep(10)")
		}, true},
		{"DatabaseFrozenUntilTheDeadline", func(t *testing.T) error {
			proxy, through := dbtest.NewProxy(t, url)
			conn := connect(t, through)
			proxy.Freeze()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			defer proxy.Refuse()
			return query(ctx, conn, "SELECT 1")
		}, true},
		{"ReadOnly", func(t *testing.T) error {
			return query(t.Context(), connect(t, url+"&default_transaction_read_only=on"), "CREATE TABLE refused ()")
		}, true},
		{"PrivilegeRevoked", func(t *testing.T) error {
			return query(t.Context(), connect(t, url), "BEGIN; SET LOCAL ROLE pg_monitor; DELETE FROM requests")
		}, true},
		{"NoSuchTable", func(t *testing.T) error {
			return query(t.Context(), connect(t, url+"&search_path=nowhere"), "DELETE FROM requests")
		}, true},
		{"NoSuchColumn", func(t *testing.T) error {
			return query(t.Context(), connect(t, url), "SELECT gone FROM requests")
		}, true},
		{"DatabaseDoesNotExist", func(t *testing.T) error {
			return ping(t, strings.Replace(url, "ringback_test_", "ringback_missing_", 1))
		}, true}, // it may be renamed for a moment
		{"ContextCancelledBeforeAcquiring", func(t *testing.T) error {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return pool.Ping(ctx)
		}, false},
		{"ContextCancelledBeforeTheStatement", func(t *testing.T) error {
			conn := connect(t, url)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return query(ctx, conn, "SELECT 1")
		}, false},
		{"ContextCancelledDuringTheStatement", func(t *testing.T) error {
			conn := connect(t, url)
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				wait(t, pool, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND query LIKE '%pg_sleep%' AND state = 'active')", conn.PgConn().PID())
				cancel()
			}()
			return query(ctx, conn, "SELECT pg_sleep(10)")
		}, false},
		{"ConstraintViolation", func(t *testing.T) error {
			return query(t.Context(), connect(t, url), "INSERT INTO river_queue (name, updated_at) VALUES ('q', now()), ('q', now())")
		}, false},
		{"NoRows", func(*testing.T) error { return pgx.ErrNoRows }, false},
		{"SyntaxError", func(t *testing.T) error { return query(t.Context(), connect(t, url), "SELEKT 1") }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := test.err(t)
			if err == nil {
				t.Fatal("got no error to look at")
			}
			if got := db.IsUnavailable(err); got != test.want {
				t.Errorf("IsUnavailable(%v): got %v, want %v", err, got, test.want)
			}
		})
	}
}

// What somebody changed in the schema is no row's fault, so that answers in hand are kept
// until it is undone.
func TestBrokenSchema(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	for name, sql := range map[string]string{
		"ConstraintByHand": "CREATE TEMP TABLE a (x int CONSTRAINT by_hand CHECK (x > 0)); INSERT INTO a VALUES (0)",
		"RequiredColumn":   "CREATE TEMP TABLE a (x int NOT NULL); INSERT INTO a VALUES (NULL)",
		"ForeignKeyByHand": "CREATE TEMP TABLE a (x int PRIMARY KEY); CREATE TEMP TABLE b (x int REFERENCES a); INSERT INTO b VALUES (0)",
		"IndexThatIsGone":  "CREATE TEMP TABLE a (x int); INSERT INTO a VALUES (0) ON CONFLICT (x) DO NOTHING",
		"ColumnOfTheName":  "CREATE TEMP TABLE a (x int); CREATE TEMP TABLE b (x int); SELECT x FROM a, b",
		"Trigger":          "DO $$ BEGIN RAISE 'not today'; END $$",
		"TriggerThatFails": "CREATE FUNCTION pg_temp.by_hand() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 'x'::int; END $$; SELECT pg_temp.by_hand()",
		"SequenceBehind": `INSERT INTO river_job (args, kind, max_attempts) VALUES ('{}', 'k', 1);
			SELECT setval('river_job_id_seq', min(id), false) FROM river_job;
			INSERT INTO river_job (args, kind, max_attempts) VALUES ('{}', 'k', 1)`,
		"SequenceAtItsEnd": "CREATE TEMP SEQUENCE a MAXVALUE 2; SELECT nextval('a'), nextval('a'), nextval('a')",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := query(t.Context(), connect(t, url), sql)
			if got := db.FaultOf(err); got != db.Broken || db.IsRefused(err) || !db.IsDenied(err) {
				t.Errorf("%v: got %q, refused %v, want it broken, and no row refused", err, got, db.IsRefused(err))
			}
		})
	}
	wraparound := &pgconn.PgError{Code: "54000", Routine: "GetNewTransactionId"}
	if got := db.FaultOf(wraparound); got != db.Wraparound || db.IsRefused(wraparound) || db.IsDenied(wraparound) {
		t.Errorf("no transaction ids: got %q, refused %v, want no row refused", got, db.IsRefused(wraparound))
	}
}

func TestIsRefused(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	for _, test := range []struct {
		name, sql string
		want      bool
	}{
		{"ValueThatDoesNotFit", "SELECT 'x'::integer", true},
		{"ConstraintThatARowBreaks", "INSERT INTO river_queue (name, updated_at) VALUES ('q', now()), ('q', now())", true},
		{"ConstraintOfTheMigrations", "INSERT INTO callback_origins (origin, openings, expires_at, word, word_at) VALUES ('x', 0, now(), 'other', now())", true},
		{"JSONThatIsTooDeep", "SELECT repeat('[', 1000000)::json", true},
		{"ConnectionThatEnds", "SELECT pg_terminate_backend(pg_backend_pid())", false},
		{"StatementThatIsNone", "SELEKT 1", false},
		{"NoError", "SELECT 1", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := query(t.Context(), connect(t, url), test.sql)
			if got := db.IsRefused(err); got != test.want {
				t.Errorf("IsRefused(%v): got %v, want %v", err, got, test.want)
			}
		})
	}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), dbtest.Patience)
		defer cancel()
		_ = conn.Close(ctx)
	})
	return conn
}

func query(ctx context.Context, conn *pgx.Conn, sql string) error {
	_, err := conn.Exec(ctx, sql)
	return err
}

func ping(t *testing.T, url string) error {
	t.Helper()
	return dbtest.Pool(t, url).Ping(t.Context())
}

// closedPort is the URL of a database where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return "postgres://someone@" + listener.Addr().String() + "/db?sslmode=disable"
}

// valueOf returns the only value that sql selects.
func valueOf[T any](t *testing.T, q db.Querier, sql string, args ...any) (value T) {
	t.Helper()
	if err := q.QueryRow(t.Context(), sql, args...).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

// wait returns when sql selects true.
func wait(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), dbtest.Patience)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		var ready bool
		if err := pool.QueryRow(ctx, sql, args...).Scan(&ready); err != nil {
			t.Errorf("waiting for %s: %v", sql, err)
			return
		}
		if ready {
			return
		}
		<-tick.C
	}
}

// constraintOf is the name of the constraint that err is the violation of.
func constraintOf(err error) string {
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		return answer.ConstraintName
	}
	return ""
}
