package db

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/golang-migrate/migrate/v4"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
)

// migrations are River's own, one file for each of its versions (in one
// transaction Postgres refuses to use an enum value that it just added), then
// ours.
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

// Migrate brings the schema of the database at url up to date. Processes that
// start together wait for each other.
func Migrate(ctx context.Context, url string) error {
	migrator, err := newMigrator(ctx, url)
	if err != nil {
		return err
	}
	defer migrator.Close()
	err = migrator.Up()
	var dirty migrate.ErrDirty
	switch {
	case errors.Is(err, migrate.ErrNoChange):
		return nil
	case errors.As(err, &dirty):
		return fmt.Errorf("migrating database: version %d was interrupted; each version is one transaction, so look whether its changes are there and set schema_migrations to (%[1]d, false) if they are, to (%d, false) if not", dirty.Version, dirty.Version-1)
	case err != nil:
		return fmt.Errorf("migrating database: %w", err)
	}
	return nil
}

// newMigrator connects with the settings of url alone: a migration may take
// longer than the pool lets a statement run.
func newMigrator(ctx context.Context, url string) (*migrate.Migrate, error) {
	files, err := iofs.New(Migrations(), ".")
	if err != nil {
		return nil, fmt.Errorf("reading migrations: %w", err)
	}
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("parsing database URL: %w", hideSecrets(err))
	}
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = connectTimeout
	}
	conns := stdlib.OpenDB(*config.ConnConfig)
	if err := conns.PingContext(ctx); err != nil {
		conns.Close()
		return nil, fmt.Errorf("connecting to database: %w", err)
	}
	driver, err := migratepgx.WithInstance(conns, &migratepgx.Config{})
	if err != nil {
		conns.Close()
		return nil, fmt.Errorf("preparing migrations: %w", err)
	}
	migrator, err := migrate.NewWithInstance("embedded", files, "postgres", driver)
	if err != nil {
		driver.Close()
		return nil, fmt.Errorf("preparing migrations: %w", err)
	}
	migrator.LockTimeout = time.Minute // another process may be migrating a large table
	return migrator, nil
}
