// Package batch is group commit: it joins items of many goroutines into batches, each at
// little more than the price of an item. The caller defines the flush and the meaning of
// its errors; the package knows neither SQL nor Postgres.
//
//	Do(item) ──► queue ──► flusher: an item, and all items behind it ───────► Flush(items)
//	   ▲           │ full, too large, too late                                 │
//	   │           └──► ErrFull, ErrLarge, ErrLate, at once                    │
//	   └──────────────────────── the item's own result, or the flush's error ◄─┘
package batch

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// Limits of a batch. At 256 rows a statement's fixed cost has nearly vanished; Postgres
// writes about 1 MiB to its log between two flushes of the log.
const (
	maxItems = 256
	maxBytes = 1 << 20
)

// flushTimeout bounds a flush. No caller's timeout does, since the batch commits as a
// whole, also for callers that gave up.
const flushTimeout = 5 * time.Second

// Reasons for which a batcher takes no item. Nothing was done with the item.
var (
	ErrFull    = errors.New("too many items wait for the database")
	ErrLarge   = errors.New("the items that wait for the database are too large together")
	ErrLate    = errors.New("items wait too long for the database")
	ErrStopped = errors.New("the batcher has stopped")
)

// Batcher queues items for its flushers. A flusher takes an item, adds all items that
// wait behind it, and flushes them together.
//
// No flusher waits for further items, unless Rest asks for it. A free flusher takes an item at
// once, so that without load a batch is a single item and starts at once. Under load, items queue
// while the flushers are busy, and the batches grow by themselves. A delay from the first item on
// costs more than it saves: callers that wait send nothing, and the database idles. With 64
// callers in a closed loop, row and job, durable, 25,000 items a second passed without a delay,
// 8,000 with a delay of 2 ms.
type Batcher[T, R any] struct {
	config Config[T, R]
	line   line[T, R]
	comes  chan struct{} // gets a value for each item in the line

	stopping sync.RWMutex // held for writing by Stop, so that it closes comes when nobody sends
	stopped  bool
	flushers sync.WaitGroup
}

// Config is the configuration of a Batcher.
type Config[T, R any] struct {
	// Flush handles all items, as one transaction, and returns a result for each. Several
	// flushers call it concurrently.
	Flush func(ctx context.Context, items []T) ([]R, error)
	Size  func(item T) int // bytes that an item takes; nil where they don't matter
	Queue int              // items that may wait for a flusher
	// QueueBytes is how many bytes the waiting items may take, 0 for no limit.
	QueueBytes int
	// Client names the client of an item: clients take turns. Nil where all items are of one
	// client.
	Client func(item T) string
	// Fair tells whether a client that has so many items or bytes waiting may have more, with
	// so much of Queue or QueueBytes free. Nil where a client may have all.
	Fair func(held, free int) bool
	// Patience is how long items should wait for a flusher, 0 for no limit. When a client's first
	// item in its latest batch had waited longer, no more of its items are taken until none waits.
	// So the wait stays the same on slow machines as on fast ones.
	Patience time.Duration
	// Rest is the least time from the start of one flush to the next: batches grow at the
	// price of latency, which is nothing where a flush takes as long. After a batch of several
	// items it is twice as long: where items come close together, each waits little for the
	// next. Urgent items, if any, are flushed at once, with all items that wait.
	Rest   time.Duration
	Urgent func(item T) bool
	// Flushers is how many flush at a time, 0 for one. A second flusher commits while the first
	// waits for the disk, but halves the batches. At half load, with Postgres on the same two
	// cores, one flusher delivered in 68 ms at the median, two in 120 ms.
	Flushers int
	// Met, unless nil, takes the result of each flush.
	Met func(err error)
	// Blames tells whether a single item may have caused a flush's error. Its batch is
	// then split until that item stands alone, and all other items succeed. Nil for never:
	// all items of the batch get the error.
	Blames func(err error) bool
}

// call is an item whose caller waits for the answer.
type call[T, R any] struct {
	item   T
	size   int
	since  time.Time
	answer chan answer[R]
}

type answer[R any] struct {
	result R
	err    error
}

// New starts the flushers, which run until Stop.
func New[T, R any](config Config[T, R]) *Batcher[T, R] {
	if config.Size == nil {
		config.Size = func(T) int { return 0 }
	}
	if config.Client == nil {
		config.Client = func(T) string { return "" }
	}
	if config.Fair == nil {
		config.Fair = func(int, int) bool { return true }
	}
	if config.Urgent == nil {
		config.Urgent = func(T) bool { return false }
	}
	if config.Met == nil {
		config.Met = func(error) {}
	}
	if config.Blames == nil {
		config.Blames = func(error) bool { return false }
	}
	if config.Flushers == 0 {
		config.Flushers = 1
	}
	b := &Batcher[T, R]{config: config, comes: make(chan struct{}, config.Queue)}
	b.line.of = map[string]*client[T, R]{}
	for range config.Flushers {
		b.flushers.Go(b.run)
	}
	return b
}

// Do waits for a flush that includes item and returns its result. It fails at
// once with ErrFull, ErrLarge, ErrLate or ErrStopped. When ctx ends first, its
// error is returned, and the item is flushed all the same.
func (b *Batcher[T, R]) Do(ctx context.Context, item T) (result R, err error) {
	c := &call[T, R]{item, b.config.Size(item), time.Now(), make(chan answer[R], 1)}
	if err := b.send(c); err != nil {
		return result, err
	}
	select {
	case a := <-c.answer:
		return a.result, a.err
	case <-ctx.Done():
		return result, ctx.Err()
	}
}

