package db

import (
	"context"
	"log/slog"
)

// LatestVersion is latestVersion.
var LatestVersion = latestVersion

// FirstID is firstID.
var FirstID = firstID

// MigrateDown undoes every migration.
func MigrateDown(ctx context.Context, url string) error {
	migrator, err := newMigrator(ctx, url, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer migrator.Close()
	return migrator.Down()
}

// MigrateTo brings the schema to the given version, up or down.
func MigrateTo(ctx context.Context, url string, version uint) error {
	migrator, err := newMigrator(ctx, url, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer migrator.Close()
	return migrator.Migrate(version)
}
