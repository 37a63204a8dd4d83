package db_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"ringback/db"
	"ringback/db/dbtest"
)

func TestMigrations(t *testing.T) {
	t.Parallel()

	t.Run("GoUpDownAndUpAgain", func(t *testing.T) {
		t.Parallel()
		url := dbtest.NewEmpty(t)
		if err := db.Migrate(t.Context(), url); err != nil {
			t.Fatal(err)
		}
		want := schemaOf(t, url)
		if err := db.MigrateDown(t.Context(), url); err != nil {
			t.Fatal(err)
		}
		if left := schemaOf(t, url); len(left) != 0 {
			t.Errorf("after down: got %q left, want nothing", left)
		}
		if err := db.Migrate(t.Context(), url); err != nil {
			t.Fatal(err)
		}
		if got := schemaOf(t, url); fmt.Sprint(got) != fmt.Sprint(want) || len(got) == 0 {
			t.Errorf("after up again: got %q, want %q", got, want)
		}
	})

	t.Run("AreDoneOnceByProcessesThatStartTogether", func(t *testing.T) {
		t.Parallel()
		url := dbtest.NewEmpty(t)
		results := make(chan error)
		for range 4 {
			go func() { results <- db.Migrate(t.Context(), url) }()
		}
		for range 4 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
	})

	// Others wait for as long as rows are read under a lock that keeps them out.
	t.Run("ReadNoRowsUnderALock", func(t *testing.T) {
		t.Parallel()
		conn := connect(t, dbtest.NewEmpty(t))
		files, err := fs.Glob(db.Migrations(), "*.up.sql")
		if err != nil {
			t.Fatal(err)
		}
		readBeforeTheLock := map[string]int{"000013_calls.up.sql": 100}
		for _, file := range files {
			script, err := fs.ReadFile(db.Migrations(), file)
			if err != nil {
				t.Fatal(err)
			}
			if read := rowsRead(t, conn, string(script)); read > readBeforeTheLock[file]+10 {
				t.Errorf("%s: got %d rows read of 300, want none", file, read)
			}
			if file == "000008_requests.up.sql" {
				fillWithRows(t, conn)
			}
		}
	})

	t.Run("EqualThoseOfRiver", func(t *testing.T) {
		t.Parallel()
		migrator, err := rivermigrate.New(riverpgxv5.New(nil), nil)
		if err != nil {
			t.Fatal(err)
		}
		versions := migrator.AllVersions()[1:] // version 1 is River's bookkeeping, which Ringback's replaces
		files, err := fs.Glob(db.Migrations(), "*_river_*.up.sql")
		if err != nil || len(files) != len(versions) {
			t.Errorf("got %d migrations of River's, %v, want %d", len(files), err, len(versions))
		}
		for _, version := range versions {
			for direction, sql := range map[string]string{"up": version.SQLUp, "down": version.SQLDown} {
				name := fmt.Sprintf("%06d_river_%d.%s.sql", version.Version-1, version.Version, direction)
				got, err := fs.ReadFile(db.Migrations(), name)
				// The migrator puts a schema here, or nothing.
				want := strings.ReplaceAll(sql, "/* TEMPLATE: schema */", "")
				if err != nil || string(got) != want {
					t.Errorf("%s differs from River's version %d (%v)", name, version.Version, err)
				}
			}
		}
	})
}

// A role whose statements somebody bounds would never get a migration of a large table done.
func TestMigrationTakesAsLongAsItTakes(t *testing.T) {
	t.Parallel()
	url := dbtest.NewEmpty(t)
	const bound = `
		DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET statement_timeout = %L', current_database(), '10min'); END $$;
		CREATE FUNCTION look() RETURNS event_trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF current_setting('statement_timeout') <> '0' THEN
				RAISE 'statements of the migration are bounded';
			END IF;
		END $$;
		CREATE EVENT TRIGGER look ON ddl_command_start EXECUTE FUNCTION look()`
	if err := query(t.Context(), connect(t, url), bound); err != nil {
		t.Fatal(err)
	}
	if err := db.MigrateTo(t.Context(), url, 10); err != nil {
		t.Error(err)
	}
}

// rowsRead runs a script in a transaction, and returns how many rows of the large tables that
// are there it read one after the other.
func rowsRead(t *testing.T, conn *pgx.Conn, script string) (read int) {
	t.Helper()
	const sql = `
		SELECT coalesce(sum(pg_stat_get_xact_tuples_returned(to_regclass(name))), 0)
		FROM unnest(ARRAY['requests', 'river_job', 'callback_attempts']) AS name`
	var before, after int
	if err := query(t.Context(), conn, "BEGIN"); err != nil {
		t.Fatal(err)
	}
	if err := conn.QueryRow(t.Context(), sql).Scan(&before); err != nil {
		t.Fatal(err)
	}
	if err := conn.PgConn().Exec(t.Context(), script).Close(); err != nil {
		t.Fatal(err)
	}
	if err := conn.QueryRow(t.Context(), sql).Scan(&after); err != nil {
		t.Fatal(err)
	}
	if err := query(t.Context(), conn, "COMMIT"); err != nil {
		t.Fatal(err)
	}
	return after - before
}