func (b *Batcher[T, R]) send(c *call[T, R]) error {
	b.stopping.RLock()
	defer b.stopping.RUnlock()
	if b.stopped {
		return ErrStopped
	}
	if err := b.line.add(b.config.Client(c.item), c, func(held client[T, R]) error { return b.refuse(held, c.size) }); err != nil {
		return err
	}
	b.comes <- struct{}{} // has room for each item that the line takes
	return nil
}

// refuse tells why a client may have no more items waiting.
func (b *Batcher[T, R]) refuse(held client[T, R], size int) error {
	free, bytes := b.config.Queue-b.line.items, b.config.QueueBytes-b.line.bytes-size
	switch {
	case b.config.Patience > 0 && held.waited > b.config.Patience && len(held.waiting) > 0:
		return ErrLate
	case b.config.QueueBytes > 0 && (bytes < 0 || !b.config.Fair(held.bytes, bytes+1)):
		return ErrLarge
	case free <= 0 || !b.config.Fair(len(held.waiting), free):
		return ErrFull
	}
	return nil
}

// Admit returns the error with which Do would refuse an item of a client now, or nil.
// It is for callers that ask before they prepare an item.
func (b *Batcher[T, R]) Admit(name string) error {
	return b.line.look(name, b.refuseAny)
}

func (b *Batcher[T, R]) refuseAny(held client[T, R]) error { return b.refuse(held, 1) }

// Stop takes no more items and returns when those it has are flushed.
func (b *Batcher[T, R]) Stop() {
	b.stopping.Lock()
	if !b.stopped {
		b.stopped = true
		close(b.comes)
	}
	b.stopping.Unlock()
	b.flushers.Wait()
}

// run is a flusher.
func (b *Batcher[T, R]) run() {
	var left *call[T, R] // was taken, but didn't fit
	var rested time.Time // the next flush isn't before
	for {
		b.line.begin(left == nil && len(b.comes) == 0)
		first := left
		if first == nil {
			if _, ok := <-b.comes; !ok {
				return
			}
			first = b.line.next()
		}
		runtime.Gosched() // who is ready to send goes first, which costs nothing when nobody is
		var batch []*call[T, R]
		batch, left = b.collect(first, rested)
		rested = time.Now().Add(b.config.Rest * time.Duration(min(len(batch), 2)))
		ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
		b.flush(ctx, batch)
		cancel()
	}
}

// collect adds to first the items that wait already, and until rested the items that
// come, unless an urgent item is among them. It returns an item that doesn't fit
// separately.
func (b *Batcher[T, R]) collect(first *call[T, R], rested time.Time) (batch []*call[T, R], left *call[T, R]) {
	batch = append(make([]*call[T, R], 0, min(len(b.comes)+1, maxItems)), first)
	size, urgent := first.size, b.config.Urgent(first.item)
	for len(batch) < maxItems {
		next := b.next(urgent, rested)
		switch {
		case next == nil:
			return batch, nil
		case size+next.size > maxBytes:
			return batch, next
		}
		batch, size, urgent = append(batch, next), size+next.size, urgent || b.config.Urgent(next.item)
	}
	return batch, nil
}

// next returns a call that waits, or, where nothing is urgent, comes until rested;
// nil where there is none.
func (b *Batcher[T, R]) next(urgent bool, rested time.Time) *call[T, R] {
	select {
	case _, ok := <-b.comes:
		return b.taken(ok)
	default:
	}
	rest := time.Until(rested)
	if urgent || rest <= 0 {
		return nil
	}
	timer := time.NewTimer(rest)
	defer timer.Stop()
	select {
	case _, ok := <-b.comes:
		return b.taken(ok)
	case <-timer.C:
		return nil
	}
}

// taken is the next call of the line, nil where the batcher stops and has none left.
func (b *Batcher[T, R]) taken(ok bool) *call[T, R] {
	if !ok {
		return nil
	}
	return b.line.next()
}

// flush answers every call of a batch. An item that is to blame must not fail its
// neighbours, so the batch is split until it stands alone.
func (b *Batcher[T, R]) flush(ctx context.Context, batch []*call[T, R]) {
	results, err := b.try(ctx, batch)
	b.config.Met(err)
	if len(batch) > 1 && err != nil && b.config.Blames(err) {
		half := len(batch) / 2
		b.flush(ctx, batch[:half])
		b.flush(ctx, batch[half:])
		return
	}
	for i, c := range batch {
		if err != nil {
			c.answer <- answer[R]{err: err}
			continue
		}
		c.answer <- answer[R]{result: results[i]}
	}
}

// try calls Flush and returns a panic of it as an error: it runs on a goroutine
// of its own, where a panic would end the process.
func (b *Batcher[T, R]) try(ctx context.Context, batch []*call[T, R]) (results []R, err error) {
	defer func() {
		if value := recover(); value != nil {
			err = fmt.Errorf("panic in a flush: %v\n%s", value, debug.Stack())
		}
	}()
	items := make([]T, len(batch))
	for i, c := range batch {
		items[i] = c.item
	}
	results, err = b.config.Flush(ctx, items)
	if err == nil && len(results) != len(items) {
		err = fmt.Errorf("flushing %d items: got %d results", len(items), len(results))
	}
	return results, err
}
