package jobs

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"ringback/db"
	"ringback/work"
)

const (
	// reconcileInterval is the time between two looks for lost steps, by all processes
	// together. A look takes Postgres some milliseconds.
	reconcileInterval = time.Second
	// notesAtOnce is how many noted requests a look takes up. Where there are more, the
	// next look comes after reconcileHurry.
	notesAtOnce    = 256
	reconcileHurry = 50 * time.Millisecond
	// setBackTimeout bounds the move of all times after the database's clock was set back.
	setBackTimeout = 5 * time.Minute
)

// reconciler gives requests whose next step has lost its job another job. River UI and
// SQL can cancel, discard and delete jobs. Postgres notes those requests, and a look
// takes up the noted requests. Other lost steps are found by going through the requests,
// five thousand a second, and through the ordering keys. A work job that was cancelled is
// an exception: its request ends as cancelled, as by its caller. To end a callback, its
// caller cancels the request; a callback job that is cancelled is made again, since the
// callback is owed.
type reconciler struct {
	pool   *pgxpool.Pool
	logger *slog.Logger
	mended *prometheus.CounterVec     // by the kind of step
	wake   func(requests []uuid.UUID) // tells that their work has ended
	told   time.Time                  // when it last told of a failure that lasts; zero for none
}

// run looks until ctx ends.
func (r *reconciler) run(ctx context.Context) {
	for ctx.Err() == nil {
		pause, err := r.look(ctx)
		r.tellFailure(ctx, err, time.Now())
		sleep(ctx, pause)
	}
}

// tellFailure tells that a look failed, and again while looks fail.
func (r *reconciler) tellFailure(ctx context.Context, err error, now time.Time) {
	switch {
	case err == nil || ctx.Err() != nil:
		r.told = time.Time{}
	case now.Sub(r.told) >= db.ToldAgainAfter:
		r.told = now
		r.logger.WarnContext(ctx, "lost_steps_not_looked_for", "error", err,
			"remedy", "requests whose job is cancelled or deleted wait until this ends: find in the error what keeps the database from reading or writing requests, river_job, lost_steps or reconciliation")
	}
}

// look mends the lost steps that it finds, where a look is due, and returns the pause after
// it.
func (r *reconciler) look(ctx context.Context) (next time.Duration, err error) {
	all := ctx
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	var mended db.Mended
	var at db.Reconciliation
	due, pause := false, reconcileInterval
	err = db.InTx(ctx, r.pool, func(tx pgx.Tx) (err error) {
		if at, due, err = db.LockReconciliation(ctx, tx); err != nil || !due || at.SetBack > 0 {
			return err
		}
		mended, pause, err = mendNext(ctx, tx, at.Position)
		return err
	})
	if err != nil || !due {
		return pause, err
	}
	if at.SetBack > 0 {
		return 0, r.setTimesBack(all)
	}
	// Apart, since ordering keys are locked before requests.
	mended.Order, err = r.mendOrder(ctx, at.OrderPosition)
	r.tell(ctx, mended)
	return pause, err
}

// setTimesBack lets nothing wait longer because the database's clock was set back. Until
// they read that clock again, processes write times by the old one.
func (r *reconciler) setTimesBack(ctx context.Context) error {
	sleep(ctx, clockInterval+clockTimeout)
	ctx, cancel := context.WithTimeout(ctx, setBackTimeout)
	defer cancel()
	var at db.Reconciliation
	var jobs int64
	err := db.InTx(ctx, r.pool, func(tx pgx.Tx) (err error) {
		if at, _, err = db.LockReconciliation(ctx, tx); err != nil || at.SetBack == 0 {
			return err
		}
		if jobs, err = db.SetTimesBack(ctx, tx, at.SetBack); err != nil {
			return err
		}
		return db.SaveReconciliation(ctx, tx, at.Position, 0)
	})
	if err == nil && at.SetBack > 0 {
		r.logger.WarnContext(ctx, "database_clock_set_back", "by_seconds", at.SetBack.Seconds(), "jobs", jobs,
			"remedy", "none is needed: jobs, retries and leases wait no longer than before; requests with a run_at wait for it by the new clock")
	}
	return err
}

// mendNext mends the noted requests, and the next of all requests. It returns the pause
// until the next look.
func mendNext(ctx context.Context, tx pgx.Tx, position uuid.UUID) (mended db.Mended, pause time.Duration, err error) {
	pause = reconcileInterval
	ids, err := db.LostSteps(ctx, tx, notesAtOnce)
	if err != nil {
		return db.Mended{}, pause, err
	}
	if len(ids) == notesAtOnce {
		pause = reconcileHurry
	}
	found, next, err := db.FindLostSteps(ctx, tx, workJobs, callbackJobs, position)
	if err != nil {
		return db.Mended{}, pause, err
	}
	if mended, err = mend(ctx, tx, append(ids, found...)); err != nil {
		return db.Mended{}, pause, err
	}
	return mended, pause, db.SaveReconciliation(ctx, tx, next, pause)
}

func mend(ctx context.Context, tx pgx.Tx, ids []uuid.UUID) (db.Mended, error) {
	reason, err := cancellation("The work's job was cancelled by an operator.")
	if err != nil {
		return db.Mended{}, err
	}
	return db.Mend(ctx, tx, workJobs, callbackJobs, ids, reason)
}

func (r *reconciler) mendOrder(ctx context.Context, position uuid.UUID) (mended int, err error) {
	err = db.InTx(ctx, r.pool, func(tx pgx.Tx) (err error) {
		var next uuid.UUID
		if mended, next, err = db.MendOrder(ctx, tx, position); err != nil {
			return err
		}
		return db.SaveOrderPosition(ctx, tx, next)
	})
	return mended, err
}

// tell counts and logs the mended requests.
func (r *reconciler) tell(ctx context.Context, m db.Mended) {
	if !m.Any() {
		return
	}
	for what, count := range map[string]int{
		"work": m.Work, "callback": m.Callbacks, "ordering_key": m.Order, "cancelled": len(m.Cancelled),
	} {
		r.mended.WithLabelValues(what).Add(float64(count))
	}
	r.wake(m.Cancelled)
	r.logger.WarnContext(ctx, "lost_steps_mended",
		"work_jobs", m.Work, "callback_jobs", m.Callbacks, "ordering_keys", m.Order, "requests_cancelled", len(m.Cancelled))
}

// Mend does for a single request what the reconciler does for all.
func (q *Queue) Mend(ctx context.Context, request uuid.UUID) error {
	var mended db.Mended
	err := db.InTx(ctx, q.pool, func(tx pgx.Tx) (err error) {
		mended, err = mend(ctx, tx, []uuid.UUID{request})
		return err
	})
	if err == nil {
		q.reconciler.tell(ctx, mended)
	}
	return err
}

// cancellation is the error of a request that was cancelled.
func cancellation(message string) (jsontext.Value, error) {
	encoded, err := json.Marshal(work.Error{Code: codeCancelled, Message: message})
	if err != nil {
		return nil, fmt.Errorf("encoding cancellation: %w", err)
	}
	return encoded, nil
}
