package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"ringback/cmd/internal/postgres"
)

// lockName is the application_name of a session that holds a lock, and writes nothing.
const lockName = "chaos-lock"

// lockTable holds the lock that CREATE INDEX takes: others read, and nobody writes.
func (d *database) lockTable(ctx context.Context, table string, length time.Duration) error {
	return d.connect(ctx, func(conn *pgx.Conn) error {
		err := postgres.Execute(ctx, conn, "SET application_name = '"+lockName+"'", "BEGIN", "LOCK TABLE "+table+" IN SHARE MODE")
		if err != nil {
			return fmt.Errorf("locking %s: %w", table, err)
		}
		wait(ctx, length)
		return nil
	})
}

// fillDisk leaves no room for the database's data, for a while. A Postgres that the full
// disk ended, as it does where its log finds no room, is started once there is room
// again.
func (d *database) fillDisk(ctx context.Context, length time.Duration) error {
	if err := d.run(ctx, d.primary(), "fill"); err != nil {
		return err
	}
	wait(ctx, length)
	ctx = context.WithoutCancel(ctx)
	if err := d.run(ctx, d.primary(), "free"); err != nil {
		return err
	}
	return d.start(ctx)
}
