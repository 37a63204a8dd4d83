package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/postgres"
	"ringback/cmd/internal/program"
)

// database is the private cluster that scripts/postgres.sh runs for chaos, and the
// cluster that takes its place in a failover.
type database struct {
	script string
	name   string        // of the database that connections lead to
	ahead  time.Duration // the database's clock less this machine's

	clusters [2]cluster
	written  atomic.Int32 // index of the cluster that can be written
}

// cluster is a Postgres that the script runs.
type cluster struct {
	folder string
	port   int
}

// standbyPorts is how far the ports of a cluster and its standby are apart.
const standbyPorts = 1000

// diskSize bounds a cluster's data in memory: the write-ahead log alone takes up to two
// gigabytes.
const diskSize = "3g"

func newDatabase(script, folder string, port int) *database {
	return &database{script: script, name: "ringback", clusters: [2]cluster{{folder, port}, {folder + "-standby", port + standbyPorts}}}
}

func (d *database) urlOf(places ...cluster) string {
	var addresses []string
	for _, c := range places {
		addresses = append(addresses, fmt.Sprint("127.0.0.1:", c.port))
	}
	return fmt.Sprintf("postgres://ringback:ringback@%s/%s?sslmode=disable", strings.Join(addresses, ","), d.name)
}

// everywhere is a URL with both addresses, for clients that find the cluster that can be
// written.
func (d *database) everywhere() string { return d.urlOf(d.clusters[:]...) }

// primary is the cluster that can be written.
func (d *database) primary() cluster { return d.clusters[d.written.Load()] }

// standby is the other cluster, which may not run.
func (d *database) standby() cluster { return d.clusters[1-d.written.Load()] }

// run runs the script on a cluster. environ are settings of the script, whose names lack the
// prefix POSTGRES_.
func (d *database) run(ctx context.Context, c cluster, what string, environ ...string) error {
	environ = append(environ, "FOLDER="+c.folder, fmt.Sprint("PORT=", c.port), "SIZE="+diskSize)
	if d.ahead != 0 {
		environ = append(environ, fmt.Sprintf("CLOCK=%+.0f", d.ahead.Seconds()))
	}
	command := exec.CommandContext(ctx, d.script, what)
	command.Env = append(os.Environ(), "DATABASE_URL=")
	for _, setting := range environ {
		command.Env = append(command.Env, "POSTGRES_"+setting)
	}
	_, err := program.Output(command)
	return err
}

// start starts the primary, and returns when it takes connections.
func (d *database) start(ctx context.Context) error { return d.run(ctx, d.primary(), "up") }

// create makes a database for a run. It stays, so that a failed run can be looked into.
func (d *database) create(ctx context.Context, name string) error {
	d.name = "ringback"
	defer func() { d.name = name }()
	return d.execute(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)", "CREATE DATABASE "+name)
}

// on is the database on a cluster.
func (d *database) on(c cluster) postgres.Database {
	return postgres.Database{Name: d.name, URL: d.urlOf(c)}
}

func (d *database) execute(ctx context.Context, statements ...string) error {
	return d.on(d.primary()).Execute(ctx, statements...)
}

// query returns the rows of a query, as scan reads each.
func query[T any](ctx context.Context, d *database, scan pgx.RowToFunc[T], sql string, args ...any) (found []T, err error) {
	err = d.on(d.primary()).Connect(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, sql, args...)
		if err == nil {
			found, err = pgx.CollectRows(rows, scan)
		}
		return err
	})
	return found, err
}

func (d *database) count(ctx context.Context, sql string, args ...any) (count int, err error) {
	counts, err := query(ctx, d, pgx.RowTo[int], sql, args...)
	for _, found := range counts {
		count += found
	}
	return count, err
}

// sessions joins River clients with the sessions in which their processes hold a lock. A
// session has the server's name.
const sessions = `
	FROM processes
	JOIN pg_locks ON locktype = 'advisory'
	             AND classid::bigint << 32 | objid::bigint = hashtextextended('ringback process ' || id, 0)
	JOIN pg_stat_activity USING (pid)`

// clientsOf are the River clients of a server's living processes.
func (d *database) clientsOf(ctx context.Context, server string) ([]string, error) {
	return query(ctx, d, pgx.RowTo[string], "SELECT id"+sessions+" WHERE application_name = $1", server)
}

// leader is the server whose River client is elected.
func (d *database) leader(ctx context.Context) (server string, err error) {
	names, err := query(ctx, d, pgx.RowTo[string], "SELECT application_name"+sessions+" JOIN river_leader ON leader_id = id")
	if err == nil && len(names) != 1 {
		err = errDown
	}
	return strings.Join(names, " "), err
}

