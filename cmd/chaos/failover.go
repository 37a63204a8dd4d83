package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"ringback/cmd/internal/postgres"
)

// failoverPatience is how long a failover may take before it is called off.
const failoverPatience = time.Minute

// failOver makes a standby, lets the primary be written no more, promotes the standby
// when it has everything, and leaves the old primary there, with its connections, for
// a while. It returns from when until when none could be written.
func (d *database) failOver(ctx context.Context, length time.Duration) (w window, err error) {
	d.mu.Lock()
	old, next := d.clusters[0], d.clusters[1]
	d.mu.Unlock()
	if err := d.makeStandby(ctx, old, next); err != nil {
		return w, err
	}
	w.from = time.Now()
	if err := d.promote(ctx, old, next); err != nil {
		undone := context.WithoutCancel(ctx)
		return w, errors.Join(err, d.setReadOnly(undone, old, "off"), d.run(undone, next, "clean"))
	}
	w.to = time.Now()
	d.mu.Lock()
	d.clusters = [2]cluster{next, old}
	d.mu.Unlock()
	wait(ctx, length)
	return w, d.run(context.WithoutCancel(ctx), old, "clean")
}

func (d *database) makeStandby(ctx context.Context, of, standby cluster) error {
	if err := d.run(ctx, standby, "clean"); err != nil {
		return err
	}
	return d.run(ctx, standby, "up", fmt.Sprint("POSTGRES_PRIMARY=", of.port))
}

func (d *database) setReadOnly(ctx context.Context, c cluster, value string) error {
	return d.connectTo(ctx, c, func(conn *pgx.Conn) error {
		return postgres.Execute(ctx, conn, "ALTER SYSTEM SET default_transaction_read_only = "+value, "SELECT pg_reload_conf()")
	})
}

// promote loses nothing: it waits until all earlier writers have ended, and until the
// standby has all their writes.
func (d *database) promote(ctx context.Context, old, next cluster) error {
	ctx, cancel := context.WithTimeout(ctx, failoverPatience)
	defer cancel()
	if err := d.setReadOnly(ctx, old, "on"); err != nil {
		return err
	}
	wait(ctx, time.Second) // until every session knows
	position, err := d.lastWritten(ctx, old)
	if err != nil {
		return err
	}
	const caughtUp = "SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn"
	if err := d.waitFor(ctx, next, caughtUp, position); err != nil {
		return err
	}
	return d.waitFor(ctx, next, "SELECT pg_promote()")
}

// lastWritten returns the end of the log when the transactions that may still write
// have ended.
func (d *database) lastWritten(ctx context.Context, c cluster) (position string, err error) {
	var known time.Time
	err = d.connectTo(ctx, c, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&known)
	})
	if err != nil {
		return "", fmt.Errorf("reading the old primary's clock: %w", err)
	}
	const ended = `
		SELECT NOT EXISTS (
			SELECT FROM pg_stat_activity
			WHERE backend_type = 'client backend'
			  AND xact_start < $1
			  AND application_name <> '` + lockName + `'
		)`
	if err := d.waitFor(ctx, c, ended, known); err != nil {
		return "", err
	}
	err = d.connectTo(ctx, c, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT pg_current_wal_lsn()::text").Scan(&position)
	})
	return position, err
}

// waitFor asks until the answer is yes.
func (d *database) waitFor(ctx context.Context, c cluster, sql string, args ...any) error {
	for {
		var yes bool
		err := d.connectTo(ctx, c, func(conn *pgx.Conn) error { return conn.QueryRow(ctx, sql, args...).Scan(&yes) })
		if err == nil && yes {
			return nil
		}
		if wait(ctx, 50*time.Millisecond); ctx.Err() != nil {
			return errors.Join(fmt.Errorf("waiting for %s: %w", sql, ctx.Err()), err)
		}
	}
}
