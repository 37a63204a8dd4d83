package jobs

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"ringback/jobs/limit"
)

const (
	// waitInterval is how often the database is asked for all who wait, and so how
	// late they may hear of work that another process did.
	waitInterval = 100 * time.Millisecond
	waitTimeout  = 2 * time.Second // of one such question
	maxWaits     = 1000            // callers of all clients
)

// waits wakes callers when the work of their request has ended. Work of this
// process tells at once; for that of others one query asks for all callers, while
// there are any. Clients share the places to wait in.
type waits struct {
	find func(ctx context.Context, ids []uuid.UUID) (ended []uuid.UUID, err error)

	mu      sync.Mutex
	places  limit.Slots
	open    map[uuid.UUID]map[chan struct{}]string // client by channel, which is closed when the work has ended
	polling bool
	closed  bool // nobody may wait any more
}

// newWaits lets the only client there is have all places, unless clients share
// them.
func newWaits(shared bool, find func(ctx context.Context, ids []uuid.UUID) ([]uuid.UUID, error)) *waits {
	return &waits{find: find, places: limit.NewSlots(maxWaits, shared), open: map[uuid.UUID]map[chan struct{}]string{}}
}

// Watch returns a channel that is closed when the work of a request has ended, or
// when waiting has: look what it is. stop must follow. It is false where the client
// may have no more callers that wait. Work that has ended before is told late, so
// look first.
func (q *Queue) Watch(client string, id uuid.UUID) (ended <-chan struct{}, stop func(), ok bool) {
	return q.waits.watch(client, id)
}

// EndWaits wakes all who wait, and lets nobody wait any more.
func (q *Queue) EndWaits() {
	w := q.waits
	w.mu.Lock()
	w.closed = true
	ids := slices.Collect(maps.Keys(w.open))
	w.mu.Unlock()
	w.wake(ids)
}

func (w *waits) watch(client string, id uuid.UUID) (ended <-chan struct{}, stop func(), ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || !w.places.Take(client, 1) {
		return nil, nil, false
	}
	if w.open[id] == nil {
		w.open[id] = map[chan struct{}]string{}
	}
	done := make(chan struct{})
	w.open[id][done] = client
	if !w.polling {
		w.polling = true
		go w.poll()
	}
	return done, func() { w.leave(id, done) }, true
}

func (w *waits) leave(id uuid.UUID, done chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	client, waiting := w.open[id][done]
	if !waiting {
		return // woken
	}
	w.places.Release(client, 1)
	delete(w.open[id], done)
	if len(w.open[id]) == 0 {
		delete(w.open, id)
	}
}

// wake tells all who wait for one of the requests.
func (w *waits) wake(ids []uuid.UUID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.open) == 0 {
		return
	}
	for _, id := range ids {
		for done, client := range w.open[id] {
			close(done)
			w.places.Release(client, 1)
		}
		delete(w.open, id)
	}
}

// poll asks the database for all who wait, until nobody does. A database that is
// away tells nothing: then they wait as long as they wanted.
func (w *waits) poll() {
	tick := time.NewTicker(waitInterval)
	defer tick.Stop()
	for range tick.C {
		ids := w.waiting()
		if len(ids) == 0 {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
		ended, _ := w.find(ctx, ids)
		cancel()
		w.wake(ended)
	}
}

// waiting are the requests that somebody waits for. Where there are none, the
// next one has to begin asking anew.
func (w *waits) waiting() []uuid.UUID {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.polling = len(w.open) > 0
	return slices.Collect(maps.Keys(w.open))
}
