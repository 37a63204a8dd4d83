package main

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// cluster is the Postgres that everything runs on.
type cluster struct {
	pool       *pgxpool.Pool
	url        *url.URL
	version    string
	postmaster int // pid, 0 when it doesn't run where its CPU time can be read
	made       int // databases, for their names
}

func openCluster(ctx context.Context, databaseURL string) (*cluster, error) {
	parsed, err := url.Parse(databaseURL)
	if err != nil || parsed.Host == "" {
		return nil, fmt.Errorf("DATABASE_URL must be a URL")
	}
	pool, err := pgxpool.New(ctx, databaseURL)
	if err != nil {
		return nil, fmt.Errorf("opening the cluster: %w", err)
	}
	c := &cluster{pool: pool, url: parsed}
	if err := c.prepare(ctx); err != nil {
		pool.Close()
		return nil, err
	}
	return c, nil
}

// prepare makes statements countable and finds the postmaster: the parent of
// every backend, if its pid means the same to us as it does to Postgres.
func (c *cluster) prepare(ctx context.Context) error {
	if err := c.execute(ctx, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements"); err != nil {
		return err
	}
	var backend int
	err := c.pool.QueryRow(ctx, "SELECT pg_backend_pid(), current_setting('server_version')").Scan(&backend, &c.version)
	if err != nil {
		return fmt.Errorf("asking Postgres who it is: %w", err)
	}
	if process, err := readProcess(backend); err == nil && process.name == "postgres" {
		c.postmaster = process.parent
	}
	return nil
}

func (c *cluster) close() { c.pool.Close() }

func (c *cluster) execute(ctx context.Context, sql string) error {
	if _, err := c.pool.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

// database is one of a measurement's own.
type database struct {
	name string
	url  string
}

// create makes a database, empty or as a copy of another, and has everything
// before it written out: no measurement pays for the one before.
func (c *cluster) create(ctx context.Context, purpose, template string) (database, error) {
	c.made++
	name := fmt.Sprintf("bench_%s_%d", strings.ReplaceAll(purpose, "-", "_"), c.made)
	sql := "CREATE DATABASE " + name
	if template != "" {
		sql += " TEMPLATE " + template
	}
	for _, sql := range []string{"DROP DATABASE IF EXISTS " + name + " WITH (FORCE)", sql, "CHECKPOINT"} {
		if err := c.execute(ctx, sql); err != nil {
			return database{}, err
		}
	}
	address := *c.url
	address.Path = "/" + name
	return database{name, address.String()}, nil
}

// drop removes a database, also when ctx has ended: the next run should not
// find it.
func (c *cluster) drop(ctx context.Context, d database) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return c.execute(ctx, "DROP DATABASE IF EXISTS "+d.name+" WITH (FORCE)")
}

// usage is what has been used up to a moment. Only differences mean something.
type usage struct {
	at         time.Time
	statements float64       // ended in the database, those of River too
	brackets   float64       // BEGIN, COMMIT and ROLLBACK
	wal        float64       // bytes, of the whole cluster
	postgres   time.Duration // CPU of all its processes, those that have ended too
	server     time.Duration // CPU of the server
	self       time.Duration // CPU of load and receiver, which are here
}

// read returns what a database has used so far.
func (c *cluster) read(ctx context.Context, d database) (usage, error) {
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
	used := usage{at: time.Now()}
	err := c.pool.QueryRow(ctx, sql, d.name).Scan(&used.statements, &used.brackets, &used.wal)
	if err != nil {
		return usage{}, fmt.Errorf("reading what Postgres has done: %w", err)
	}
	used.postgres = c.cpu()
	return used, nil
}

// cpu is zero where it can't be known.
func (c *cluster) cpu() time.Duration {
	if c.postmaster == 0 {
		return 0
	}
	return familyCPU(c.postmaster)
}

// connect opens a connection to one of the databases, for as long as do runs.
func (d database) connect(ctx context.Context, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, d.url)
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", d.name, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return do(conn)
}
