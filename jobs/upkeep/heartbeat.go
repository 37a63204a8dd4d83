package upkeep

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
)

const (
	// BeatInterval is how often a process writes that it lives, and looks for dead
	// processes.
	BeatInterval = 2 * time.Second
	// beatTimeout leaves time for the next beat to be on time.
	beatTimeout = 2 * time.Second
	// DeathAfter is how long a process must be silent to count as dead: five beats, so that
	// a busy machine doesn't. Where its lock doesn't tell, its jobs run again
	// within 15 s of its end.
	DeathAfter = db.LostAfter
	// maxBeatGap is how far apart two beats are at most while the database is there.
	maxBeatGap = 2 * BeatInterval
	// maxClockGap is how far the database's clock and this process's may go apart between two
	// beats, where each may take beatTimeout. Beyond that, the database's clock was set.
	maxClockGap = 2 * beatTimeout
	// TrustAfter is how long a process must have beaten without a gap before it calls
	// others dead. When the database was away, its clock was set, or this process paused, all
	// processes have been silent, or seem so, and get this long to beat.
	TrustAfter = 3 * BeatInterval
	// strayShare is how many times longer than a look for stray jobs the pause after it is at
	// least. Where dead rows can't be removed, a look reads all jobs that ran.
	strayShare = 20
	// forgetAfter is how long the row of a silent process stays.
	forgetAfter = time.Hour
)

// Heartbeat writes that this process lives, and gives back the jobs of processes that
// died. A paused process does no harm when it goes on: its steps commit before the
// steps of the process that took its jobs, or find nothing to do.
//
// Either of two facts shows that a process is dead: a free lock, seen within two seconds, or silence.
// Silence counts where the lock outlives the process, as after the loss of a machine, and
// where there is no lock.
//
// Heartbeat also gives back stray jobs: the database has them as running in this process,
// which doesn't run them. A connection that breaks may lose the answer to a fetch after
// its commit, and River gives up recording the end of a job while the database is away.
// So are jobs of a process that has no row, such as after its row was deleted by hand: River's
// own rescue leaves jobs alone that have no timeout.
type Heartbeat struct {
	process  string
	isLocal  bool   // in local mode
	refunded string // kind of jobs
	holds    func(job int64) bool
	strays   map[int64]time.Time // jobs that were stray at the last look, since when
	lock     lock
	met      func(error) // takes how each beat went
	pool     *pgxpool.Pool
	logger   *slog.Logger
	stop     context.CancelFunc // nil before Start
	running  sync.WaitGroup     // the goroutines of Start
}

// NewHeartbeat returns the heartbeat of a process, which River's client id names, and which
// may be in local mode. holds
// tells whether a job runs here. Jobs of the refunded kind get back the attempt that a
// death cost them. met takes how each beat went.
func NewHeartbeat(process string, isLocal bool, refunded string, holds func(job int64) bool, met func(error), pool *pgxpool.Pool, logger *slog.Logger) *Heartbeat {
	return &Heartbeat{
		process: process, isLocal: isLocal, refunded: refunded, holds: holds, met: met, pool: pool, logger: logger,
		lock: lock{process: process, pool: pool, logger: logger, held: true},
	}
}

// Start beats until End. It returns after the first beat, since no job may run in a
// process without a row. A heartbeat that beats already goes on: what had to start after it
// failed, and is started again.
func (h *Heartbeat) Start(ctx context.Context) error {
	if _, err := h.beat(ctx); err != nil {
		return err
	}
	if h.stop != nil {
		return nil
	}
	h.lock.hold(ctx)
	ctx, h.stop = context.WithCancel(ctx)
	h.running.Go(func() { h.run(ctx) })
	h.running.Go(func() { h.watch(ctx) })
	return nil
}

// End stops beating. A process that left no job running, as far as it knows, removes its
// row. Otherwise it keeps its lock until it ends, and other processes see that.
func (h *Heartbeat) End(ctx context.Context, jobsLeft bool) error {
	if h.stop == nil {
		return nil
	}
	h.stop()
	h.running.Wait()
	if jobsLeft {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	defer h.lock.close(ctx)
	return db.RemoveProcess(ctx, h.pool, h.process)
}

func (h *Heartbeat) run(ctx context.Context) {
	tick := time.NewTicker(BeatInterval)
	defer tick.Stop()
	var seen vigil
	var nextStrays time.Time
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if beat, err := h.beat(ctx); err == nil {
			seen = seen.at(time.Now(), beat)
		}
		if seen.trusts(time.Now()) {
			h.returnJobs(ctx, seen.told)
		}
		if start := time.Now(); seen.trusts(start) && !start.Before(nextStrays) {
			h.returnStrays(ctx)
			nextStrays = time.Now().Add(strayShare * time.Since(start))
		}
	}
}

