package jobs

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"ringback/db"
	"ringback/db/batch"
	"ringback/jobs/limit"
)

const (
	// waitInterval is how often the database is asked for all who wait, and so how
	// late they may hear of work that another process did.
	waitInterval = 100 * time.Millisecond
	// followInterval is the interval for callers who follow a request, perhaps for hours.
	followInterval = 500 * time.Millisecond
	waitTimeout    = 2 * time.Second // of one such query
	maxWaits       = 1000            // callers of all clients
	maxFollowers   = 1000            // likewise
)

// waits wakes callers when the work of their request has ended. Work of this process
// wakes them at once; for other processes' work a query asks for all callers together.
// Clients share the slots for waiting. Callers who follow a request get its progress,
// too.
type waits struct {
	interval time.Duration
	find     func(ctx context.Context, ids []uuid.UUID, known []int) (news, error)

	mu      sync.Mutex
	slots   limit.Slots
	open    map[uuid.UUID]*watched
	polling bool
	closed  bool // nobody may wait any more
}

// watched is a request that somebody waits for.
type watched struct {
	known int                         // how much progress it has made, as far as all have heard
	by    map[chan db.Progress]string // client by channel, which is closed when the work has ended
}

// news is the news of requests that callers wait for.
type news struct {
	ended    []uuid.UUID
	progress []db.Progress
}

func newWaits(interval time.Duration, slots limit.Slots, find func(ctx context.Context, ids []uuid.UUID, known []int) (news, error)) *waits {
	return &waits{interval: interval, find: find, slots: slots, open: map[uuid.UUID]*watched{}}
}

// Watch returns a channel that is closed when the work of a request has ended, or when
// waiting ends: read the request to see. stop must follow. ok is false where the client
// may have no more waiting callers. Watch tells late of work that ended before, so read
// the request first.
func (q *Queue) Watch(client string, id uuid.UUID) (ended <-chan db.Progress, stop func(), ok bool) {
	ended, stop, err := q.waits.watch(client, id, 0)
	return ended, stop, err == nil
}

// Reasons for which nobody more may follow a request: no slot is free, or the client has
// its share.
const (
	Follows       limit.Reason = "streams"
	ClientFollows limit.Reason = "client_streams"
)

// Follow is Watch for callers who stay until the work has ended, however long that
// takes. The channel carries the latest progress beyond what is known, which counts from
// 1, and is closed at the end. It fails with a *limit.Refusal or
// batch.ErrStopped.
func (q *Queue) Follow(client string, id uuid.UUID, known int) (progress <-chan db.Progress, stop func(), err error) {
	return q.follows.watch(client, id, known)
}

// EndWaits wakes all who wait, and lets nobody wait any more.
func (q *Queue) EndWaits() {
	q.waits.end()
	q.follows.end()
}

// findEnded finds the requests that have ended, for callers who wait for the end.
func (q *Queue) findEnded(ctx context.Context, ids []uuid.UUID, _ []int) (found news, err error) {
	found.ended, err = db.EndedWork(ctx, q.pool, ids)
	return found, err
}

// findNews finds the news for callers who follow requests.
func (q *Queue) findNews(ctx context.Context, ids []uuid.UUID, known []int) (found news, err error) {
	if found, err = q.findEnded(ctx, ids, known); err == nil {
		found.progress, err = db.FindProgress(ctx, q.pool, ids, known)
	}
	return found, err
}

// wake tells all callers who wait for one of the requests that its work has ended.
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

func (w *waits) watch(client string, id uuid.UUID, known int) (heard <-chan db.Progress, stop func(), err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, nil, batch.ErrStopped
	}
	if err := w.slots.Decide(client, 1, Follows, ClientFollows).Err(); err != nil {
		return nil, nil, err
	}
	if w.open[id] == nil {
		w.open[id] = &watched{known: known, by: map[chan db.Progress]string{}}
	}
	w.open[id].known = min(w.open[id].known, known) // others get it twice, so that this caller never misses it
	c := make(chan db.Progress, 1)
	w.open[id].by[c] = client
	if !w.polling {
		w.polling = true
		go w.poll()
	}
	return c, func() { w.leave(id, c) }, nil
}

func (w *waits) leave(id uuid.UUID, c chan db.Progress) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open[id] == nil {
		return // woken
	}
	client, waiting := w.open[id].by[c]
	if !waiting {
		return // woken, and somebody else waits since
	}
	w.slots.Release(client, 1)
	delete(w.open[id].by, c)
	if len(w.open[id].by) == 0 {
		delete(w.open, id)
	}
}

// wake tells all callers who wait for one of the requests.
func (w *waits) wake(ids []uuid.UUID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.open) == 0 {
		return
	}
	for _, id := range ids {
		if w.open[id] == nil {
			continue
		}
		for c, client := range w.open[id].by {
			close(c)
			w.slots.Release(client, 1)
		}
		delete(w.open, id)
	}
}

// tell passes progress on, which was read from the database or has just been stored by this
// process. A caller that has not taken the last progress gets this
// progress alone.
func (w *waits) tell(all []db.Progress) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, progress := range all {
		if w.open[progress.RequestID] == nil || progress.Number <= w.open[progress.RequestID].known {
			continue // nobody follows it, or they know later progress
		}
		w.open[progress.RequestID].known = progress.Number
		for c := range w.open[progress.RequestID].by {
			select {
			case <-c:
			default:
			}
			c <- progress // nobody else sends
		}
	}
}

// poll asks the database for all who wait, until nobody does. A database that is
// away tells nothing: then they wait as long as they wanted.
func (w *waits) poll() {
	tick := time.NewTicker(w.interval)
	defer tick.Stop()
	for range tick.C {
		ids, known := w.waiting()
		if len(ids) == 0 {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
		heard, _ := w.find(ctx, ids, known)
		cancel()
		w.tell(heard.progress)
		w.wake(heard.ended)
	}
}

// waiting are the requests that callers wait for, and the known progress of each. Without
// any, the next caller starts the polling again.
func (w *waits) waiting() (ids []uuid.UUID, known []int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.polling = len(w.open) > 0
	for id, watched := range w.open {
		ids, known = append(ids, id), append(known, watched.known)
	}
	return ids, known
}
