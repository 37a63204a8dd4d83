// Package dbtest gives every test a database of its own, cloned from a
// migrated template.
package dbtest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
)

// Patience is how long tests wait for what has to come. It says nothing of how soon that
// is: the machine may be busy.
const Patience = 5 * time.Minute

// New returns the URL of a fresh database that holds the current schema and is dropped
// when the test ends. The server is DATABASE_URL's, or else the server that `make up`
// starts.
func New(t testing.TB) string {
	t.Helper()
	return create(t, "TEMPLATE "+template(t))
}

// NewEmpty returns the URL of a fresh database without a schema.
func NewEmpty(t testing.TB) string {
	t.Helper()
	return create(t, "")
}

// NewEncoded returns the URL of a fresh database of another encoding, likewise.
func NewEncoded(t testing.TB, encoding string) string {
	t.Helper()
	return create(t, "ENCODING '"+encoding+"' LOCALE 'C' TEMPLATE template0")
}

// NewCollated returns the URL of a fresh database that sorts texts as people do, by ICU,
// which Postgres has from 15 on.
func NewCollated(t testing.TB) string {
	t.Helper()
	conn := connect(t)
	defer conn.Close(context.Background())
	var hasICU bool
	const sql = "SELECT current_setting('server_version_num')::int >= 150000"
	if err := conn.QueryRow(context.Background(), sql).Scan(&hasICU); err != nil {
		t.Fatalf("asking for the version: %v", err)
	}
	if !hasICU {
		return create(t, "ENCODING 'UTF8' LOCALE 'C.UTF-8' TEMPLATE template0")
	}
	return create(t, "ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'de-DE' TEMPLATE template0")
}

// NewPool returns a pool on a database as New makes it.
func NewPool(t testing.TB) *pgxpool.Pool {
	t.Helper()
	return Pool(t, New(t))
}

// Pool returns a pool on the database at url that is closed when the test
// ends.
func Pool(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := db.Open(t.Context(), patient(url), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// Reads returns a pool for clients' reads, likewise.
func Reads(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := db.OpenReads(t.Context(), patient(url), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// patient lets a test hold a lock for as long as it takes.
func patient(url string) string {
	if strings.Contains(url, "idle_in_transaction_session_timeout") {
		return url
	}
	return url + "&idle_in_transaction_session_timeout=0"
}

func create(t testing.TB, options string) string {
	t.Helper()
	name := "ringback_test_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	execute(t, "CREATE DATABASE "+name+" "+options)
	t.Cleanup(func() { execute(t, "DROP DATABASE "+name+" WITH (FORCE)") })
	return address(t, name)
}

// template returns the name of the template for the current migrations, and
// makes it where it doesn't exist yet. Test programs that run side by side
// wait for each other.
func template(t testing.TB) string {
	t.Helper()
	name := "ringback_template_" + migrationsDigest(t)
	conn := connect(t)
	defer conn.Close(context.Background())
	ctx := context.Background()
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock(hashtext('ringback_template'))"); err != nil {
		t.Fatalf("locking template: %v", err)
	}
	var exists bool
	const sql = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)"
	if err := conn.QueryRow(ctx, sql, name).Scan(&exists); err != nil {
		t.Fatalf("looking for template: %v", err)
	}
	if exists {
		return name
	}
	// Under another name until it is whole: an interrupted run must not leave
	// half a template behind.
	const unfinished = "ringback_template_unfinished"
	execute(t, "DROP DATABASE IF EXISTS "+unfinished+" WITH (FORCE)")
	execute(t, "CREATE DATABASE "+unfinished)
	if err := db.Migrate(ctx, address(t, unfinished)); err != nil {
		t.Fatal(err)
	}
	execute(t, "ALTER DATABASE "+unfinished+" RENAME TO "+name)
	return name
}

func migrationsDigest(t testing.TB) string {
	t.Helper()
	digest := sha256.New()
	err := fs.WalkDir(db.Migrations(), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(db.Migrations(), path)
		fmt.Fprintf(digest, "%s\n%s\n", path, content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(digest.Sum(nil)[:8])
}

// serverURL is where the tests' databases are made: the Postgres that `make up` starts, with
// the same variables.
func serverURL() string {
	if url := os.Getenv("DATABASE_URL"); url != "" {
		return url
	}
	port := cmp.Or(os.Getenv("POSTGRES_PORT"), "5433")
	return "postgres://ringback:ringback@127.0.0.1:" + port + "/ringback?sslmode=disable"
}

// IsShared tells whether a URL leads straight to the server of New's databases, which is
// always there.
func IsShared(through string) bool {
	parsed, err := url.Parse(through)
	server, serverErr := url.Parse(serverURL())
	return err == nil && serverErr == nil && parsed.Host == server.Host
}

// address is serverURL with another database's name. A busy server may be slow to take a
// connection.
func address(t testing.TB, database string) string {
	t.Helper()
	parsed, err := url.Parse(serverURL())
	if err != nil {
		t.Fatal("DATABASE_URL must be a URL for the tests")
	}
	parsed.Path = "/" + database
	query := parsed.Query()
	query.Set("connect_timeout", fmt.Sprint(Patience.Seconds()))
	parsed.RawQuery = query.Encode()
	return parsed.String()
}

func connect(t testing.TB) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	config, err := pgxpool.ParseConfig(serverURL())
	if err != nil {
		t.Fatal("DATABASE_URL must be a URL for the tests")
	}
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		t.Fatalf("connecting to the tests' Postgres, which `make up` starts: %v", err)
	}
	return conn
}

// execute runs a statement that can't be part of a transaction.
func execute(t testing.TB, sql string) {
	t.Helper()
	conn := connect(t)
	defer conn.Close(context.Background())
	if _, err := conn.Exec(context.Background(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}
