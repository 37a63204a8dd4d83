package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
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

	mu       sync.Mutex
	clusters [2]cluster // the first can be written
}

// cluster is a Postgres as the script describes it.
type cluster struct {
	folder string
	port   int
}

// diskSize is the limit of a cluster's data in memory: its log alone takes up to two
// gigabytes.
const diskSize = "3g"

// environ returns the script's own variables of the environment.
func (c cluster) environ() []string {
	return []string{"DATABASE_URL=", "POSTGRES_FOLDER=" + c.folder, fmt.Sprint("POSTGRES_PORT=", c.port), "POSTGRES_SIZE=" + diskSize}
}

// standbyPorts is how far the ports of a cluster and its standby are apart.
const standbyPorts = 1000

func newDatabase(script, folder string, port int) *database {
	return &database{script: script, name: "ringback", clusters: [2]cluster{{folder, port}, {folder + "-standby", port + standbyPorts}}}
}

func (d *database) urlOf(clusters ...cluster) string {
	var addresses []string
	for _, c := range clusters {
		addresses = append(addresses, fmt.Sprint("127.0.0.1:", c.port))
	}
	return fmt.Sprintf("postgres://ringback:ringback@%s/%s?sslmode=disable", strings.Join(addresses, ","), d.name)
}

// everywhere leads to the cluster that can be written.
func (d *database) everywhere() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.urlOf(d.clusters[:]...)
}

func (d *database) primary() cluster {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.clusters[0]
}

// run lets the script do something with a cluster.
func (d *database) run(ctx context.Context, c cluster, what string, environ ...string) error {
	command := exec.CommandContext(ctx, d.script, what)
	command.Env = slices.Concat(os.Environ(), c.environ(), environ)
	if d.ahead != 0 {
		command.Env = append(command.Env, fmt.Sprintf("POSTGRES_CLOCK=%+.0f", d.ahead.Seconds()))
	}
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("scripts/postgres.sh %s: %w: %s", what, err, bytes.TrimSpace(output))
	}
	return nil
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

// stop ends the postmaster: SIGINT ends connections, SIGQUIT everything at
// once, without a checkpoint.
func (d *database) stop(ctx context.Context, signal syscall.Signal) error {
	pid, err := d.postmaster()
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, signal); err != nil {
		return fmt.Errorf("stopping Postgres: %w", err)
	}
	for { // its pid may live on as a zombie's
		if _, err := os.Stat(d.pidFile()); errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if wait(ctx, 20*time.Millisecond); ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (d *database) pidFile() string {
	return filepath.Join(filepath.Dir(d.script), "..", d.primary().folder, "data", "postmaster.pid")
}

func (d *database) postmaster() (int, error) {
	content, err := os.ReadFile(d.pidFile())
	if err != nil {
		return 0, fmt.Errorf("finding Postgres: %w", err)
	}
	first, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil || pid < 2 {
		return 0, fmt.Errorf("finding Postgres: its pid is %q", first)
	}
	return pid, nil
}

// start returns when the script is content.
func (d *database) start(ctx context.Context) error { return d.run(ctx, d.primary(), "up") }

// restart stops, waits and starts. It returns once connections are taken again, after a
// recovery if the cluster needs it.
func (d *database) restart(ctx context.Context, signal syscall.Signal, away time.Duration) (back time.Time, err error) {
	if err := d.stop(ctx, signal); err != nil {
		return back, err
	}
	wait(ctx, away)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	answered := make(chan time.Time, 1)
	go func() {
		for d.connect(ctx, func(*pgx.Conn) error { return nil }) != nil && ctx.Err() == nil {
			wait(ctx, 20*time.Millisecond)
		}
		answered <- time.Now()
	}()
	err = d.start(ctx)
	return <-answered, err
}

// endBackends ends some connections of clients.
func (d *database) endBackends(ctx context.Context, count int) error {
	return d.connect(ctx, func(conn *pgx.Conn) error {
		const sql = `
			SELECT count(pg_terminate_backend(pid))
			FROM (
				SELECT pid
				FROM pg_stat_activity
				WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
				ORDER BY random()
				LIMIT $1
			) AS backends`
		if _, err := conn.Exec(ctx, sql, count); err != nil {
			return fmt.Errorf("ending backends: %w", err)
		}
		return nil
	})
}

// leader is the River client that is elected, empty for none.
func (d *database) leader(ctx context.Context) (id string, err error) {
	err = d.connect(ctx, func(conn *pgx.Conn) error {
		err := conn.QueryRow(ctx, "SELECT leader_id FROM river_leader").Scan(&id)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	return id, err
}

// connect opens a connection for as long as do runs.
func (d *database) connect(ctx context.Context, do func(*pgx.Conn) error) error {
	return d.connectTo(ctx, d.primary(), do)
}

func (d *database) connectTo(ctx context.Context, c cluster, do func(*pgx.Conn) error) error {
	return postgres.Database{Name: d.name, URL: d.urlOf(c)}.Connect(ctx, do)
}
