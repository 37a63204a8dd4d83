package jobs

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"ringback/db"
	"ringback/jobs/limit"
)

const (
	// waitInterval is how often the database is asked for all who wait, and so how
	// late they may hear of work that another process did.
	waitInterval = 100 * time.Millisecond
	// followInterval is the same for those who follow a request, for hours perhaps.
	followInterval = 500 * time.Millisecond
	waitTimeout    = 2 * time.Second // of one such question
	maxWaits       = 1000            // callers of all clients
	maxFollowers   = 1000            // likewise
)

// waits wakes callers when the work of their request has ended. Work of this
// process tells at once; for that of others one query asks for all callers, while
// there are any. Clients share the places to wait in.
type waits struct {
	interval time.Duration
	find     func(ctx context.Context, ids []uuid.UUID) (ended []uuid.UUID, err error)

	mu      sync.Mutex
	places  limit.Slots
	open    map[uuid.UUID]map[chan struct{}]string // client by channel, which is closed when the work has ended
	polling bool
	closed  bool // nobody may wait any more
}

func newWaits(interval time.Duration, places limit.Slots, find func(ctx context.Context, ids []uuid.UUID) ([]uuid.UUID, error)) *waits {
	return &waits{interval: interval, find: find, places: places, open: map[uuid.UUID]map[chan struct{}]string{}}
}

// Watch returns a channel that is closed when the work of a request has ended, or
// when waiting has: look what it is. stop must follow. It is false where the client
// may have no more callers that wait. Work that has ended before is told late, so
// look first.
func (q *Queue) Watch(client string, id uuid.UUID) (ended <-chan struct{}, stop func(), ok bool) {
	return q.waits.watch(client, id)
}

// Why nobody more may follow a request.
var (
	ErrFollowers       = errors.New("too many follow requests")
	ErrClientFollowers = errors.New("too many callers of the client follow requests")
)

// Follow is Watch for callers who stay until the work has ended, however long that
// takes. It fails with ErrFollowers, ErrClientFollowers, or db.ErrStopped.
func (q *Queue) Follow(client string, id uuid.UUID) (ended <-chan struct{}, stop func(), err error) {
	ended, stop, ok := q.follows.watch(client, id)
	if ok {
		return ended, stop, nil
	}
	return nil, nil, q.follows.refusal()
}

// EndWaits wakes all who wait, and lets nobody wait any more.
func (q *Queue) EndWaits() {
	q.waits.end()
	q.follows.end()
}

// wake tells all who wait for one of the requests that its work has ended.
func (q *Queue) wake(ids []uuid.UUID) {
	q.waits.wake(ids)
	q.follows.wake(ids)
}

func (w *waits) end() {
	w.mu.Lock()
	w.closed = true
	ids := slices.Collect(maps.Keys(w.open))
	w.mu.Unlock()
	w.wake(ids)
}

// refusal is why there is no place.
func (w *waits) refusal() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.closed:
		return db.ErrStopped
	case w.places.Free() == 0:
		return ErrFollowers
	}
	return ErrClientFollowers
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
	tick := time.NewTicker(w.interval)
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
