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
	// lookInterval is how often the expediter looks for new rulings, in memory.
	lookInterval = time.Second
	// knownAfter is the age at which all running processes know a ruling. A process that
	// doesn't know it would postpone the callback anew, or send it.
	knownAfter = 5 * time.Second
	// newFor is for how long a ruling is new to a process that has just started. Callbacks
	// that wait for the pace of an older ruling are not made due at each start.
	newFor = time.Minute
	// expeditedAtOnce is how many waiting callbacks are looked at in a statement.
	expeditedAtOnce = 500
	// expeditePatience is how long the next batch waits for the last batch to leave.
	expeditePatience = time.Minute
)

// expediter makes waiting callbacks due when the operator has decided about their receiver.
// Otherwise they would wait until their time, such as a day later. Workers end callbacks to
// a denied receiver as dead letters. Where the operator allows or forgets a receiver,
// callbacks that its pace has postponed leave, or wait for the new pace. Callbacks that
// failed still wait for their retry.
//
// Each process goes through all waiting callbacks once for a ruling, and at its start, so
// processes need no record of each other's progress. A batch starts after the batch before
// it has left, so a hundred thousand callbacks delay no other callback.
type expediter struct {
	pool     *pgxpool.Pool
	logger   *slog.Logger
	now      func() time.Time              // by the database's clock
	latest   func(now time.Time) time.Time // when the operator last decided
	concerns func(callbackURL string, since time.Time) pacing.Concern
	lineUp   func(callbackURL string) // lets waiting callbacks reserve their times anew
	done     time.Time                // of the latest ruling that was followed
}

// run looks for new rulings until ctx ends.
func (e *expediter) run(ctx context.Context) {
	for ctx.Err() == nil {
		if latest := e.latest(e.now()); latest.After(e.done) && e.now().Sub(latest) > knownAfter {
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
		sleep(ctx, lookInterval)
	}
}

// follow goes through all waiting callbacks, and returns how many callbacks it made due.
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

// followBatch makes the jobs in a batch due whose receivers have a new ruling, and waits until
// these jobs have left or wait anew.
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
			e.lineUp(callback.URL)
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