func (h *Heartbeat) beat(ctx context.Context) (at time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	at, err = db.Beat(ctx, h.pool, h.process, h.isLocal)
	h.met(err)
	return at, err
}

func (h *Heartbeat) returnJobs(ctx context.Context, beat time.Time) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	returned, err := db.ReturnJobs(ctx, h.pool, h.refunded, beat, DeathAfter)
	if err == nil {
		err = db.ForgetProcesses(ctx, h.pool, beat, forgetAfter)
	}
	h.logReturned(ctx, "silence", returned, err)
}

func (h *Heartbeat) logReturned(ctx context.Context, judgedBy string, returned int64, err error) {
	if returned > 0 {
		h.logger.WarnContext(ctx, "jobs_of_dead_processes_returned", "judged_by", judgedBy, "jobs", returned)
	}
	if err != nil && ctx.Err() == nil {
		h.logger.WarnContext(ctx, "jobs_of_dead_processes_not_returned", "judged_by", judgedBy, "error", err)
	}
}

// watch holds this process's lock, and gives back the jobs of processes whose lock is free.
func (h *Heartbeat) watch(ctx context.Context) {
	var absent absences
	for ; ctx.Err() == nil; h.lock.rest(ctx) {
		broke := h.lock.lost()
		h.lock.hold(ctx)
		if broke {
			absent = absences{from: time.Now().Add(settleAfter)}
		}
		if h.lock.lost() {
			continue
		}
		if free, err := h.lock.look(ctx); err == nil {
			absent = absent.at(time.Now(), free)
			h.returnJobsOf(ctx, absent.gone())
		}
	}
}

func (h *Heartbeat) returnJobsOf(ctx context.Context, gone []db.Process) {
	if len(gone) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	returned, err := db.ReturnJobsOf(ctx, h.pool, h.refunded, gone)
	h.logReturned(ctx, "lock", returned, err)
}

// returnStrays gives back jobs that were stray for TrustAfter. One look is not enough: a job
// may have ended just now, before River recorded it, and a process that lives writes its row
// again with its next beat.
func (h *Heartbeat) returnStrays(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	running, err := db.StrayJobs(ctx, h.pool, h.process, DeathAfter)
	var lasting []int64
	h.strays, lasting = straysAt(time.Now(), h.strays, slices.DeleteFunc(running, h.holds))
	var returned int64
	if err == nil && len(lasting) > 0 {
		returned, err = db.ReturnStrays(ctx, h.pool, h.process, DeathAfter, lasting)
	}
	if returned > 0 {
		h.logger.WarnContext(ctx, "stray_jobs_returned", "jobs", returned)
	}
	if err != nil && ctx.Err() == nil {
		h.logger.WarnContext(ctx, "stray_jobs_not_returned", "error", err)
	}
}

// straysAt returns since when jobs that a look found are stray, and which have been for
// TrustAfter.
func straysAt(now time.Time, before map[int64]time.Time, found []int64) (strays map[int64]time.Time, lasting []int64) {
	strays = make(map[int64]time.Time, len(found))
	for _, job := range found {
		since, known := before[job]
		if !known {
			since = now
		}
		strays[job] = since
		if now.Sub(since) >= TrustAfter {
			lasting = append(lasting, job)
		}
	}
	return strays, lasting
}

// vigil is the time for which this process has beaten without a gap, while nobody set the
// database's clock.
type vigil struct {
	since, last time.Time // by this process's clock
	told        time.Time // the last beat, by the database's clock
}

// at is the vigil after a beat.
func (v vigil) at(now, told time.Time) vigil {
	gap := now.Sub(v.last)
	if gap > maxBeatGap || (told.Sub(v.told)-gap).Abs() > maxClockGap {
		v.since = now
	}
	v.last, v.told = now, told
	return v
}

// trusts tells whether processes that were silent meanwhile are dead.
func (v vigil) trusts(now time.Time) bool {
	return now.Sub(v.last) <= maxBeatGap && now.Sub(v.since) >= TrustAfter
}
