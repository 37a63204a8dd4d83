package upkeep

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
)

const (
	// lookInterval is how often a process looks for locks that are free.
	lookInterval = 250 * time.Millisecond
	// retryInterval is how long a process waits after it could not connect.
	retryInterval = 100 * time.Millisecond
	// goneAfter is how long a lock must be free until its process counts as dead: a process
	// whose connection broke takes its lock again within milliseconds.
	goneAfter = time.Second
	// maxLookGap is the longest time between two looks that belong together: a process that
	// paused can't tell whether a lock was held meanwhile.
	maxLookGap = goneAfter
	// settleAfter is how long other processes have to connect again after this process's own
	// connection broke, since theirs may have broken, too. It is the longest time of a
	// connect.
	settleAfter = 2 * time.Second
)

// lock is a lock in the database, held by a connection that this process keeps for as long
// as it lives. Postgres frees the lock when the process ends, however it ends, and not when
// it is paused. Where no lock can be had, the heartbeat alone tells that the process lives.
type lock struct {
	process string
	pool    *pgxpool.Pool
	logger  *slog.Logger
	session *pgx.Conn // nil before the first
	held    bool      // by the last log line
	due     time.Time // of the next check that it is held
}

var errNoLock = errors.New("the session has no lock: a pooler such as PgBouncer stands between, an earlier connection of this process still has it, or the database knows no such locks")

// hold checks that the lock is held where that is due, and takes it again otherwise.
func (l *lock) hold(ctx context.Context) {
	if !l.lost() && time.Now().Before(l.due) {
		return
	}
	held, err := l.take(ctx)
	if held || err != nil { // or the connection before is about to end
		l.due = time.Now().Add(BeatInterval)
	}
	if held == l.held || ctx.Err() != nil {
		return
	}
	l.held = held
	if held {
		l.logger.InfoContext(ctx, "process_lock_held")
	} else {
		if err == nil {
			err = errNoLock
		}
		l.logger.WarnContext(ctx, "process_lock_not_held", "error", err,
			"remedy", "nothing has to be done; without the lock, the jobs of this process run again within 15 s once it is killed, not 2 s; connect to Postgres without a pooler where that matters")
	}
}

// take takes the lock, on a connection of its own. The connection comes from the pool,
// which mostly has an idle connection.
func (l *lock) take(ctx context.Context) (held bool, err error) {
	ctx, cancel := uninterrupted(ctx)
	defer cancel()
	if l.lost() {
		conn, err := l.pool.Acquire(ctx)
		if err != nil {
			return false, err
		}
		l.session = conn.Hijack()
	}
	return db.HoldLock(ctx, l.session, l.process, l.session.PgConn().PID())
}

// uninterrupted lets a statement end though ctx does: interrupting it would cost the
// connection, and with it the lock.
func uninterrupted(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), stepTimeout)
}

func (l *lock) lost() bool { return l.session == nil || l.session.IsClosed() }

// look returns the processes whose lock is free.
func (l *lock) look(ctx context.Context) ([]db.Process, error) {
	ctx, cancel := uninterrupted(ctx)
	defer cancel()
	return db.FreeLocks(ctx, l.session, l.process)
}

// rest waits until the next look, or until the connection breaks.
func (l *lock) rest(ctx context.Context) {
	if l.lost() {
		ctx, cancel := context.WithTimeout(ctx, retryInterval)
		defer cancel()
		<-ctx.Done()
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lookInterval)
	defer cancel()
	_, _ = l.session.WaitForNotification(ctx) // none comes
}

// close frees the lock.
func (l *lock) close(ctx context.Context) {
	if l.session != nil {
		_ = l.session.Close(ctx)
	}
}

// absences tells since when the locks of processes have been free at every look, without a
// heartbeat of the processes.
type absences struct {
	from  time.Time // the earliest start of an absence: until then processes may connect again
	last  time.Time // look
	since map[db.Process]time.Time
}

// at returns the absences after a look.
func (a absences) at(now time.Time, free []db.Process) absences {
	next := absences{from: a.from, last: now, since: make(map[db.Process]time.Time, len(free))}
	for _, process := range free {
		since, known := a.since[process]
		if !known || now.Sub(a.last) > maxLookGap {
			since = now
		}
		if since.Before(a.from) {
			since = a.from
		}
		next.since[process] = since
	}
	return next
}

// gone returns the dead processes.
func (a absences) gone() (dead []db.Process) {
	for process, since := range a.since {
		if a.last.Sub(since) >= goneAfter {
			dead = append(dead, process)
		}
	}
	return dead
}
