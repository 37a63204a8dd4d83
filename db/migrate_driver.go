package db

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"time"

	"github.com/golang-migrate/migrate/v4/database"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// migrationLockTimeout is how long a migration waits for a lock at a time. Every
	// session that wants the table waits behind it.
	migrationLockTimeout = 200 * time.Millisecond
	// migrationPause lets those sessions go on.
	migrationPause = time.Second
	// waitingInterval is the least time between two log lines about a wait.
	waitingInterval = 10 * time.Second
	// blockersInterval is how often a waiting migration looks for the sessions that it
	// waits for: several times within each wait.
	blockersInterval = 50 * time.Millisecond
)

// versionTable is golang-migrate's own.
const versionTable = "schema_migrations"

// migrationDriver is a driver for golang-migrate. It differs from golang-migrate's own in three
// ways. The version is written in the migration's transaction, so that none is left half recorded.
// Locks are waited for a moment at a time. The context ends every wait.
type migrationDriver struct {
	ctx    context.Context // golang-migrate hands none on
	config *pgxpool.Config
	conn   *pgx.Conn
	other  *pgx.Conn // looks for the sessions that a migration waits for; nil until one may wait
	logger *slog.Logger
	schema string
	lockID string // golang-migrate's own, for programs of earlier versions
	target int    // the version that Run leads to
	waits  waits
}

// openMigrations connects with the settings of url alone: a migration may take longer
// than the pool lets a statement run, or than somebody lets the role's statements run.
func openMigrations(ctx context.Context, url string, logger *slog.Logger) (*migrationDriver, error) {
	config, err := parseURL(url)
	if err != nil {
		return nil, err
	}
	setDefault(config.ConnConfig.RuntimeParams, "statement_timeout", "0")
	d := &migrationDriver{ctx: ctx, config: config, logger: logger, waits: waits{logger: logger}}
	if d.conn, err = connectWithParameters(ctx, config); err != nil {
		return nil, err
	}
	if err := d.look(); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// look finds the names that the lock is made of, and refuses a schema that is newer
// than this program.
func (d *migrationDriver) look() error {
	var name string
	const sql = "SELECT current_database(), coalesce(current_schema(), '')"
	if err := d.conn.QueryRow(d.ctx, sql).Scan(&name, &d.schema); err != nil {
		return fmt.Errorf("looking at the schema: %w", err)
	}
	var err error
	if d.lockID, err = database.GenerateAdvisoryLockId(name, d.schema, versionTable); err != nil {
		return fmt.Errorf("preparing migrations: %w", err)
	}
	version, _, err := d.Version()
	if latest := latestVersion(); err == nil && version > latest {
		return fmt.Errorf("the schema of the database has version %d, and this program knows %d at most: run the newer version of the program", version, latest)
	}
	return err
}

// Open is for golang-migrate's own command.
func (d *migrationDriver) Open(string) (database.Driver, error) {
	return nil, errors.New("open by openMigrations")
}

// Close ends the connections, and with them the lock.
func (d *migrationDriver) Close() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.ctx), time.Second)
	defer cancel()
	if d.other != nil {
		_ = d.other.Close(ctx)
	}
	return d.conn.Close(ctx)
}

// Lock waits until no other process migrates.
func (d *migrationDriver) Lock() error {
	for {
		var locked bool
		if err := d.conn.QueryRow(d.ctx, "SELECT pg_try_advisory_lock($1::text::bigint)", d.lockID).Scan(&locked); err != nil {
			return fmt.Errorf("locking migrations: %w", err)
		}
		if locked {
			return d.createVersionTable()
		}
		d.waits.tell(d.ctx, "another process that migrates", 0)
		if err := pause(d.ctx, migrationPause/4); err != nil {
			return err
		}
	}
}

// createVersionTable asks first: a role that may not create tables may still find that
// there is nothing to do.
func (d *migrationDriver) createVersionTable() error {
	var found bool
	if err := d.conn.QueryRow(d.ctx, "SELECT to_regclass($1) IS NOT NULL", d.versions()).Scan(&found); err != nil || found {
		return err
	}
	_, err := d.conn.Exec(d.ctx, "CREATE TABLE "+d.versions()+" (version bigint NOT NULL PRIMARY KEY, dirty boolean NOT NULL)")
	return err
}

// Unlock lets others migrate.
func (d *migrationDriver) Unlock() error {
	if d.conn.IsClosed() {
		return nil // and the lock with it
	}
	_, err := d.conn.Exec(d.ctx, "SELECT pg_advisory_unlock($1::text::bigint)", d.lockID)
	return err
}

