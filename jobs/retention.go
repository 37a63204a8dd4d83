package jobs

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
	// sweepShare is how many times longer than a batch the pause after it is, so
	// that removing takes a fifth of one connection's time at most.
	sweepShare = 4
	// sweepBehind is when the pauses get shorter: requests come faster than they go.
	sweepBehind = 10 * time.Minute
	// sweepIdle is the pause when there is nothing to remove for the moment.
	sweepIdle = 10 * time.Second
	// sweepPass is how often the whole table is gone through, for what was not ended
	// or a dead letter the last time.
	sweepPass = time.Hour
)

// sweeper removes requests that ended longer ago than the retention, a batch at a
// time. All processes share one position and one pace in the database.
type sweeper struct {
	pool      *pgxpool.Pool
	logger    *slog.Logger
	retention time.Duration
}

// run removes batches when they are due, until ctx ends.
func (s *sweeper) run(ctx context.Context) {
	for ctx.Err() == nil {
		wait, err := s.turn(ctx)
		if err != nil && ctx.Err() == nil {
			s.logger.WarnContext(ctx, "old_requests_not_removed", "error", err)
			wait = sweepIdle
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// turn removes a batch if one is due, and returns when to look again.
func (s *sweeper) turn(ctx context.Context) (wait time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	sweep, err := db.ReadSweep(ctx, s.pool)
	if err != nil {
		return 0, err
	}
	if wait := sweep.NextAt.Sub(sweep.Now); wait > 0 {
		return min(wait, sweepIdle), nil
	}
	wait = time.Second // another process is at it
	err = db.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		sweep, locked, err := db.LockSweep(ctx, tx)
		if err == nil && locked {
			wait, err = s.sweep(ctx, tx, sweep)
		}
		return err
	})
	return wait, err
}

// sweep removes a batch and returns the pause after it.
func (s *sweeper) sweep(ctx context.Context, tx pgx.Tx, from db.Sweep) (pause time.Duration, err error) {
	start, before := time.Now(), from.Now.Add(-s.retention)
	swept, err := db.RemoveRequests(ctx, tx, from.Position, before)
	if err != nil {
		return 0, err
	}
	if swept.Removed > 0 {
		s.logger.DebugContext(ctx, "old_requests_removed", "requests", swept.Removed, "until", swept.Last)
	}
	next, pause := nextSweep(from, swept, before, time.Since(start))
	return pause, db.SaveSweep(ctx, tx, next, pause)
}

// nextSweep decides where the batch after one that took so long begins, and after
// what pause.
func nextSweep(from db.Sweep, swept db.Swept, before time.Time, took time.Duration) (next db.Sweep, pause time.Duration) {
	next = from
	if swept.Seen > 0 {
		next.Position = swept.Last
	}
	switch {
	case swept.Seen < db.SweepBatch && from.Now.Sub(from.PassBeganAt) >= sweepPass:
		next.Position, next.PassBeganAt = uuid.Nil, from.Now
		return next, sweepIdle
	case swept.Seen < db.SweepBatch:
		return next, sweepIdle
	case before.Sub(db.AcceptedAt(swept.Last)) > sweepBehind:
		return next, took
	}
	return next, sweepShare * took
}
