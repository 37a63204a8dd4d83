package db

import "context"

// FirstID is firstID.
var FirstID = firstID

// MigrateDown undoes every migration.
func MigrateDown(ctx context.Context, url string) error {
	migrator, err := newMigrator(ctx, url)
	if err != nil {
		return err
	}
	defer migrator.Close()
	return migrator.Down()
}
