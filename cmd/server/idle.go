package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
)

// idleInterval is how often a process looks whether anybody may call it and, where it only
// accepts, whether another process works.
const idleInterval = 5 * time.Second

// idleWatch warns while nobody works, or nobody may call.
type idleWatch struct {
	message, remedy string // of the warning
	nobody          func(context.Context) (bool, error)
	logger          *slog.Logger
	seen            bool      // at the latest look
	told            time.Time // when it was last told, zero if it wasn't
}

// watchWorkers asks the database whether requests wait and no process works. Two looks in a
// row must find none: workers that are replaced are away for a moment.
func watchWorkers(pool *pgxpool.Pool, logger *slog.Logger) *idleWatch {
	return &idleWatch{
		message: "nobody_works", remedy: "start a process with --role=worker, or without a role; requests wait until then", logger: logger,
		nobody: func(ctx context.Context) (bool, error) {
			processes, err := db.ListProcesses(ctx, pool)
			if err != nil {
				return false, err
			}
			return db.NobodyWorks(ctx, pool, processes)
		},
	}
}

// watchCallers warns at its first look, if empty says that no client may call.
func watchCallers(empty func() bool, logger *slog.Logger) *idleWatch {
	return &idleWatch{
		message: "no_clients", remedy: "add a client with ringback client add NAME, on the database that DATABASE_URL names here; every call is refused with 401 until then",
		logger: logger, nobody: func(context.Context) (bool, error) { return empty(), nil }, seen: true,
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

// look tells that there is nobody, once a minute while it is so, and when there is again.
// A look that fails shows nothing: the database's fault is told elsewhere.
func (w *idleWatch) look(ctx context.Context) {
	idle, err := w.nobody(ctx)
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
