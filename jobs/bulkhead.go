package jobs

import (
	"context"
	"sync"
	"time"
)

// bulkhead keeps one origin from holding more than its share of the callback
// workers: receivers that hang would otherwise take all of them, for 10 s each.
type bulkhead struct {
	share int // callbacks to one origin at a time

	mu      sync.Mutex
	origins map[string]*origin // those with callbacks under way or put off
}

type origin struct {
	slots    chan struct{} // as many as share
	users    int           // that hold the origin, with a slot or waiting for one
	took     time.Duration // moving average of an attempt, 0 before the first
	reserved time.Time     // the last slot that was promised to a callback put off
}

func newBulkhead(workers int) *bulkhead {
	return &bulkhead{share: max(1, workers/4), origins: map[string]*origin{}}
}

const (
	// slotPatience is how long a worker waits for a slot of an origin that is quick
	// or unknown: putting the job off would take longer.
	slotPatience = 50 * time.Millisecond
	// assumedAttempt spaces the callbacks to an origin that has not answered yet.
	assumedAttempt = time.Second
	maxPutOff      = time.Minute
)

// enter returns a slot of an origin, which leave gives back, or how long to
// put the callback off.
func (b *bulkhead) enter(ctx context.Context, name string) (leave func(took time.Duration), putOff time.Duration) {
	o := b.join(name)
	if o.acquire(ctx, o.waits(b)) {
		return func(took time.Duration) { b.leave(name, o, took) }, 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	putOff = o.reserve(time.Now(), b.share)
	b.part(name, o)
	return nil, putOff
}

func (b *bulkhead) join(name string) *origin {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := b.origins[name]
	if o == nil {
		o = &origin{slots: make(chan struct{}, b.share)}
		b.origins[name] = o
	}
	o.users++
	return o
}

func (o *origin) waits(b *bulkhead) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if o.took > slotPatience {
		return 0
	}
	return slotPatience
}

func (o *origin) acquire(ctx context.Context, wait time.Duration) bool {
	select {
	case o.slots <- struct{}{}:
		return true
	default:
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case o.slots <- struct{}{}:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// reserve promises the next slot that nobody has been promised, so that a
// callback comes back when there is one, and not to ask again and again.
func (o *origin) reserve(now time.Time, share int) time.Duration {
	took := o.took
	if took == 0 {
		took = assumedAttempt
	}
	if o.reserved.Before(now) {
		o.reserved = now
	}
	o.reserved = o.reserved.Add(took / time.Duration(share))
	return min(max(o.reserved.Sub(now), slotPatience), maxPutOff)
}

func (b *bulkhead) leave(name string, o *origin, took time.Duration) {
	<-o.slots
	b.mu.Lock()
	defer b.mu.Unlock()
	if o.took == 0 {
		o.took = took
	}
	o.took += (took - o.took) / 8
	b.part(name, o)
}

// part forgets an origin that nobody uses and nobody was promised a slot of.
func (b *bulkhead) part(name string, o *origin) {
	o.users--
	if o.users == 0 && o.reserved.Before(time.Now()) {
		delete(b.origins, name)
	}
}
