package jobs

import (
	"sync"
	"time"
)

// heard are the attempts that were just heard of, so that a service which reports each
// of a million steps costs the database two looks a second.
type heard struct {
	mu     sync.Mutex
	since  time.Time
	recent map[sign]bool
}

// sign is a kind of report that ends nothing.
type sign struct {
	attempt
	progress bool
}

// has tells whether a report like s was taken in the current half second: another would
// not be stored.
func (h *heard) has(s sign, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.recent[s] && now.Sub(h.since) < reportPause
}

func (h *heard) add(s sign, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.recent == nil || now.Sub(h.since) >= reportPause {
		h.recent, h.since = map[sign]bool{}, now
	}
	h.recent[s] = true
}

// forget is for an attempt that ends.
func (h *heard) forget(a attempt) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.recent, sign{a, true})
	delete(h.recent, sign{a, false})
}
