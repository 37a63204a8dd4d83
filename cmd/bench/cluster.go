package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"ringback/cmd/internal/postgres"
	"ringback/cmd/internal/program"
)

// cluster is the Postgres that everything runs on.
type cluster struct {
	*postgres.Server
	version    string
	postmaster int // pid, 0 when it doesn't run where its CPU time can be read
	made       int // databases, for their names
}

// database is a measurement's own database.
type database = postgres.Database

// openCluster makes statements countable and finds the postmaster: the parent of every
// backend, if its pid means the same to us as it does to Postgres.
func openCluster(ctx context.Context, databaseURL string) (*cluster, error) {
	server, err := postgres.Open(ctx, databaseURL)
	if err != nil {
		return nil, err
	}
	c := &cluster{Server: server}
	var backend int
	err = server.Execute(ctx, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
	if err == nil {
		err = c.QueryRow(ctx, "SELECT pg_backend_pid(), current_setting('server_version')").Scan(&backend, &c.version)
	}
	if err != nil {
		server.Close()
		return nil, fmt.Errorf("asking Postgres who it is: %w", err)
	}
	if process, err := program.ReadProcess(backend); err == nil && process.Name == "postgres" {
		c.postmaster = process.Parent
	}
	return c, nil
}

// create makes a database, empty or as a copy of another, and has all earlier writes
// flushed: no measurement pays for the one before.
func (c *cluster) create(ctx context.Context, purpose, template string) (database, error) {
	c.made++
	d, err := c.Create(ctx, fmt.Sprintf("bench_%s_%d", strings.ReplaceAll(purpose, "-", "_"), c.made), template)
	if err == nil {
		err = c.checkpoint(ctx)
	}
	return d, err
}

func (c *cluster) checkpoint(ctx context.Context) error { return c.Execute(ctx, "CHECKPOINT") }

// onFresh runs do on an empty database of its own.
func (b *bench) onFresh(ctx context.Context, purpose string, do func(database) error) error {
	return b.onCopy(ctx, purpose, "", do)
}

func (b *bench) onCopy(ctx context.Context, purpose, template string, do func(database) error) error {
	d, err := b.cluster.create(ctx, purpose, template)
	if err != nil {
		return err
	}
	return errors.Join(do(d), b.cluster.Drop(ctx, d))
}

// read returns a database's usage so far. Only differences have a meaning.
func (c *cluster) read(ctx context.Context, d database) (used usage, err error) {
	const sql = `
		SELECT coalesce(sum(calls) FILTER (WHERE NOT bracket), 0)::float8,
		       coalesce(sum(calls) FILTER (WHERE bracket), 0)::float8,
		       (pg_current_wal_lsn() - '0/0')::float8
		FROM (
			SELECT calls, query ~* '^\s*(begin|commit|rollback)' AS bracket
			FROM pg_stat_statements
			JOIN pg_database ON pg_database.oid = dbid
			WHERE datname = $1
		) AS statements`
	if err = c.QueryRow(ctx, sql, d.Name).Scan(&used.statements, &used.brackets, &used.wal); err != nil {
		return used, fmt.Errorf("reading the usage of Postgres: %w", err)
	}
	used.postgres = c.cpu()
	return used, nil
}

// cpu is zero where it can't be known.
func (c *cluster) cpu() time.Duration {
	if c.postmaster == 0 {
		return 0
	}
	return program.FamilyCPU(c.postmaster)
}
