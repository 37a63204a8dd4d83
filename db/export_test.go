package db

import (
	"context"
	"log/slog"
	"time"
)

// Names for the tests of the package.
var (
	LatestVersion = latestVersion
	FirstID       = firstID
	FaultOf       = faultOf
)

// LookUpPages is what a look-up costs.
const LookUpPages = lookUpPages

// Sizes of batches.
const (
	ReconciledAtOnce = reconciledAtOnce
	SearchedAtOnce   = searchedAtOnce
)

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

// TellAgainAfter sets the least time between two lines about a kind of fault.
func (h *Health) TellAgainAfter(d time.Duration) { h.again = d }
