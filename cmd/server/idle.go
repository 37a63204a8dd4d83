package main

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"ringback/db"
	"ringback/jobs"
)

// idleInterval is how often a process looks whether anybody may call it, whether a queue is
// paused and, where it only accepts, whether another process works.
const idleInterval = 5 * time.Second

// idleWatch warns while nobody works, nobody may call, or a queue is paused.
type idleWatch struct {
	message string                                           // of the warning
	look    func(context.Context) (remedy string, err error) // a remedy where something is idle
	logger  *slog.Logger
	seen    bool      // at the latest look
	told    time.Time // when it was last told, zero if it wasn't
}

// watchWorkers asks the database whether requests wait and no process works. Two looks in a
// row must find none: workers that are replaced are away for a moment.
func watchWorkers(pool *pgxpool.Pool, logger *slog.Logger) *idleWatch {
	return &idleWatch{message: "nobody_works", logger: logger, look: func(ctx context.Context) (remedy string, err error) {
		processes, err := db.ListProcesses(ctx, pool)
		if err != nil {
			return "", err
		}
		if idle, err := db.NobodyWorks(ctx, pool, processes); err != nil || !idle {
			return "", err
		}
		return "start a process with --role=worker, or without a role; requests wait until then", nil
	}}
}

// watchQueues asks the database whether somebody paused a queue.
func watchQueues(pool *pgxpool.Pool, registerer prometheus.Registerer, logger *slog.Logger) *idleWatch {
	pauses := promauto.With(registerer).NewGaugeVec(prometheus.GaugeOpts{
		Name: "ringback_queue_paused", Help: "1 while somebody has paused the queue, as by River UI.",
	}, []string{"queue"})
	count := func(paused []string) {
		for _, queue := range jobs.QueueNames() {
			pauses.WithLabelValues(queue).Set(oneIf(slices.Contains(paused, queue)))
		}
	}
	count(nil)
	return &idleWatch{message: "queue_paused", logger: logger, look: func(ctx context.Context) (remedy string, err error) {
		paused, err := db.PausedQueues(ctx, pool)
		if err != nil {
			return "", err
		}
		if count(paused); len(paused) == 0 {
			return "", nil
		}
		return "resume in River UI what somebody paused: " + strings.Join(paused, ", ") + "; the jobs wait until then", nil
	}}
}

// watchCallers warns at its first look, if empty says that no client may call.
func watchCallers(empty func() bool, logger *slog.Logger) *idleWatch {
	return &idleWatch{message: "no_clients", logger: logger, seen: true, look: func(context.Context) (remedy string, err error) {
		if !empty() {
			return "", nil
		}
		return "add a client with ringback client add NAME, on the database that DATABASE_URL names here; every call is refused with 401 until then", nil
	}}
}

// run looks until ctx ends.
func (w *idleWatch) run(ctx context.Context) {
	tick := time.NewTicker(idleInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			w.tell(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// tell looks, and tells that something is idle, once a minute while it is so, and when it is
// over. A look that fails shows nothing: the database's fault is told elsewhere.
func (w *idleWatch) tell(ctx context.Context) {
	remedy, err := w.look(ctx)
	if err != nil {
		return
	}
	idle := remedy != ""
	now, again := time.Now(), idle && w.seen
	w.seen = idle
	switch {
	case again && now.Sub(w.told) >= db.ToldAgainAfter:
		w.told = now
		w.logger.WarnContext(ctx, w.message, "remedy", remedy)
	case !idle && !w.told.IsZero():
		w.told = time.Time{}
		w.logger.InfoContext(ctx, w.message+"_over")
	}
}
