package db_test

import (
	"fmt"
	"io/fs"
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

	t.Run("EqualThoseOfRiver", func(t *testing.T) {
		t.Parallel()
		migrator, err := rivermigrate.New(riverpgxv5.New(nil), nil)
		if err != nil {
			t.Fatal(err)
		}
		versions := migrator.AllVersions()[1:] // version 1 is its own bookkeeping, which ours replaces
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
