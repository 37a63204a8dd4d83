package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
)

// idleInterval is how often a process looks whether anybody may call it, whether a queue is
// paused and, where it only accepts, whether another process works.
const idleInterval = 5 * time.Second

// idleWatch warns while nobody works, nobody may call, or a queue is paused.
type idleWatch struct {
	message, remedy string // of the warning
	idle            func(context.Context) (bool, error)
	logger          *slog.Logger
	seen            bool      // at the latest look
	told            time.Time // when it was last told, zero if it wasn't
}

// watchWorkers asks the database whether requests wait and no process works. Two looks in a
// row must find none: workers that are replaced are away for a moment.
func watchWorkers(pool *pgxpool.Pool, logger *slog.Logger) *idleWatch {
	return &idleWatch{
		message: "nobody_works", remedy: "start a process with --role=worker, or without a role; requests wait until then", logger: logger,
		idle: func(ctx context.Context) (bool, error) {
			processes, err := db.ListProcesses(ctx, pool)
			if err != nil {
				return false, err
			}
			return db.NobodyWorks(ctx, pool, processes)
		},
	}
}

// watchQueues asks the database whether somebody paused a queue.
func watchQueues(pool *pgxpool.Pool, logger *slog.Logger) *idleWatch {
	return &idleWatch{
		message: "queue_paused", remedy: "resume the queues work and callback in River UI, where somebody paused one; its jobs wait until then", logger: logger,
		idle: func(ctx context.Context) (bool, error) {
			paused, err := db.PausedQueues(ctx, pool)
			return len(paused) > 0, err
		},
	}
}

// watchCallers warns at its first look, if empty says that no client may call.
func watchCallers(empty func() bool, logger *slog.Logger) *idleWatch {
	return &idleWatch{
		message: "no_clients", remedy: "add a client with ringback client add NAME, on the database that DATABASE_URL names here; every call is refused with 401 until then",
		logger: logger, idle: func(context.Context) (bool, error) { return empty(), nil }, seen: true,
	}
}

// run looks until ctx ends.
func (w *idleWatch) run(ctx context.Context) {
	tick := time.NewTicker(idleInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			w.look(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// look tells that something is idle, once a minute while it is so, and when it is over.
// A look that fails shows nothing: the database's fault is told elsewhere.
func (w *idleWatch) look(ctx context.Context) {
	idle, err := w.idle(ctx)
	if err != nil {
		return
	}
	now, again := time.Now(), idle && w.seen
	w.seen = idle
	switch {
	case again && now.Sub(w.told) >= db.ToldAgainAfter:
		w.told = now
		w.logger.WarnContext(ctx, w.message, "remedy", w.remedy)
	case !idle && !w.told.IsZero():
		w.told = time.Time{}
		w.logger.InfoContext(ctx, w.message+"_over")
	}
}
