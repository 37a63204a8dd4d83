package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"ringback/cmd/internal/postgres"
)

// database is the private cluster that scripts/postgres.sh runs for chaos, and the
// cluster that takes its place in a failover.
type database struct {
	script string
	name   string        // of the database that connections lead to
	ahead  time.Duration // of this machine's clock

	clusters   [2]cluster
	failedOver atomic.Bool // the second is written, not the first
}

// cluster is a Postgres as the script describes it.
type cluster struct {
	folder string
	port   int
}

// standbyPorts is how far the ports of a cluster and its standby are apart.
const standbyPorts = 1000

// diskSize is the limit of a cluster's data in memory: its log alone takes up to two
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

// everywhere leads to the cluster that can be written, for clients that look for it.
func (d *database) everywhere() string { return d.urlOf(d.clusters[:]...) }

// primary is the cluster that can be written.
func (d *database) primary() cluster {
	if d.failedOver.Load() {
		return d.clusters[1]
	}
	return d.clusters[0]
}

// standby is the other cluster, if it is there.
func (d *database) standby() cluster {
	if d.failedOver.Load() {
		return d.clusters[0]
	}
	return d.clusters[1]
}

// run lets the script do something with a cluster. environ are settings of the script,
// without the prefix of their names.
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
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("scripts/postgres.sh %s: %w: %s", what, err, bytes.TrimSpace(output))
	}
	return nil
}

// start returns when the script is content.
func (d *database) start(ctx context.Context) error { return d.run(ctx, d.primary(), "up") }

// create makes a database for a run, which stays there to be looked into.
func (d *database) create(ctx context.Context, name string) error {
	d.name = "ringback"
	defer func() { d.name = name }()
	return d.connect(ctx, func(conn *pgx.Conn) error {
		return postgres.Execute(ctx, conn, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)", "CREATE DATABASE "+name)
	})
}

// connect opens a connection for as long as do runs.
func (d *database) connect(ctx context.Context, do func(*pgx.Conn) error) error {
	return postgres.Database{Name: d.name, URL: d.urlOf(d.primary())}.Connect(ctx, do)
}

func (d *database) count(ctx context.Context, sql string, args ...any) (count int, err error) {
	err = d.connect(ctx, func(conn *pgx.Conn) error { return conn.QueryRow(ctx, sql, args...).Scan(&count) })
	return count, err
}

// texts are the rows of a query that returns texts.
func (d *database) texts(ctx context.Context, sql string, args ...any) (texts []string, err error) {
	err = d.connect(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, sql, args...)
		if err == nil {
			texts, err = pgx.CollectRows(rows, pgx.RowTo[string])
		}
		return err
	})
	return texts, err
}

// sessions joins River clients with the sessions in which their processes hold a lock. The
// name of the session is the server's.
const sessions = `
	FROM processes
	JOIN pg_locks ON locktype = 'advisory'
	             AND classid::bigint << 32 | objid::bigint = hashtextextended('ringback process ' || id, 0)
	JOIN pg_stat_activity USING (pid)`

// clientsOf are the River clients of a server's processes that live.
func (d *database) clientsOf(ctx context.Context, server string) ([]string, error) {
	return d.texts(ctx, "SELECT id"+sessions+" WHERE application_name = $1", server)
}

// leader is the server whose River client is elected.
func (d *database) leader(ctx context.Context) (server string, err error) {
	names, err := d.texts(ctx, "SELECT application_name"+sessions+" JOIN river_leader ON leader_id = id")
	if err == nil && len(names) != 1 {
		err = errDown
	}
	return strings.Join(names, " "), err
}

// errNoFaketime is a machine on which no other clock can be had.
var errNoFaketime = errors.New("no program can have a clock of its own here")

// setClock lets the clock be ahead of this machine's, or behind it.
func (d *database) setClock(ctx context.Context, ahead time.Duration) error {
	if ahead == d.ahead {
		return nil
	}
	if ahead != 0 {
		if err := d.run(ctx, d.primary(), "faketime"); err != nil {
			return errors.Join(errNoFaketime, err)
		}
	}
	if err := d.run(ctx, d.primary(), "down"); err != nil {
		return err
	}
	d.ahead = ahead
	return d.start(ctx)
}
