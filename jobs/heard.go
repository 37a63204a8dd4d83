package jobs

import (
	"context"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"ringback/db"
)

const (
	// keptFor is how long progress is kept that can't be stored. It may arrive before the
	// record of its run, which is written after the upstream's 202, or the database may be
	// away.
	keptFor = time.Minute
	// maxKept bounds the kept progress, in bytes. A report that doesn't fit is dropped.
	maxKept = 16 << 20
	// keptOverhead is the memory of kept progress besides its text, in bytes.
	keptOverhead = 256
	// maxRenewals is how many reports a statement stores.
	maxRenewals = 1000
	// storeRest is the least time between two looks at the kept progress.
	storeRest = 50 * time.Millisecond
	// storeTimeout bounds a statement.
	storeTimeout = 2 * time.Second
)

// heard knows the runs whose reports were stored in this half second. A service that reports
// each of a million steps so costs the database two writes a second. Of progress that comes
// too soon to be stored, the latest of each run is kept, and stored after the half second.
type heard struct {
	store func(ctx context.Context, renewals []db.Renewal, pause time.Duration) ([]db.Renewed, error)

	mu      sync.Mutex
	since   time.Time
	recent  map[reportKind]time.Duration // the lease of each run
	kept    map[runID]kept
	bytes   int  // of the kept progress
	storing bool // a goroutine stores the kept progress
}

// reportKind tells two kinds of reports of a run apart: with progress, and without.
type reportKind struct {
	runID
	progress bool
}

// kept is the latest progress of a run that is not stored yet.
type kept struct {
	lease    time.Duration
	progress jsontext.Value
	at       time.Time // when it was taken
	due      time.Time
	first    time.Time // when the earliest progress was taken that this progress replaces
}

func (k kept) size() int { return len(k.progress) + keptOverhead }

// keepIfRecent tells whether a report needs no statement now, since a report of its kind was stored
// in the current half second. Its progress is kept.
func (h *heard) keepIfRecent(id runID, progress jsontext.Value, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	lease, recent := h.recent[reportKind{id, progress != nil}]
	if !recent || now.Sub(h.since) >= reportPause {
		return false
	}
	if progress != nil {
		h.put(id, kept{lease: lease, progress: progress, at: now})
	}
	return true
}

// keep is for progress that was not stored: another process has stored progress of the run
// in this half second, or the lease of the run is not recorded yet.
func (h *heard) keep(id runID, lease time.Duration, progress jsontext.Value, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.put(id, kept{lease: lease, progress: progress, at: at})
}

// put keeps progress, unless later progress is kept.
func (h *heard) put(id runID, k kept) {
	k.due, k.first = k.at.Add(reportPause), k.at
	earlier, replaces := h.kept[id]
	if replaces {
		if earlier.at.After(k.at) {
			return
		}
		k.due, k.first = earlier.due, earlier.first
		h.bytes -= earlier.size()
		delete(h.kept, id)
	}
	if h.bytes+k.size() > maxKept {
		return
	}
	if h.kept == nil {
		h.kept = map[runID]kept{}
	}
	h.kept[id] = k
	h.bytes += k.size()
	if !h.storing {
		h.storing = true
		go h.storeKept()
	}
}

// stored notes that a report was stored, and drops progress that was taken before it.
func (h *heard) stored(s reportKind, lease time.Duration, taken, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.recent == nil || now.Sub(h.since) >= reportPause {
		h.recent, h.since = map[reportKind]time.Duration{}, now
	}
	h.recent[s] = lease
	if s.progress && !h.kept[s.runID].at.After(taken) {
		h.drop(s.runID)
	}
}

func (h *heard) drop(id runID) {
	if earlier, found := h.kept[id]; found {
		h.bytes -= earlier.size()
		delete(h.kept, id)
	}
}

// forget is for a run that ends.
func (h *heard) forget(id runID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.recent, reportKind{id, true})
	delete(h.recent, reportKind{id, false})
	h.drop(id)
}

// storeKept stores progress that is due, until none is kept.
func (h *heard) storeKept() {
	for {
		wait, any := h.untilDue(time.Now())
		if !any {
			return
		}
		time.Sleep(max(wait, storeRest))
		h.storeDue(context.Background(), time.Now(), reportPause)
	}
}

// untilDue is the time until the first kept progress is due. Where none is kept, the next
// kept progress starts the storing again.
func (h *heard) untilDue(now time.Time) (wait time.Duration, any bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	wait = reportPause
	for _, k := range h.kept {
		wait = min(wait, k.due.Sub(now))
	}
	h.storing = len(h.kept) > 0
	return wait, h.storing
}

// storeAll stores all kept progress, for a process that stops.
func (h *heard) storeAll(ctx context.Context) {
	for h.storeDue(ctx, time.Now().Add(time.Hour), 0) {
	}
}

// storeDue stores the kept progress that is due, and tells whether it stored any.
func (h *heard) storeDue(ctx context.Context, due time.Time, pause time.Duration) (any bool) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	renewals, taken := h.due(due)
	if len(renewals) == 0 {
		return false
	}
	renewed, _ := h.store(ctx, renewals, pause) // the health of the database is watched by db.Health
	now := time.Now()
	for _, r := range renewed {
		id := runID{r.RequestID, r.Run}
		h.stored(reportKind{id, true}, taken[id].lease, taken[id].at, now)
	}
	h.postpone(taken, now)
	return len(renewed) > 0
}

// due returns kept progress that is due, by run and as renewals.
func (h *heard) due(at time.Time) (renewals []db.Renewal, taken map[runID]kept) {
	h.mu.Lock()
	defer h.mu.Unlock()
	taken = map[runID]kept{}
	for id, k := range h.kept {
		if k.due.After(at) || len(renewals) == maxRenewals {
			continue
		}
		taken[id] = k
		renewals = append(renewals, db.Renewal{RequestID: id.request, Run: id.run, Lease: k.lease, Progress: k.progress, Age: time.Since(k.at)})
	}
	return renewals, taken
}

// postpone makes progress due again that was not stored, unless it was kept for longer than
// keptFor.
func (h *heard) postpone(tried map[runID]kept, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id := range tried {
		k, still := h.kept[id]
		switch {
		case !still:
		case now.Sub(k.first) > keptFor:
			h.drop(id)
		default:
			k.due = now.Add(reportPause)
			h.kept[id] = k
		}
	}
}