func (d *migrationDriver) versions() string {
	return pgx.Identifier{d.schema, versionTable}.Sanitize()
}

// Version is the schema's, database.NilVersion for an empty database.
func (d *migrationDriver) Version() (version int, dirty bool, err error) {
	err = d.conn.QueryRow(d.ctx, "SELECT version, dirty FROM "+d.versions()).Scan(&version, &dirty)
	var answer *pgconn.PgError
	switch {
	case errors.Is(err, pgx.ErrNoRows), errors.As(err, &answer) && answer.Code == "42P01": // undefined table
		return database.NilVersion, false, nil
	case err != nil:
		return 0, false, fmt.Errorf("reading the version of the schema: %w", err)
	}
	return version, dirty, nil
}

// SetVersion is called before a migration, with the version that it leads to and dirty
// set, and after it. It notes the version; Run writes it.
func (d *migrationDriver) SetVersion(version int, dirty bool) error {
	d.target = version
	return nil
}

// Run runs a migration and writes its version, as one transaction, again after each lock
// that isn't free.
func (d *migrationDriver) Run(migration io.Reader) error {
	text, err := io.ReadAll(migration)
	if err != nil {
		return fmt.Errorf("reading migration: %w", err)
	}
	script := "SET LOCAL lock_timeout = " + milliseconds(migrationLockTimeout) + ";\n" + string(text) + "\n;" + d.recordVersion()
	for {
		blockers, err := d.attempt(script)
		var answer *pgconn.PgError
		switch {
		case err == nil:
			return nil
		case !errors.As(err, &answer) || answer.Code != lockNotAvailable:
			return fmt.Errorf("version %d: %w", d.target, err)
		}
		d.waits.tell(d.ctx, blockers, d.target)
		if err := pause(d.ctx, migrationPause); err != nil {
			return err
		}
	}
}

// recordVersion is SQL without TRUNCATE, which would wait for a dump of the table.
func (d *migrationDriver) recordVersion() string {
	sql := "\nDELETE FROM " + d.versions() + ";"
	if d.target >= 0 {
		sql += "\nINSERT INTO " + d.versions() + " (version, dirty) VALUES (" + strconv.Itoa(d.target) + ", false);"
	}
	return sql
}

// attempt runs a script once, and describes the sessions that it was seen to wait for.
func (d *migrationDriver) attempt(script string) (blockers string, err error) {
	ctx, cancel := context.WithCancel(d.ctx)
	seen := make(chan string, 1)
	go func() { seen <- d.watch(ctx) }()
	// All statements at once are one transaction, unless a statement begins another.
	err = d.conn.PgConn().Exec(d.ctx, script).Close()
	cancel()
	return <-seen, err
}

// watch looks until ctx ends for the sessions that a migration waits for, and describes
// the sessions that it saw last.
func (d *migrationDriver) watch(ctx context.Context) (blockers string) {
	if pause(ctx, blockersInterval) != nil {
		return "" // there was nothing to wait for
	}
	if d.connectOther() != nil {
		return ""
	}
	for {
		if found, err := findHolders(context.WithoutCancel(ctx), d.other, waitedFor); err == nil && len(found) > 0 {
			blockers = found.String()
		}
		if pause(ctx, blockersInterval) != nil {
			return blockers
		}
	}
}

// connectOther makes the other connection where there is none. That may take longer than an
// attempt waits, so the connection is kept for the next attempt.
func (d *migrationDriver) connectOther() (err error) {
	if d.other != nil && !d.other.IsClosed() {
		return nil
	}
	ctx, cancel := context.WithTimeout(d.ctx, connectTimeout)
	defer cancel()
	d.other, err = connectWithParameters(ctx, d.config)
	return err
}

// Drop is for golang-migrate's own command.
func (d *migrationDriver) Drop() error { return errors.New("nothing is dropped") }

// waits logs waits, once in a while.
type waits struct {
	logger *slog.Logger
	told   time.Time
	named  bool // the blockers
}

// tell logs a wait, at once when its blockers are seen first. They may be overlooked at the
// first attempt.
func (w *waits) tell(ctx context.Context, blockers string, version int) {
	now := time.Now()
	switch {
	case blockers == "" && w.told.IsZero():
		w.told = now
	case now.Sub(w.told) >= waitingInterval, blockers != "" && !w.named:
		w.told, w.named = now, w.named || blockers != ""
		w.logger.WarnContext(ctx, "migration_waits", "version", version, "for", blockers,
			"remedy", "nothing is held up meanwhile; to go on at once, end that session: SELECT pg_terminate_backend(pid)")
	}
}

// pause waits, or returns the error of ctx where that ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
