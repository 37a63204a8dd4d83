package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// database is the private cluster that scripts/postgres.sh runs for us.
type database struct {
	url    string
	script string
	folder string // of the cluster, as the script's POSTGRES_FOLDER names it
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
	for { // its pid may live on, as that of a process that nobody has waited for
		if _, err := os.Stat(d.pidFile()); errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if wait(ctx, 20*time.Millisecond); ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (d *database) pidFile() string {
	return filepath.Join(filepath.Dir(d.script), "..", d.folder, "data", "postmaster.pid")
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
func (d *database) start(ctx context.Context) error {
	output, err := exec.CommandContext(ctx, d.script, "up").CombinedOutput()
	if err != nil {
		return fmt.Errorf("starting Postgres: %w: %s", err, output)
	}
	return nil
}

// restart stops, waits and starts. It returns when connections were taken
// again, after a recovery where one was needed.
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
	conn, err := pgx.Connect(ctx, d.url)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return do(conn)
}
