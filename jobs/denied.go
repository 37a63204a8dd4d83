package jobs

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
)

const (
	// deniedInterval is how often new denials are looked for, in memory.
	deniedInterval = time.Second
	// knownAfter is the age of a word that all running processes know: a process
	// that doesn't know it would postpone the callback anew, or send it.
	knownAfter = 5 * time.Second
	// deniedAtOnce is how many waiting callbacks are looked at in a statement.
	deniedAtOnce = 500
	// deniedPatience is how long the next batch waits for the last one to end.
	deniedPatience = time.Minute
)

// denier ends the callbacks that wait for a receiver when the operator denies it. They
// would otherwise wait until they are due, a day later say. It makes their jobs due, and
// their workers end them as dead letters, as they end any callback to a denied receiver.
//
// Each process goes through all waiting callbacks once for a denial, and at its start, so
// that nobody has to store how far another came. The next batch comes once the last has
// ended, so a hundred thousand callbacks hold up no others.
type denier struct {
	pool   *pgxpool.Pool
	logger *slog.Logger
	now    func() time.Time // by the database's clock
	latest func() time.Time // when the latest denial was said
	denies func(callbackURL string) bool
	done   time.Time // the latest denial whose callbacks were made due
}

// run looks for denials until ctx ends.
func (d *denier) run(ctx context.Context) {
	for ctx.Err() == nil {
		if latest := d.latest(); latest.After(d.done) && d.now().Sub(latest) > knownAfter {
			count, err := d.endAll(ctx)
			switch {
			case err == nil:
				d.done = latest
			case ctx.Err() == nil:
				d.logger.WarnContext(ctx, "denied_callbacks_not_ended", "error", err)
			}
			if count > 0 {
				d.logger.InfoContext(ctx, "denied_callbacks_ended", "count", count)
			}
		}
		sleep(ctx, deniedInterval)
	}
}

// endAll goes through all waiting callbacks, and returns how many of them it has made due.
func (d *denier) endAll(ctx context.Context) (count int, err error) {
	for _, from := range db.WaitingFrom(callbackQueue, d.now()) {
		for more := true; more && ctx.Err() == nil; {
			var ended int
			if from, ended, more, err = d.endBatch(ctx, from); err != nil {
				return count, err
			}
			count += ended
		}
	}
	return count, ctx.Err()
}

// endBatch makes the jobs of a batch due whose receivers are denied, and waits for their
// end.
func (d *denier) endBatch(ctx context.Context, from db.WaitingPosition) (next db.WaitingPosition, count int, more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, deniedPatience)
	defer cancel()
	began := time.Now()
	waiting, next, err := db.ListWaiting(ctx, d.pool, from, deniedAtOnce)
	if err != nil {
		return next, 0, false, err
	}
	sleep(ctx, 4*time.Since(began)) // so that looking takes a fifth of one connection's time at most
	var denied []int64
	for _, callback := range waiting {
		if d.denies(callback.URL) {
			denied = append(denied, callback.JobID)
		}
	}
	if len(denied) > 0 {
		if err := db.MakeDue(ctx, d.pool, denied); err != nil {
			return next, 0, false, err
		}
		d.awaitEnd(ctx, denied)
	}
	return next, len(denied), len(waiting) == deniedAtOnce, nil
}

// awaitEnd returns when no job waits for a worker or runs any more, or when ctx ends.
func (d *denier) awaitEnd(ctx context.Context, jobs []int64) {
	for ctx.Err() == nil {
		if under, err := db.AnyDue(ctx, d.pool, jobs); err == nil && !under {
			return
		}
		sleep(ctx, fetchPollInterval)
	}
}
