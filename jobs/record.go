package jobs

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"ringback/db"
	"ringback/db/batch"
)

const (
	// firstRecordWait is the wait after the first try to record an answer.
	firstRecordWait = 250 * time.Millisecond
	// longestRecordWait is where the waits stop growing. To record again costs nobody
	// outside anything, and a fault of the database mostly ends at once.
	longestRecordWait = 5 * time.Second
)

// record writes the answers that workers have: outcomes of work and answers of receivers.
// An answer that can't be written is written again, not produced again: its job stays
// running in this process until it is written, or the process stops. No more answers wait
// than there are workers.
type record struct {
	ctx    context.Context
	giveUp context.CancelFunc // ends the writing: another process does the step again
	inHand atomic.Int64       // answers whose first write failed
	told   atomic.Int64       // when a line last told of them, in Unix nanoseconds
	logger *slog.Logger
	// explain returns the fields of a line about an error, as db.Health.Explain does.
	explain func(err error, remedy string) []any

	// finishes and settles write an answer in hand again. In a batch, an answer whose row some
	// session has locked would hold up the answers of all others for as long as the batch waits.
	finishes, settles apart
}

func newRecord(logger *slog.Logger, explain func(error, string) []any) *record {
	ctx, cancel := context.WithCancel(context.Background())
	return &record{ctx: ctx, giveUp: cancel, logger: logger, explain: explain}
}

// insist calls write until it succeeds, the database refuses the answer itself, or
// the process stops.
func (r *record) insist(write func(ctx context.Context, again bool) error) error {
	return r.repeat(write, false, r.isOver)
}

// insistOnEither calls write, which was refused, and then instead, until the database takes
// one of them or the process stops. Where it refuses both, the answer isn't to blame, but
// what somebody did to a table: to give up would mean to produce the answer again.
func (r *record) insistOnEither(write, instead func(ctx context.Context, again bool) error) error {
	return r.repeat(func(ctx context.Context, _ bool) error {
		err := write(ctx, true)
		if isUnstorable(err) && !isNumberTaken(err) {
			err = instead(ctx, true)
		}
		return err
	}, true, func(err error) bool { return !db.IsRefused(err) && r.isOver(err) || r.ctx.Err() != nil })
}

func (r *record) repeat(write func(ctx context.Context, again bool) error, again bool, isOver func(error) bool) error {
	err := write(r.ctx, again)
	if isOver(err) {
		return err
	}
	r.tell(err, r.inHand.Add(1) == 1)
	defer r.written()
	for wait := firstRecordWait; !isOver(err); wait = min(2*wait, longestRecordWait) {
		timer := time.NewTimer(jitter(wait, 0.5, 1, rand.Float64()))
		select {
		case <-timer.C:
			if err = write(r.ctx, true); err != nil {
				r.tell(err, false)
			}
		case <-r.ctx.Done():
			timer.Stop()
			return err
		}
	}
	return err
}

// tell logs the first answer in hand, and again while there is any.
func (r *record) tell(err error, first bool) {
	now, last := time.Now().UnixNano(), r.told.Load()
	if (first || now-last >= int64(db.ToldAgainAfter)) && r.told.CompareAndSwap(last, now) {
		attrs := r.explain(err, "find the cause that keeps the database from writing to requests, callback_attempts or river_job: a lock, no disk, no primary")
		r.logger.WarnContext(r.ctx, "answers_not_recorded", append([]any{"answers", r.inHand.Load()}, attrs...)...)
	}
}

func (r *record) written() {
	if r.inHand.Add(-1) == 0 {
		r.logger.InfoContext(r.ctx, "answers_recorded")
	}
}

// isOver tells whether writing again is of no use.
func (r *record) isOver(err error) bool {
	var lasting *fault
	return err == nil || errors.As(err, &lasting) || r.ctx.Err() != nil || errors.Is(err, batch.ErrStopped) || db.IsRefused(err) && !isNumberTaken(err)
}

// isNumberTaken tells whether another batch took the number of an attempt at the same
// time.
func isNumberTaken(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) && refused.ConstraintName == "callback_attempts_pkey"
}