// fillWithRows writes a hundred rows to each of the large tables.
func fillWithRows(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	for _, sql := range []string{
		`INSERT INTO requests (id, mode, client, status, input, result, accepted_at, finished_at)
		SELECT gen_random_uuid(), 'sync', 'a', 'succeeded', '1', '1', now(), now() FROM generate_series(1, 100)`,
		`INSERT INTO river_job (args, kind, queue, max_attempts, state, finalized_at)
		SELECT '{}', 'work', 'work', 1000, 'completed', now() FROM generate_series(1, 100)`,
		`INSERT INTO callback_attempts (request_id, attempt, started_at, ended_at, outcome)
		SELECT id, 1, now(), now(), 'delivered' FROM requests`,
	} {
		if err := query(t.Context(), conn, sql); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMigrationThatFindsALock(t *testing.T) {
	t.Parallel()

	t.Run("LetsOthersPassAndTellsForWhomItWaits", func(t *testing.T) {
		t.Parallel()
		url := dbtest.NewEmpty(t)
		if err := db.MigrateTo(t.Context(), url, 18); err != nil {
			t.Fatal(err)
		}
		dump := connect(t, url+"&application_name=pg_dump")
		if err := query(t.Context(), dump, "BEGIN; SELECT FROM clients; SELECT FROM schema_migrations"); err != nil {
			t.Fatal(err)
		}
		log := &record{}
		migrated := make(chan error)
		go func() { migrated <- db.MigrateTelling(t.Context(), url, slog.New(slog.NewJSONHandler(log, nil))) }()
		log.await(t, fmt.Sprintf(`"msg":"migration_waits","version":19,"for":"pid %d (pg_dump of user ringback, idle in transaction, its transaction is`, dump.PgConn().PID()))
		// A statement that comes meanwhile waits for an attempt at most.
		other := connect(t, url+"&statement_timeout=10000")
		for range 3 {
			if err := query(t.Context(), other, "INSERT INTO clients (name, key_hash, secret, created_at) VALUES (gen_random_uuid()::text, sha256(gen_random_uuid()::text::bytea), 'x', now())"); err != nil {
				t.Errorf("writing beside a migration that waits: %v", err)
			}
		}
		if err := query(t.Context(), dump, "ROLLBACK"); err != nil {
			t.Fatal(err)
		}
		if err := <-migrated; err != nil {
			t.Error(err)
		}
		if err := db.CheckSchema(t.Context(), url); err != nil {
			t.Error(err)
		}
	})

	t.Run("EndsWithItsContextAndGoesOnLater", func(t *testing.T) {
		t.Parallel()
		url := dbtest.NewEmpty(t)
		if err := db.MigrateTo(t.Context(), url, 18); err != nil {
			t.Fatal(err)
		}
		dump := connect(t, url)
		if err := query(t.Context(), dump, "BEGIN; SELECT FROM clients"); err != nil {
			t.Fatal(err)
		}
		log := &record{}
		ctx, cancel := context.WithCancel(t.Context())
		migrated := make(chan error)
		go func() { migrated <- db.MigrateTelling(ctx, url, slog.New(slog.NewJSONHandler(log, nil))) }()
		log.await(t, "migration_waits")
		cancel()
		if err := <-migrated; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
		if err := query(t.Context(), dump, "ROLLBACK"); err != nil {
			t.Fatal(err)
		}
		if err := db.Migrate(t.Context(), url); err != nil {
			t.Errorf("migrating later: %v", err)
		}
	})

	t.Run("TellsThatAnotherProcessMigrates", func(t *testing.T) {
		t.Parallel()
		url := dbtest.NewEmpty(t)
		first, second := &record{}, &record{}
		if err := db.MigrateTo(t.Context(), url, 18); err != nil {
			t.Fatal(err)
		}
		dump := connect(t, url)
		if err := query(t.Context(), dump, "BEGIN; SELECT FROM clients"); err != nil {
			t.Fatal(err)
		}
		migrated := make(chan error)
		go func() { migrated <- db.MigrateTelling(t.Context(), url, slog.New(slog.NewJSONHandler(first, nil))) }()
		first.await(t, "migration_waits")
		go func() { migrated <- db.MigrateTelling(t.Context(), url, slog.New(slog.NewJSONHandler(second, nil))) }()
		second.await(t, `"for":"another process that migrates"`)
		if err := query(t.Context(), dump, "ROLLBACK"); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := <-migrated; err != nil {
				t.Error(err)
			}
		}
	})
}

func TestSchemaOfAnotherVersion(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	newer := fmt.Sprintf("the schema of the database has version 999, and this program knows %d at most", db.LatestVersion())
	if err := query(t.Context(), connect(t, url), "UPDATE schema_migrations SET version = 999"); err != nil {
		t.Fatal(err)
	}
	for name, check := range map[string]func(context.Context, string) error{"Migrate": db.Migrate, "CheckSchema": db.CheckSchema} {
		if err := check(t.Context(), url); err == nil || !strings.HasPrefix(err.Error(), newer) || db.IsUnavailable(err) {
			t.Errorf("%s of a newer schema: got %v, want %q", name, err, newer)
		}
	}
	empty := dbtest.NewEmpty(t)
	if err := db.CheckSchema(t.Context(), empty); err == nil || !strings.Contains(err.Error(), "has version 0") || !strings.Contains(err.Error(), "ringback migrate") {
		t.Errorf("no schema: got %v, want the remedy", err)
	}
	if left := schemaOf(t, empty); len(left) != 0 {
		t.Errorf("looking made %q, want nothing", left)
	}
}

// schemaOf lists the columns of all tables and views.
func schemaOf(t *testing.T, url string) []string {
	t.Helper()
	const sql = `
		SELECT table_name || '.' || column_name || ' ' || data_type
		FROM information_schema.columns
		WHERE table_schema = 'public'
		  AND table_name <> 'schema_migrations'
		ORDER BY 1`
	rows, err := dbtest.Pool(t, url).Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	columns, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return columns
}
