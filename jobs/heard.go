package jobs

import (
	"context"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"ringback/db"
)

const (
	// keptFor is how long progress is kept that can't be stored: it may be faster than the
	// record of its attempt, which takes as long as the upstream's 202, or the database may
	// be away.
	keptFor = time.Minute
	// maxKept bounds the progress that is kept, in bytes. A report beyond it is dropped.
	maxKept = 16 << 20
	// keptOverhead is what kept progress takes besides its text.
	keptOverhead = 256
	// maxSigns is how many reports a statement stores.
	maxSigns = 1000
	// storeRest is the least time between two looks at the kept progress.
	storeRest = 50 * time.Millisecond
	// storeTimeout bounds a statement.
	storeTimeout = 2 * time.Second
)

// heard are the attempts that were just heard of, so that a service which reports each of a
// million steps costs the database two looks a second. Progress that comes too soon to be
// stored is kept, the latest of each attempt, and stored when the half second is over.
type heard struct {
	store func(ctx context.Context, signs []db.Sign, pause time.Duration) ([]db.Renewed, error)

	mu      sync.Mutex
	since   time.Time
	recent  map[sign]time.Duration // the lease of each
	kept    map[attempt]kept
	bytes   int  // of kept
	storing bool // a goroutine stores what is kept
}

// sign is a kind of report that ends nothing.
type sign struct {
	attempt
	progress bool
}

// kept is the latest progress of an attempt that is not stored yet.
type kept struct {
	lease    time.Duration
	progress jsontext.Value
	at       time.Time // when it was taken
	due      time.Time
	first    time.Time // when the progress that it replaced was taken, and so on
}

func (k kept) size() int { return len(k.progress) + keptOverhead }

// takes tells whether nothing of a report goes to the database now, since a report like it
// was stored in the current half second. Its progress is kept.
func (h *heard) takes(a attempt, progress jsontext.Value, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	lease, recent := h.recent[sign{a, progress != nil}]
	if !recent || now.Sub(h.since) >= reportPause {
		return false
	}
	if progress != nil {
		h.put(a, kept{lease: lease, progress: progress, at: now})
	}
	return true
}

// keep is for progress that was not stored, since another process has stored some in this
// half second, or since it is not recorded yet that the attempt goes on.
func (h *heard) keep(a attempt, lease time.Duration, progress jsontext.Value, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.put(a, kept{lease: lease, progress: progress, at: at})
}

// put keeps progress, unless later progress is kept.
func (h *heard) put(a attempt, k kept) {
	k.due, k.first = k.at.Add(reportPause), k.at
	earlier, replaces := h.kept[a]
	if replaces {
		if earlier.at.After(k.at) {
			return
		}
		k.due, k.first = earlier.due, earlier.first
		h.bytes -= earlier.size()
		delete(h.kept, a)
	}
	if h.bytes+k.size() > maxKept {
		return
	}
	if h.kept == nil {
		h.kept = map[attempt]kept{}
	}
	h.kept[a] = k
	h.bytes += k.size()
	if !h.storing {
		h.storing = true
		go h.storeKept()
	}
}

// stored notes that a report was stored. Progress that was taken before is kept no more.
func (h *heard) stored(s sign, lease time.Duration, taken, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.recent == nil || now.Sub(h.since) >= reportPause {
		h.recent, h.since = map[sign]time.Duration{}, now
	}
	h.recent[s] = lease
	if s.progress && !h.kept[s.attempt].at.After(taken) {
		h.drop(s.attempt)
	}
}

func (h *heard) drop(a attempt) {
	if earlier, found := h.kept[a]; found {
		h.bytes -= earlier.size()
		delete(h.kept, a)
	}
}

// forget is for an attempt that ends.
func (h *heard) forget(a attempt) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.recent, sign{a, true})
	delete(h.recent, sign{a, false})
	h.drop(a)
}

// storeKept stores what is due until nothing is kept.
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

// untilDue is the time until the first kept progress is due. Without any, the next begins
// the storing again.
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

// storeAll stores what is kept, for a process that stops.
func (h *heard) storeAll(ctx context.Context) {
	for h.storeDue(ctx, time.Now().Add(time.Hour), 0) {
	}
}

// storeDue stores the kept progress that is due, and tells whether it stored any.
func (h *heard) storeDue(ctx context.Context, due time.Time, pause time.Duration) (any bool) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	signs, taken := h.due(due)
	if len(signs) == 0 {
		return false
	}
	renewed, _ := h.store(ctx, signs, pause) // a database that is away is told of elsewhere
	now := time.Now()
	for _, r := range renewed {
		a := attempt{r.RequestID, r.Run}
		h.stored(sign{a, true}, taken[a].lease, taken[a].at, now)
	}
	h.postpone(taken, now)
	return len(renewed) > 0
}

// due returns kept progress that is due, with the time and lease of each.
func (h *heard) due(at time.Time) (signs []db.Sign, taken map[attempt]kept) {
	h.mu.Lock()
	defer h.mu.Unlock()
	taken = map[attempt]kept{}
	for a, k := range h.kept {
		if k.due.After(at) || len(signs) == maxSigns {
			continue
		}
		taken[a] = k
		signs = append(signs, db.Sign{RequestID: a.request, Run: a.run, Lease: k.lease, Progress: k.progress, Age: time.Since(k.at)})
	}
	return signs, taken
}

// postpone lets progress that was not stored be stored later, unless it was kept for too
// long already.
func (h *heard) postpone(tried map[attempt]kept, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for a := range tried {
		k, still := h.kept[a]
		switch {
		case !still:
		case now.Sub(k.first) > keptFor:
			h.drop(a)
		default:
			k.due = now.Add(reportPause)
			h.kept[a] = k
		}
	}
}
