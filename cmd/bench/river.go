package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"ringback/cmd/internal/load"
)

// emptyJobsPerRequest is a request's number of jobs: a work job and a callback job.
const emptyJobsPerRequest = 2

// riverAlone measures River without a service around it, in a process of its
// own, and returns its rate in requests per second.
func (b *bench) riverAlone(ctx context.Context) (rate float64, err error) {
	err = b.onFresh(ctx, "river", func(d database) error {
		command := exec.CommandContext(ctx, b.self, "river",
			"-warmup", b.plan.steadyWarmup.String(), "-for", b.plan.steadyFor.String())
		command.Env = []string{"DATABASE_URL=" + d.URL}
		if err := b.openLog(command, "river", d); err != nil {
			return err
		}
		answer, err := command.Output()
		if err != nil {
			return fmt.Errorf("running River alone: %w", err)
		}
		var told riverRate
		if err := json.Unmarshal(answer, &told); err != nil {
			return fmt.Errorf("reading River's rate: %w", err)
		}
		rate = told.JobsPerSecond / emptyJobsPerRequest
		b.say("  %-6s %8.0f/s  as two jobs a request", "river", rate)
		b.figures.add("e2e_per_s_river", rate)
		return nil
	})
	return rate, err
}

// riverRate is the output of `bench river`.
type riverRate struct {
	JobsPerSecond float64 `json:"jobs_per_s"`
}

// riverOptions are River's settings and how long to measure. The defaults are
// the best that were found on two cores shared with Postgres: 17.5k to 18.7k
// jobs/s. 100 workers gave 9.9k, 500 to 2,000 the same within the noise, 20
// connections 16k, batches of 1,000 with 10,000 ahead 16k, and cooldowns from
// 1 to 50 ms made no difference. (River's own benchmark takes 2,000 workers,
// 2 ms, 20 ms, batches of 5,000 and 75,000 ahead.)
type riverOptions struct {
	databaseURL string
	workers     int
	cooldown    time.Duration
	poll        time.Duration
	conns       int
	batch       int // jobs inserted at a time
	ahead       int // jobs kept waiting
	warmup      time.Duration
	length      time.Duration
}

// runRiver works empty jobs while it inserts new jobs, as River's own benchmark does, on
// River's own schema, and prints the rate.
func runRiver(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	o := riverOptions{databaseURL: getenv("DATABASE_URL")}
	flags := flag.NewFlagSet("bench river", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.workers, "workers", 1000, "MaxWorkers")
	flags.DurationVar(&o.cooldown, "cooldown", 2*time.Millisecond, "FetchCooldown")
	flags.DurationVar(&o.poll, "poll", 20*time.Millisecond, "FetchPollInterval")
	flags.IntVar(&o.conns, "conns", 10, "connections in the pool")
	flags.IntVar(&o.batch, "batch", 5000, "jobs inserted at a time")
	flags.IntVar(&o.ahead, "ahead", 20_000, "jobs kept waiting")
	flags.DurationVar(&o.warmup, "warmup", 3*time.Second, "time before measuring")
	flags.DurationVar(&o.length, "for", 8*time.Second, "time to measure")
	if err := flags.Parse(args); err != nil {
		return err
	}
	rate, err := measureRiver(ctx, o, slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(riverRate{rate})
}

func measureRiver(ctx context.Context, o riverOptions, logger *slog.Logger) (float64, error) {
	pool, err := openRiver(ctx, o)
	if err != nil {
		return 0, err
	}
	defer pool.Close()
	client, err := newEmptyClient(pool, o, logger)
	if err != nil {
		return 0, err
	}
	done := countCompleted(client)
	if err := client.Start(ctx); err != nil {
		return 0, fmt.Errorf("starting river: %w", err)
	}
	stopped, stop := context.WithCancel(ctx)
	inserting := make(chan error, 1)
	go func() { inserting <- insertEmptyJobs(stopped, client, o, done) }()
	rate := rateOf(ctx, done, o.warmup, o.length)
	stop()
	err = <-inserting
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	return rate, errors.Join(ctx.Err(), err, client.StopAndCancel(stopCtx))
}

// openRiver makes River's tables as River makes them.
func openRiver(ctx context.Context, o riverOptions) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(o.databaseURL)
	if err != nil {
		return nil, errors.New("DATABASE_URL is not a connection string")
	}
	config.MaxConns = int32(o.conns)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("opening database pool: %w", err)
	}
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), nil)
	if err == nil {
		_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	}
	if err != nil {
		pool.Close()
		return nil, fmt.Errorf("migrating river: %w", err)
	}
	return pool, nil
}

func newEmptyClient(pool *pgxpool.Pool, o riverOptions, logger *slog.Logger) (*river.Client[pgx.Tx], error) {
	workers := river.NewWorkers()
	river.AddWorker(workers, &emptyWorker{})
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Workers: workers, Logger: logger,
		FetchCooldown: o.cooldown, FetchPollInterval: o.poll,
		Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: o.workers}},
	})
	if err != nil {
		return nil, fmt.Errorf("setting up river: %w", err)
	}
	return client, nil
}

type emptyArgs struct {
	Number int `json:"number"`
}

func (emptyArgs) Kind() string { return "empty" }

type emptyWorker struct {
	river.WorkerDefaults[emptyArgs]
}

func (*emptyWorker) Work(context.Context, *river.Job[emptyArgs]) error { return nil }

// countCompleted counts by River's events, which follow the commit of a job's
// completion. The worker's own count would run ahead of it.
func countCompleted(client *river.Client[pgx.Tx]) *atomic.Int64 {
	completed := new(atomic.Int64)
	events, _ := client.SubscribeConfig(&river.SubscribeConfig{
		ChanSize: 100_000, Kinds: []river.EventKind{river.EventKindJobCompleted},
	})
	go func() {
		for range events { // until the client stops
			completed.Add(1)
		}
	}()
	return completed
}

// insertEmptyJobs keeps jobs waiting, until ctx ends.
func insertEmptyJobs(ctx context.Context, client *river.Client[pgx.Tx], o riverOptions, done *atomic.Int64) error {
	batch := make([]river.InsertManyParams, o.batch)
	for inserted := 0; ctx.Err() == nil; {
		if inserted-int(done.Load()) >= o.ahead {
			load.Pause(ctx, 5*time.Millisecond)
			continue
		}
		for i := range batch {
			batch[i].Args = emptyArgs{inserted + i}
		}
		if _, err := client.InsertManyFast(ctx, batch); err != nil && ctx.Err() == nil {
			return fmt.Errorf("inserting jobs: %w", err)
		}
		inserted += len(batch)
	}
	return nil
}

// rateOf is how fast a count grows once the warm-up is over, per second.
func rateOf(ctx context.Context, count *atomic.Int64, warmup, length time.Duration) float64 {
	load.Pause(ctx, warmup)
	before, start := count.Load(), time.Now()
	load.Pause(ctx, length)
	return float64(count.Load()-before) / time.Since(start).Seconds()
}
