package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
)

// idleInterval is how often a process that only accepts looks whether another process works.
// Two looks in a row must find none: workers that are replaced are away for a moment.
const idleInterval = 5 * time.Second

// idleWatch warns where requests wait and no process works.
type idleWatch struct {
	nobodyWorks func(context.Context) (bool, error)
	logger      *slog.Logger
	seen        bool      // at the latest look
	told        time.Time // when it was last told, zero if it wasn't
}

// nobodyWorks asks the database.
func nobodyWorks(pool *pgxpool.Pool) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		processes, err := db.ListProcesses(ctx, pool)
		if err != nil {
			return false, err
		}
		return db.NobodyWorks(ctx, pool, processes)
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

// look tells that nobody works, once a minute while it is so, and when a process does again.
// A look that fails shows nothing: the database's fault is told elsewhere.
func (w *idleWatch) look(ctx context.Context) {
	idle, err := w.nobodyWorks(ctx)
	if err != nil {
		return
	}
	now, again := time.Now(), idle && w.seen
	w.seen = idle
	switch {
	case again && now.Sub(w.told) >= db.ToldAgainAfter:
		w.told = now
		w.logger.WarnContext(ctx, "nobody_works", "remedy", "start a process with --role=worker, or without a role; requests wait until then")
	case !idle && !w.told.IsZero():
		w.told = time.Time{}
		w.logger.InfoContext(ctx, "nobody_works_over")
	}
}