// setClock gives the database the planned clock, where this machine allows that.
func (t *trial) setClock() {
	d := t.database
	if t.plan.Ahead != 0 {
		if err := d.run(t.Ctx, d.primary(), "faketime"); err != nil {
			t.say("  not done: %s: %v", clocks, err)
			t.plan.Ahead = 0
		}
	}
	if t.plan.Ahead != 0 {
		t.say("  the database's clock is %s ahead", t.plan.Ahead)
	}
	if t.plan.Ahead != d.ahead {
		t.Must(d.run(t.Ctx, d.primary(), "down"))
		d.ahead = t.plan.Ahead
		t.Must(d.start(t.Ctx))
	}
}

// script runs the script on the primary. down ends connections, or with STOP=immediate
// everything at once, without a checkpoint; up waits for the recovery after that. A script
// that has begun always ends, since the state would be unknown otherwise.
func script(what string, environ ...string) act {
	return func(ctx context.Context, t *trial, _ *fault) error {
		return t.database.run(context.WithoutCancel(ctx), t.database.primary(), what, environ...)
	}
}

// freeDisk makes room again. It also starts a Postgres that the full disk has ended, as where
// the write-ahead log found no room.
func freeDisk(ctx context.Context, t *trial, f *fault) error {
	if err := script("free")(ctx, t, f); err != nil {
		return err
	}
	return script("up")(ctx, t, f)
}

// lockName is the application_name of a session that holds a lock and writes nothing.
const lockName = "chaos-lock"

// lockTable holds the lock that CREATE INDEX takes: the table can be read and not written.
func lockTable(ctx context.Context, t *trial, f *fault) error {
	return t.database.on(t.database.primary()).Connect(ctx, func(conn *pgx.Conn) error {
		err := postgres.Execute(ctx, conn, "SET application_name = '"+lockName+"'", "BEGIN", "LOCK TABLE "+f.Of+" IN SHARE MODE")
		if err == nil {
			load.Pause(ctx, f.Length)
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

// failOver makes a standby, makes the primary read-only, and promotes the standby when it has
// all writes. The old primary stays for a while, with its connections.
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
	d.written.Store(1 - d.written.Load())
	return nil
}

// removeStandby removes the cluster that can't be written.
func removeStandby(ctx context.Context, t *trial, _ *fault) error {
	return t.database.run(ctx, t.database.standby(), "clean")
}

func (d *database) setReadOnly(ctx context.Context, value string) error {
	return d.execute(ctx, "ALTER SYSTEM SET default_transaction_read_only = "+value, "SELECT pg_reload_conf()")
}

// promote loses no write: it waits until all earlier writers have ended, and until the
// standby has their writes.
func (d *database) promote(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, failoverPatience)
	defer cancel()
	if err := d.setReadOnly(ctx, "on"); err != nil {
		return err
	}
	// The time is that of a session: pg_conf_load_time() is the machine's, not POSTGRES_CLOCK's,
	// since up to version 15 the postmaster reads the clock in a signal handler within
	// libfaketime's wait.
	told, err := d.await(ctx, d.primary(), "SELECT clock_timestamp()::text")
	if err != nil {
		return err
	}
	// A session learns of the setting within a second, so a transaction that began before then
	// may write.
	const lastWritten = `
		SELECT pg_current_wal_lsn()::text
		WHERE now() > $1::timestamptz + interval '1 second'
		  AND NOT EXISTS (
			SELECT FROM pg_stat_activity
			WHERE backend_type = 'client backend'
			  AND xact_start < $1::timestamptz + interval '1 second'
			  AND application_name <> '` + lockName + `'
		  )`
	position, err := d.await(ctx, d.primary(), lastWritten, told)
	if err != nil {
		return err
	}
	const caughtUp = "SELECT 'promoted' WHERE CASE WHEN pg_last_wal_replay_lsn() >= $1::pg_lsn THEN pg_promote() END"
	_, err = d.await(ctx, d.standby(), caughtUp, position)
	return err
}

// await repeats a query until it returns a row.
func (d *database) await(ctx context.Context, c cluster, sql string, args ...any) (answer string, err error) {
	for {
		err = d.on(c).Connect(ctx, func(conn *pgx.Conn) error {
			return conn.QueryRow(ctx, sql, args...).Scan(&answer)
		})
		if err == nil {
			return answer, nil
		}
		if !load.Pause(ctx, 50*time.Millisecond) {
			return "", errors.Join(fmt.Errorf("waiting for %s: %w", sql, ctx.Err()), err)
		}
	}
}
