package jobs

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"ringback/jobs/limit"
)

// Backlog is the reason for which nothing is accepted, of a client or of all, while too much is
// unfinished.
const Backlog limit.Reason = "unfinished"

// ErrAway is why nothing is accepted while the database is away.
var ErrAway = errors.New("the database didn't answer lately, or could not be written")

const (
	// backlogInterval is how often the unfinished requests are counted, and for how long the
	// count may lack requests that other processes accept.
	backlogInterval = time.Second
	// backlogShare is how many times longer than a count the pause after it is at
	// least: a hundred thousand jobs take Postgres some tenths of a second.
	backlogShare = 20
	// awayAfter is when a database that doesn't answer, or can't be written, counts as away. Calls that
	// are under way give up a little earlier.
	awayAfter = 2 * time.Second
	// sampleTimeout ends a count whose database went away meanwhile.
	sampleTimeout = 5 * time.Second
	// backlogHorizon is the time after which a due step is no load yet: longer than any wait
	// of a callback for its turn. Fourth and later retries to a receiver that is down are
	// due beyond it, and redeliveries may be. Such steps count for their client alone, or
	// one client could have all others refused.
	backlogHorizon = time.Minute
)

// backlog bounds the unfinished requests whose next step is due soon. Clients share them as
// they share slots, by limit.Fair, so that the next client finds room, however many requests
// of others are unfinished. Counting them at
// each call would cost more than accepting, so the backlog takes a sample about every
// second and adds the requests that this process has accepted since. The sample also
// tells whether the database answers.
type backlog struct {
	limit int64 // 0 for none
	ping  func(ctx context.Context) error
	count func(ctx context.Context, most int64) (int64, error)
	away  atomic.Bool

	mu         sync.Mutex
	unfinished limit.Sample[ofAll]
}

// ofAll is the key of a sample with a single key.
type ofAll struct{}

// admit tells whether there is room for a request of a client that has so many unfinished.
func (b *backlog) admit(held int64) error { return b.take(0, held) }

// enter counts a request that is about to be written, of a client that has so many unfinished.
// entered follows, and tells whether it was.
func (b *backlog) enter(held int64) error { return b.take(1, held) }

func (b *backlog) entered(written bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unfinished.Wrote(ofAll{}, 1, written)
}

func (b *backlog) take(n, held int64) error {
	if b.away.Load() {
		return ErrAway
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	count := b.unfinished.Of(ofAll{})
	// Most of what the client has unfinished may be due later, which isn't counted here.
	if b.limit > 0 && !limit.Fair(int(min(held, count)), int(b.limit-count)) {
		return limit.Decision{Reason: Backlog}.Err()
	}
	b.unfinished.Write(ofAll{}, n)
	return nil
}

// add is enter for a request that was admitted.
func (b *backlog) add() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unfinished.Write(ofAll{}, 1)
}

// now is how many requests are unfinished. Requests that end between two samples leave
// less than none for a moment.
func (b *backlog) now() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(0, b.unfinished.Of(ofAll{}))
}

// watch asks every second whether the database answers, and takes samples,
// until ctx ends.
func (b *backlog) watch(ctx context.Context) {
	var next time.Time // sample
	for ctx.Err() == nil {
		b.check(ctx)
		if start := time.Now(); !b.away.Load() && !start.Before(next) {
			b.sample(ctx)
			next = time.Now().Add(backlogShare * time.Since(start))
		}
		sleep(ctx, backlogInterval)
	}
}

func (b *backlog) check(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, awayAfter)
	defer cancel()
	err := b.ping(limited)
	b.away.Store(err != nil && ctx.Err() == nil)
}

// sample counts the unfinished requests. After a failure the last count stands.
func (b *backlog) sample(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sampleTimeout)
	defer cancel()
	b.mu.Lock()
	b.unfinished.Begin()
	b.mu.Unlock()
	count, err := b.count(ctx, max(b.limit, 1))
	if err != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unfinished.End(map[ofAll]int64{{}: count})
}
