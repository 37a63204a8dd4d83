package upkeep

import (
	"context"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
)

const (
	// sweepShare is the pause after a batch as a multiple of its time, so that removing
	// takes a fifth of one connection's time at most.
	sweepShare = 4
	// sweepBehind is how overdue a request may be before the pauses get shorter, since
	// requests come faster than they go.
	sweepBehind = 10 * time.Minute
	// sweepIdle is the pause when there is nothing to remove for the moment.
	sweepIdle = 10 * time.Second
	// sweepPass is how often the whole table is gone through, for requests that could not
	// be removed in the last pass.
	sweepPass = time.Hour
)

// Sweeper removes requests or dead letters that are too old, a batch at a time. All
// processes share a position and a pace in the database.
type Sweeper struct {
	pool    *pgxpool.Pool
	health  *db.Health // explains what keeps it from removing
	logger  *slog.Logger
	of      db.Removal
	age     time.Duration // 0: nothing is removed
	remove  func(ctx context.Context, tx pgx.Tx, from db.Sweep, before time.Time) (db.Swept, error)
	byAge   bool      // batches come in the order of age
	removed string    // names them in the log
	told    time.Time // when it was last told that they are not removed
}

// Retention is how long requests and dead letters stay once they have ended. 0 is forever.
type Retention struct {
	Requests, DeadLetters time.Duration
}

// NewSweepers returns the sweepers of ended requests and of dead letters.
func NewSweepers(pool *pgxpool.Pool, health *db.Health, logger *slog.Logger, keep Retention) (requests, deadLetters Sweeper) {
	requests = Sweeper{
		pool: pool, health: health, logger: logger, of: db.OldRequests, age: keep.Requests, byAge: true, removed: "requests",
		remove: func(ctx context.Context, tx pgx.Tx, from db.Sweep, before time.Time) (db.Swept, error) {
			return db.RemoveRequests(ctx, tx, from.Position, before)
		},
	}
	deadLetters = Sweeper{
		pool: pool, health: health, logger: logger, of: db.OldDeadLetters, age: keep.DeadLetters, removed: "dead_letters",
		remove: db.RemoveDeadLetters,
	}
	return requests, deadLetters
}

// Run removes batches when they are due, until ctx ends.
func (s *Sweeper) Run(ctx context.Context) {
	for ctx.Err() == nil && s.age > 0 {
		wait, err := s.RemoveBatch(ctx)
		if err != nil && ctx.Err() == nil {
			wait = sweepIdle
			s.tell(ctx, err, wait)
		}
		sleep(ctx, wait)
	}
}

// tell tells why a batch was not removed, once a minute.
func (s *Sweeper) tell(ctx context.Context, err error, wait time.Duration) {
	if time.Since(s.told) < db.ToldAgainAfter {
		return
	}
	s.told = time.Now()
	attrs := s.health.Explain(err, "end what the error names, such as a lock on a table; they stay until then")
	s.logger.WarnContext(ctx, "old_"+s.removed+"_not_removed", append(attrs, "next_try_in_seconds", wait.Seconds())...)
}

// RemoveBatch removes a batch if one is due, and returns the wait until the next look.
func (s *Sweeper) RemoveBatch(ctx context.Context) (wait time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	sweep, err := db.ReadSweep(ctx, s.pool, s.of)
	if err != nil {
		return 0, err
	}
	if wait := sweep.NextAt.Sub(sweep.Now); wait > 0 {
		return min(wait, sweepIdle), nil
	}
	wait = time.Second // another process is at it
	err = db.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		sweep, locked, err := db.LockSweep(ctx, tx, s.of)
		if err == nil && locked {
			wait, err = s.sweep(ctx, tx, sweep)
		}
		return err
	})
	return wait, err
}

// sweep removes a batch and returns the pause after it.
func (s *Sweeper) sweep(ctx context.Context, tx pgx.Tx, from db.Sweep) (pause time.Duration, err error) {
	start, before := time.Now(), from.Now.Add(-s.age)
	swept, err := s.remove(ctx, tx, from, before)
	if err != nil {
		return 0, err
	}
	if swept.Removed > 0 {
		s.logger.DebugContext(ctx, "old_"+s.removed+"_removed", "count", swept.Removed, "until", swept.Last)
	}
	behind := s.byAge && before.Sub(db.AcceptedAt(swept.Last)) > sweepBehind
	next, pause := nextSweep(from, swept, behind, time.Since(start))
	return pause, db.SaveSweep(ctx, tx, s.of, next, pause)
}

// nextSweep decides where the next batch begins, and after what pause. took is the time
// of the last batch.
func nextSweep(from db.Sweep, swept db.Swept, behind bool, took time.Duration) (next db.Sweep, pause time.Duration) {
	next = from
	if swept.Seen > 0 {
		next.Client, next.Position = swept.Client, swept.Last
	}
	switch {
	case swept.Seen < db.SweepBatch && from.Now.Sub(from.PassBeganAt).Abs() >= sweepPass: // a time ahead was written by hand
		next.Client, next.Position, next.PassBeganAt = "", uuid.Nil, from.Now
		return next, sweepIdle
	case swept.Seen < db.SweepBatch:
		return next, sweepIdle
	case behind:
		return next, took
	}
	return next, sweepShare * took
}
