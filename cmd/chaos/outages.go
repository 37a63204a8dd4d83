package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"ringback/cmd/internal/postgres"
)

// script lets the script do something with the cluster that can be written. down ends
// connections, or with STOP=immediate everything at once, without a checkpoint; up waits
// for the recovery that follows. What has begun is ended, or nobody knew the state.
func script(what string, environ ...string) act {
	return func(ctx context.Context, t *trial, _ *fault) error {
		return t.database.run(context.WithoutCancel(ctx), t.database.primary(), what, environ...)
	}
}

// freeDisk makes room again. A Postgres that the full disk ended, as it does where its log
// finds no room, is started then.
func freeDisk(ctx context.Context, t *trial, f *fault) error {
	if err := script("free")(ctx, t, f); err != nil {
		return err
	}
	return script("up")(ctx, t, f)
}

// lockName is the application_name of a session that holds a lock, and writes nothing.
const lockName = "chaos-lock"

// lockTable holds the lock that CREATE INDEX takes: others read, and nobody writes.
func lockTable(ctx context.Context, t *trial, f *fault) error {
	return t.database.connect(ctx, func(conn *pgx.Conn) error {
		err := postgres.Execute(ctx, conn, "SET application_name = '"+lockName+"'", "BEGIN", "LOCK TABLE "+f.Of+" IN SHARE MODE")
		if err == nil {
			wait(ctx, f.Length)
			f.Length = 0
		}
		return err
	})
}

// endBackends ends some connections of clients.
func endBackends(ctx context.Context, t *trial, f *fault) error {
	const sql = `
		SELECT count(pg_terminate_backend(pid))
		FROM (
			SELECT pid
			FROM pg_stat_activity
			WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
			ORDER BY random()
			LIMIT $1
		) AS backends`
	_, err := t.database.count(ctx, sql, f.Target+1)
	return err
}

// failoverPatience is how long a failover may take before it is called off.
const failoverPatience = time.Minute

// failOver makes a standby, lets the primary be written no more, and promotes the standby
// when it has everything. The old primary is there for a while, with its connections.
func failOver(ctx context.Context, t *trial, f *fault) error {
	d := t.database
	if err := removeStandby(ctx, t, f); err != nil {
		return err
	}
	if err := d.run(ctx, d.standby(), "up", fmt.Sprint("PRIMARY=", d.primary().port)); err != nil {
		return err
	}
	if err := d.promote(ctx); err != nil {
		undone := context.WithoutCancel(ctx)
		return errors.Join(err, d.setReadOnly(undone, "off"), removeStandby(undone, t, f))
	}
	d.failedOver.Store(!d.failedOver.Load())
	return nil
}

// removeStandby removes the cluster that can't be written.
func removeStandby(ctx context.Context, t *trial, _ *fault) error {
	return t.database.run(ctx, t.database.standby(), "clean")
}

func (d *database) setReadOnly(ctx context.Context, value string) error {
	return d.connect(ctx, func(conn *pgx.Conn) error {
		return postgres.Execute(ctx, conn, "ALTER SYSTEM SET default_transaction_read_only = "+value, "SELECT pg_reload_conf()")
	})
}

// promote loses nothing: it waits until all earlier writers have ended, and until the
// standby has all their writes.
func (d *database) promote(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, failoverPatience)
	defer cancel()
	if err := d.setReadOnly(ctx, "on"); err != nil {
		return err
	}
	// A session knows a second later, so a transaction that began before then may write.
	const lastWritten = `
		SELECT pg_current_wal_lsn()::text
		WHERE now() > pg_conf_load_time() + interval '1 second'
		  AND NOT EXISTS (
			SELECT FROM pg_stat_activity
			WHERE backend_type = 'client backend'
			  AND xact_start < pg_conf_load_time() + interval '1 second'
			  AND application_name <> '` + lockName + `'
		  )`
	position, err := d.await(ctx, d.primary(), lastWritten)
	if err != nil {
		return err
	}
	const caughtUp = "SELECT 'promoted' WHERE CASE WHEN pg_last_wal_replay_lsn() >= $1::pg_lsn THEN pg_promote() END"
	_, err = d.await(ctx, d.standby(), caughtUp, position)
	return err
}

// await asks until there is an answer.
func (d *database) await(ctx context.Context, c cluster, sql string, args ...any) (answer string, err error) {
	for {
		err = postgres.Database{Name: d.name, URL: d.urlOf(c)}.Connect(ctx, func(conn *pgx.Conn) error {
			return conn.QueryRow(ctx, sql, args...).Scan(&answer)
		})
		if err == nil {
			return answer, nil
		}
		if wait(ctx, 50*time.Millisecond); ctx.Err() != nil {
			return "", errors.Join(fmt.Errorf("waiting for %s: %w", sql, ctx.Err()), err)
		}
	}
}
