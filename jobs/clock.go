package jobs

import (
	"context"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"ringback/db"
)

const (
	// clockInterval is the time between two readings of the database's clock. After a
	// failover to a server whose clock differs, steps go by the old clock until then.
	clockInterval = 2 * time.Second
	// clockTimeout bounds a reading.
	clockTimeout = 2 * time.Second
	// maxSkew is the difference from which on an operator is told.
	maxSkew = time.Second
)

// clockWatch keeps the database's clock.
type clockWatch struct {
	db.Clock
	querier db.Querier
	logger  *slog.Logger
	differs bool      // by the last log line
	told    time.Time // when it was last told that they differ
}

// watch reads the clock until ctx ends.
func (w *clockWatch) watch(ctx context.Context) {
	tick := time.NewTicker(clockInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			w.read(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// read compares the clocks, and tells when they begin to differ, now and again while they
// do, and when they agree again. While the database is
// away, the last reading stands.
func (w *clockWatch) read(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, clockTimeout)
	defer cancel()
	if w.Read(ctx, w.querier) != nil {
		return
	}
	skew := w.Skew()
	before := w.differs
	w.differs = skew.Abs() > maxSkew
	switch {
	case w.differs && (!before || time.Since(w.told) >= db.ToldAgainAfter):
		w.told = time.Now()
		w.logger.WarnContext(ctx, "clocks_differ", "skew_seconds", skew.Seconds(),
			"remedy", "find out first which clock is wrong, this machine's or the database's; see RingbackClocksDiffer in the runbook before the database's clock is set; all times are the database's until then")
	case before && !w.differs:
		w.logger.InfoContext(ctx, "clocks_agree")
	}
}

// Now is the database's time, as fine as Postgres keeps it.
func (q *Queue) Now() time.Time { return q.clock.Now().UTC().Truncate(time.Microsecond) }

// NewID makes the id of a request, by the database's time.
func (q *Queue) NewID() uuid.UUID { return q.clock.NewID() }

// Here is this process's time at a time of the database.
func (q *Queue) Here(t time.Time) time.Time { return q.clock.Here(t) }
