package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"ringback/cmd/internal/postgres"
	"ringback/cmd/internal/program"
)

// cluster is the Postgres that everything runs on.
type cluster struct {
	*postgres.Server
	version    string
	postmaster int // pid, 0 where its CPU time can't be read
}

// openCluster connects to a Postgres, and lets it count statements.
func openCluster(ctx context.Context, databaseURL string) (*cluster, error) {
	server, err := postgres.Open(ctx, databaseURL)
	if err != nil {
		return nil, err
	}
	c := &cluster{Server: server}
	var backend int
	err = postgres.Execute(ctx, server, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
	if err == nil {
		err = c.QueryRow(ctx, "SELECT pg_backend_pid(), current_setting('server_version')").Scan(&backend, &c.version)
	}
	if err != nil {
		server.Close()
		return nil, fmt.Errorf("asking Postgres who it is: %w", err)
	}
	c.postmaster = program.Postmaster(backend)
	return c, nil
}

// usage is what was done, and the resources used, up to a moment or between two moments.
type usage struct {
	seconds    float64
	accepted   float64 // requests
	delivered  float64 // requests
	statements float64 // that ended in the database, with River's, and without BEGIN and COMMIT
	wal        float64 // bytes, of the whole Postgres

	// CPU time in µs: of the server; of all processes of Postgres, also of ended processes; of
	// this process, with the load and its receivers. 0 where the time isn't known.
	server, postgres, self float64
}

func (u usage) since(before usage) usage {
	return usage{
		u.seconds - before.seconds, u.accepted - before.accepted, u.delivered - before.delivered,
		u.statements - before.statements, u.wal - before.wal,
		u.server - before.server, u.postgres - before.postgres, u.self - before.self,
	}
}

// rate is requests delivered per second.
func (u usage) rate() float64 { return u.delivered / u.seconds }

// readUsage returns the usage so far. Only differences have a meaning.
func (s *measurement) readUsage(on *server, running *running) (used usage) {
	const sql = `
		SELECT coalesce(sum(calls) FILTER (WHERE query !~* '^\s*(begin|commit|rollback)'), 0)::float8,
		       (pg_current_wal_lsn() - '0/0')::float8
		FROM pg_stat_statements
		JOIN pg_database ON pg_database.oid = dbid
		WHERE datname = $1`
	s.Must(s.cluster.QueryRow(s.Ctx, sql, on.rows.Name).Scan(&used.statements, &used.wal))
	used.server, used.self = micros(program.CPU(on.Pid())), micros(program.CPU(os.Getpid()))
	if s.cluster.postmaster != 0 {
		used.postgres = micros(program.FamilyCPU(s.cluster.postmaster))
	}
	now := running.now()
	used.accepted, used.delivered = float64(now.OK), float64(now.Delivered)
	used.seconds = float64(time.Now().UnixNano()) / 1e9
	return used
}

func micros(d time.Duration) float64 { return float64(d.Microseconds()) }

// usageFor returns the usage during a time that begins now.
func (s *measurement) usageFor(length time.Duration, on *server, running *running) usage {
	before := s.readUsage(on, running)
	s.Pause(length)
	return s.readUsage(on, running).since(before)
}

// addCPU adds the CPU of server and Postgres per request, where both are known.
func (b *bench) addCPU(key string, used usage, requests float64) {
	if used.server > 0 && used.postgres > 0 {
		b.add(key, (used.server+used.postgres)/requests)
	}
}
