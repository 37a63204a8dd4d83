package jobs

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
	"ringback/jobs/limit"
	"ringback/jobs/pacing"
)

const (
	// wordsLooked is how often new words of the operator are looked for, in memory.
	wordsLooked = time.Second
	// knownAfter is the age of a word that all running processes know: a process
	// that doesn't know it would postpone the callback anew, or send it.
	knownAfter = 5 * time.Second
	// newFor is for how long a word is new to a process that has just started. Callbacks
	// that wait for the pace that an older word allows are not asked for anew at each start.
	newFor = time.Minute
	// expeditedAtOnce is how many waiting callbacks are looked at in a statement.
	expeditedAtOnce = 500
	// expeditePatience is how long the next batch waits for the last one to leave.
	expeditePatience = time.Minute
)

// expediter makes waiting callbacks due that a new word of the operator concerns. They
// would otherwise wait until their time, a day later say. Their workers end callbacks to a
// denied receiver as dead letters, as they end any. Where the operator allows or forgets
// a receiver, callbacks that its pace has postponed leave, or wait for the new pace;
// failed ones wait for their retry all the same.
//
// Each process goes through all waiting callbacks once for a word, and at its start, so
// that nobody has to store how far another came. The next batch comes once the last has
// left, so a hundred thousand callbacks hold up no others.
type expediter struct {
	pool     *pgxpool.Pool
	logger   *slog.Logger
	now      func() time.Time // by the database's clock
	latest   func() time.Time // when the operator said the latest word
	concerns func(callbackURL string, since time.Time) pacing.Concern
	done     time.Time // the latest word that was followed
}

// run looks for new words until ctx ends.
func (e *expediter) run(ctx context.Context) {
	for ctx.Err() == nil {
		if latest := e.latest(); latest.After(e.done) && e.now().Sub(latest) > knownAfter {
			count, err := e.follow(ctx)
			switch {
			case err == nil:
				e.done = latest
			case ctx.Err() == nil:
				e.logger.WarnContext(ctx, "callbacks_not_expedited", "error", err,
					"remedy", "none: they leave at their time, and all are gone through again in a moment")
			}
			if count > 0 {
				e.logger.InfoContext(ctx, "callbacks_expedited", "count", count, "cause", "the operator denied, allowed or forgot their receiver")
			}
		}
		sleep(ctx, wordsLooked)
	}
}

// follow goes through all waiting callbacks, and returns how many of them it has made due.
func (e *expediter) follow(ctx context.Context) (count int, err error) {
	since := limit.Latest(e.done, e.now().Add(-newFor))
	for _, from := range db.WaitingFrom(callbackQueue, e.now()) {
		for more := true; more && ctx.Err() == nil; {
			var due int
			if from, due, more, err = e.followBatch(ctx, from, since); err != nil {
				return count, err
			}
			count += due
		}
	}
	return count, ctx.Err()
}

// followBatch makes the jobs of a batch due that new words concern, and waits until they
// have left or wait anew.
func (e *expediter) followBatch(ctx context.Context, from db.WaitingPosition, since time.Time) (next db.WaitingPosition, count int, more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, expeditePatience)
	defer cancel()
	began := time.Now()
	waiting, next, err := db.ListWaiting(ctx, e.pool, from, expeditedAtOnce)
	if err != nil {
		return next, 0, false, err
	}
	sleep(ctx, 4*time.Since(began)) // so that looking takes a fifth of one connection's time at most
	var due []int64
	for _, callback := range waiting {
		concern := e.concerns(callback.URL, since)
		if concern == pacing.Ends || concern == pacing.Frees && slices.Contains(pacing.Reasons(), limit.Reason(callback.Reason)) {
			due = append(due, callback.JobID)
		}
	}
	if len(due) > 0 {
		if err := db.MakeDue(ctx, e.pool, due); err != nil {
			return next, 0, false, err
		}
		e.awaitGone(ctx, due)
	}
	return next, len(due), len(waiting) == expeditedAtOnce, nil
}

// awaitGone returns when no job waits for a worker or runs any more, or when ctx ends.
func (e *expediter) awaitGone(ctx context.Context, jobs []int64) {
	for ctx.Err() == nil {
		if under, err := db.AnyDue(ctx, e.pool, jobs); err == nil && !under {
			return
		}
		sleep(ctx, fetchPollInterval)
	}
}
