package jobs

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
)

const (
	// beatInterval is how often a process says that it lives, and looks for those
	// that don't.
	beatInterval = 2 * time.Second
	// beatTimeout leaves time for the next beat to be on time.
	beatTimeout = 2 * time.Second
	// deathAfter is how long a process must be silent: five beats, so that a busy
	// machine isn't taken for a dead one. To take its jobs up is then at most 14 s
	// after its end.
	deathAfter = 10 * time.Second
	// maxBeatGap is how far apart two beats are at most while the database is there.
	maxBeatGap = 2 * beatInterval
	// trustAfter is how long a process must have beaten without a gap before it
	// calls others dead. When the database was away, or this process paused, all
	// have been silent, and get this long to say otherwise.
	trustAfter = 3 * beatInterval
	// forgetAfter is how long a silent process is remembered. One that was paused
	// for that long, and dies as soon as it goes on, leaves its jobs to River's
	// rescue.
	forgetAfter = time.Hour
)

// heartbeat says that this process lives, and gives back the jobs of others that
// died. A process that was only paused does no harm when it goes on: its steps
// find that they are done, or are done first.
//
// It also gives back the jobs that the database takes for this process's and that
// don't run here. Where a connection broke, the answer to a fetch was lost after
// its commit; where the database was away for long, River has given up saying what
// came of a job.
type heartbeat struct {
	process string
	held    *held
	strays  []int64 // jobs that didn't run here at the last look
	pool    *pgxpool.Pool
	logger  *slog.Logger
	stop    context.CancelFunc // nil before start
	ended   chan struct{}      // closed when run has ended
}

// start beats until end. The first beat is over when it returns, since no job may
// run in a process that nobody knows.
func (h *heartbeat) start(ctx context.Context) error {
	if err := h.beat(ctx); err != nil {
		return err
	}
	ctx, h.stop = context.WithCancel(ctx)
	h.ended = make(chan struct{})
	go h.run(ctx)
	return nil
}

// end stops beating. A process that left no job running, as far as it knows, takes
// back that it lives; otherwise its silence tells others that it is dead.
func (h *heartbeat) end(ctx context.Context, jobsLeft bool) error {
	if h.stop == nil {
		return nil
	}
	h.stop()
	<-h.ended
	if jobsLeft {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	return db.RemoveProcess(ctx, h.pool, h.process)
}

func (h *heartbeat) run(ctx context.Context) {
	defer close(h.ended)
	tick := time.NewTicker(beatInterval)
	defer tick.Stop()
	seen := vigil{}.at(time.Now())
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if err := h.beat(ctx); err == nil {
			seen = seen.at(time.Now())
		}
		if seen.trusts(time.Now()) {
			h.returnJobs(ctx)
			h.returnStrays(ctx)
		}
	}
}

func (h *heartbeat) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	return db.Beat(ctx, h.pool, h.process)
}

func (h *heartbeat) returnJobs(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	returned, err := db.ReturnJobs(ctx, h.pool, callbackJobs.Kind, deathAfter)
	if returned > 0 {
		h.logger.WarnContext(ctx, "jobs_of_dead_processes_returned", "jobs", returned)
	}
	if err == nil {
		err = db.ForgetProcesses(ctx, h.pool, forgetAfter)
	}
	if err != nil && ctx.Err() == nil {
		h.logger.WarnContext(ctx, "jobs_of_dead_processes_not_returned", "error", err)
	}
}

// returnStrays gives back what was stray at two looks. One is not enough: a job
// may have ended just now, and River not yet have said so.
func (h *heartbeat) returnStrays(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	running, err := db.RunningJobs(ctx, h.pool, h.process, deathAfter)
	strays := slices.DeleteFunc(running, h.held.has)
	twice := slices.DeleteFunc(slices.Clone(strays), func(id int64) bool { return !slices.Contains(h.strays, id) })
	h.strays = strays
	var returned int64
	if err == nil && len(twice) > 0 {
		returned, err = db.ReturnStrays(ctx, h.pool, h.process, deathAfter, twice)
	}
	if returned > 0 {
		h.logger.WarnContext(ctx, "stray_jobs_returned", "jobs", returned)
	}
	if err != nil && ctx.Err() == nil {
		h.logger.WarnContext(ctx, "stray_jobs_not_returned", "error", err)
	}
}

// vigil is the time for which this process has beaten without a gap.
type vigil struct{ since, last time.Time }

// at is the vigil after a beat.
func (v vigil) at(now time.Time) vigil {
	if now.Sub(v.last) > maxBeatGap {
		v.since = now
	}
	v.last = now
	return v
}

// trusts tells whether others that were silent meanwhile are dead.
func (v vigil) trusts(now time.Time) bool {
	return now.Sub(v.last) <= maxBeatGap && now.Sub(v.since) >= trustAfter
}
