package upkeep

import (
	"context"
	"log/slog"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"ringback/db"
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

// Reconciler gives requests whose next step has lost its job another job. River UI and
// SQL can cancel, discard and delete jobs. Postgres notes those requests, and a look
// takes up the noted requests. Other lost steps are found by going through the requests,
// five thousand a second, and through the ordering keys. A work job that was cancelled is
// an exception: its request ends as cancelled, as by its caller. To end a callback, its
// caller cancels the request; a callback job that is cancelled is made again, since the
// callback is owed.
type Reconciler struct {
	Pool           *pgxpool.Pool
	Logger         *slog.Logger
	Work, Callback db.Jobs
	Cancelled      jsontext.Value             // the error of a request whose work job was cancelled
	Mended         *prometheus.CounterVec     // by the kind of step
	Wake           func(requests []uuid.UUID) // tells that their work has ended
	ClockReadIn    time.Duration              // within it, each process reads the database's clock again

	told time.Time // when it last told of a failure that lasts; zero for none
}

// Run looks until ctx ends.
func (r *Reconciler) Run(ctx context.Context) {
	for ctx.Err() == nil {
		pause, err := r.Look(ctx)
		r.tellFailure(ctx, err, time.Now())
		sleep(ctx, pause)
	}
}

// tellFailure tells that a look failed, and again while looks fail.
func (r *Reconciler) tellFailure(ctx context.Context, err error, now time.Time) {
	switch {
	case err == nil || ctx.Err() != nil:
		r.told = time.Time{}
	case now.Sub(r.told) >= db.ToldAgainAfter:
		r.told = now
		r.Logger.WarnContext(ctx, "lost_steps_not_looked_for", "error", err,
			"remedy", "requests whose job is cancelled or deleted wait until this ends: find in the error what keeps the database from reading or writing requests, river_job, lost_steps or reconciliation")
	}
}

// Look mends the lost steps that it finds, where a look is due, and returns the pause after
// it.
func (r *Reconciler) Look(ctx context.Context) (next time.Duration, err error) {
	all := ctx
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	var mended db.Mended
	var at db.Reconciliation
	due, pause := false, reconcileInterval
	err = db.InTx(ctx, r.Pool, func(tx pgx.Tx) (err error) {
		if at, due, err = db.LockReconciliation(ctx, tx); err != nil || !due || at.SetBack > 0 {
			return err
		}
		mended, pause, err = r.mendNext(ctx, tx, at.Position)
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
func (r *Reconciler) setTimesBack(ctx context.Context) error {
	sleep(ctx, r.ClockReadIn)
	ctx, cancel := context.WithTimeout(ctx, setBackTimeout)
	defer cancel()
	var at db.Reconciliation
	var jobs int64
	err := db.InTx(ctx, r.Pool, func(tx pgx.Tx) (err error) {
		if at, _, err = db.LockReconciliation(ctx, tx); err != nil || at.SetBack == 0 {
			return err
		}
		if jobs, err = db.SetTimesBack(ctx, tx, at.SetBack); err != nil {
			return err
		}
		return db.SaveReconciliation(ctx, tx, at.Position, 0)
	})
	if err == nil && at.SetBack > 0 {
		r.Logger.WarnContext(ctx, "database_clock_set_back", "by_seconds", at.SetBack.Seconds(), "jobs", jobs,
			"remedy", "none is needed: jobs, retries and leases wait no longer than before; requests with a run_at wait for it by the new clock")
	}
	return err
}

// mendNext mends the noted requests, and the next of all requests. It returns the pause
// until the next look.
func (r *Reconciler) mendNext(ctx context.Context, tx pgx.Tx, position uuid.UUID) (mended db.Mended, pause time.Duration, err error) {
	pause = reconcileInterval
	ids, err := db.LostSteps(ctx, tx, notesAtOnce)
	if err != nil {
		return db.Mended{}, pause, err
	}
	if len(ids) == notesAtOnce {
		pause = reconcileHurry
	}
	found, next, err := db.FindLostSteps(ctx, tx, r.Work, r.Callback, position)
	if err != nil {
		return db.Mended{}, pause, err
	}
	if mended, err = r.mend(ctx, tx, append(ids, found...)); err != nil {
		return db.Mended{}, pause, err
	}
	return mended, pause, db.SaveReconciliation(ctx, tx, next, pause)
}

func (r *Reconciler) mend(ctx context.Context, tx pgx.Tx, ids []uuid.UUID) (db.Mended, error) {
	return db.Mend(ctx, tx, r.Work, r.Callback, ids, r.Cancelled)
}

func (r *Reconciler) mendOrder(ctx context.Context, position uuid.UUID) (mended int, err error) {
	err = db.InTx(ctx, r.Pool, func(tx pgx.Tx) (err error) {
		var next uuid.UUID
		if mended, next, err = db.MendOrder(ctx, tx, position); err != nil {
			return err
		}
		return db.SaveOrderPosition(ctx, tx, next)
	})
	return mended, err
}

// tell counts and logs the mended requests.
func (r *Reconciler) tell(ctx context.Context, m db.Mended) {
	if !m.Any() {
		return
	}
	for what, count := range map[string]int{
		"work": m.Work, "callback": m.Callbacks, "ordering_key": m.Order, "cancelled": len(m.Cancelled),
	} {
		r.Mended.WithLabelValues(what).Add(float64(count))
	}
	r.Wake(m.Cancelled)
	r.Logger.WarnContext(ctx, "lost_steps_mended",
		"work_jobs", m.Work, "callback_jobs", m.Callbacks, "ordering_keys", m.Order, "requests_cancelled", len(m.Cancelled))
}

// Mend does for a single request what Run does for all.
func (r *Reconciler) Mend(ctx context.Context, request uuid.UUID) error {
	var mended db.Mended
	err := db.InTx(ctx, r.Pool, func(tx pgx.Tx) (err error) {
		mended, err = r.mend(ctx, tx, []uuid.UUID{request})
		return err
	})
	if err == nil {
		r.tell(ctx, mended)
	}
	return err
}
