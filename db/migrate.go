package db

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/source/iofs"
)

// migrations are River's own, one file for each of its versions (in one transaction
// Postgres refuses to use an enum value that it just added), then Ringback's.
//
//go:embed migrations/*.sql
var migrations embed.FS

// Migrations are the migration files, at the top of the returned file system.
func Migrations() fs.FS {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the embedded folder has this name
	}
	return files
}

// Migrate is MigrateTelling without a log.
func Migrate(ctx context.Context, url string) error {
	return MigrateTelling(ctx, url, slog.New(slog.DiscardHandler))
}

// MigrateTelling brings the schema of the database at url up to date, until ctx ends, and
// logs the sessions that it waits for. Processes that start together wait for each other.
// Each version is one transaction, which waits for other sessions' locks for
// migrationLockTimeout at a time. It fails where a newer version of the program has
// migrated already.
func MigrateTelling(ctx context.Context, url string, logger *slog.Logger) error {
	migrator, err := newMigrator(ctx, url, logger)
	if err != nil {
		return err
	}
	defer migrator.Close()
	err = migrator.Up()
	var dirty migrate.ErrDirty
	switch {
	case errors.Is(err, migrate.ErrNoChange):
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &dirty): // by an earlier version of the program, which wrote a version in a transaction of its own
		return fmt.Errorf("migrating database: version %d was interrupted; each version is one transaction, so look whether its changes are there and set schema_migrations to (%[1]d, false) if they are, to (%d, false) if not", dirty.Version, dirty.Version-1)
	case err != nil:
		return fmt.Errorf("migrating database: %w", err)
	}
	return nil
}

// CheckSchema fails, with the remedy, where the schema of the database at url isn't this
// program's. It changes nothing.
func CheckSchema(ctx context.Context, url string) error {
	driver, err := openMigrations(ctx, url, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer driver.Close()
	version, _, err := driver.Version()
	switch latest := latestVersion(); {
	case err != nil:
		return err
	case version < latest:
		return fmt.Errorf("the schema of the database has version %d, and this program needs %d: run ringback migrate first", max(version, 0), latest)
	}
	return nil
}

// latestVersion is the version of the last migration.
func latestVersion() int {
	files, err := iofs.New(Migrations(), ".")
	if err != nil {
		panic(err) // the embedded files have names as they should be
	}
	latest, err := files.First()
	for next := latest; err == nil; next, err = files.Next(latest) {
		latest = next
	}
	if !errors.Is(err, os.ErrNotExist) {
		panic(err)
	}
	return int(min(latest, math.MaxInt))
}

func newMigrator(ctx context.Context, url string, logger *slog.Logger) (*migrate.Migrate, error) {
	files, err := iofs.New(Migrations(), ".")
	if err != nil {
		return nil, fmt.Errorf("reading migrations: %w", err)
	}
	driver, err := openMigrations(ctx, url, logger)
	if err != nil {
		return nil, err
	}
	migrator, err := migrate.NewWithInstance("embedded", files, "postgres", driver)
	if err != nil {
		driver.Close()
		return nil, fmt.Errorf("preparing migrations: %w", err)
	}
	migrator.LockTimeout = math.MaxInt64 // ctx ends the wait
	return migrator, nil
}
