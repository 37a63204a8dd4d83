package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"ringback/cmd/internal/load"
)

// emptyJobsPerRequest are the jobs of a request: a work job and a callback job.
const emptyJobsPerRequest = 2

// The best settings that were found for River on two cores shared with Postgres: 17.5k to
// 18.7k jobs/s. 100 workers gave 9.9k, 500 to 2,000 the same within the noise, 20
// connections 16k, batches of 1,000 with 10,000 ahead 16k, and cooldowns from 1 to 50 ms
// made no difference. (River's own benchmark takes 2,000 workers, 2 ms, 20 ms, batches of
// 5,000 and 75,000 ahead.)
const (
	riverWorkers     = 1000
	riverCooldown    = 2 * time.Millisecond
	riverPoll        = 20 * time.Millisecond
	riverConnections = 10
	riverBatch       = 5000   // jobs inserted at a time
	riverAhead       = 20_000 // jobs kept waiting
)

// riverAlone measures River without a service around it, and returns its rate in requests
// per second.
func (s *measurement) riverAlone() (rate float64) {
	s.scene("River alone", func(s *measurement) {
		rate = s.workEmptyJobs(s.database("river", "").URL) / emptyJobsPerRequest
		s.add("e2e_per_s_river", rate)
	})
	return rate
}

// workEmptyJobs works empty jobs while it inserts new jobs, as River's own benchmark does,
// on River's own schema, and returns the jobs per second.
func (s *measurement) workEmptyJobs(databaseURL string) (rate float64) {
	pool := s.openRiver(databaseURL)
	workers := river.NewWorkers()
	river.AddWorker(workers, &emptyWorker{})
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Workers: workers, Logger: slog.New(slog.DiscardHandler),
		FetchCooldown: riverCooldown, FetchPollInterval: riverPoll,
		Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: riverWorkers}},
	})
	s.Must(err)
	done := countCompleted(client)
	s.Must(client.Start(s.Ctx))
	s.AtEnd(func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.Ctx), 20*time.Second)
		defer cancel()
		return client.StopAndCancel(ctx)
	})
	ctx, stop := context.WithCancel(s.Ctx)
	inserting := make(chan error, 1)
	go func() { inserting <- insertEmptyJobs(ctx, client, done) }()
	s.AtEnd(func() error { stop(); return <-inserting })
	s.Pause(s.warmup)
	before, start := done.Load(), time.Now()
	s.Pause(s.saturated)
	return float64(done.Load()-before) / time.Since(start).Seconds()
}

// openRiver makes River's tables.
func (s *measurement) openRiver(databaseURL string) *pgxpool.Pool {
	config, err := pgxpool.ParseConfig(databaseURL)
	s.Must(err)
	config.MaxConns = riverConnections
	pool, err := pgxpool.NewWithConfig(s.Ctx, config)
	s.Must(err)
	s.AtEnd(func() error { pool.Close(); return nil })
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), nil)
	s.Must(err)
	_, err = migrator.Migrate(s.Ctx, rivermigrate.DirectionUp, nil)
	s.Must(err)
	return pool
}

type emptyArgs struct {
	Number int `json:"number"`
}

func (emptyArgs) Kind() string { return "empty" }

type emptyWorker struct {
	river.WorkerDefaults[emptyArgs]
}

func (*emptyWorker) Work(context.Context, *river.Job[emptyArgs]) error { return nil }

// countCompleted counts by River's events, which follow the commit of a job's completion: a
// count by the worker would include jobs that aren't committed yet.
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

// insertEmptyJobs inserts jobs until ctx ends, so that some always wait.
func insertEmptyJobs(ctx context.Context, client *river.Client[pgx.Tx], done *atomic.Int64) error {
	batch := make([]river.InsertManyParams, riverBatch)
	for inserted := 0; ctx.Err() == nil; {
		if inserted-int(done.Load()) >= riverAhead {
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
