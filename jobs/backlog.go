package jobs

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"ringback/db"
)

// Reasons for which nothing is accepted at the moment.
var (
	ErrBacklog = errors.New("too many requests are unfinished")
	ErrAway    = errors.New("the database didn't answer lately")
)

const (
	// backlogInterval is how often the unfinished requests are counted, and the
	// longest that their count says too little, by what other processes accept.
	backlogInterval = time.Second
	// backlogTimeout is when a database that doesn't answer counts as away.
	backlogTimeout = time.Second
)

// backlog bounds the requests that are accepted and not finished. To count them
// at each call would cost more than to accept, so it takes a sample every
// second and adds what this process has accepted since. The sample tells, too,
// whether the database answers.
type backlog struct {
	limit    int64 // 0 for none
	count    func(ctx context.Context, most int64) (int64, error)
	sampled  atomic.Int64
	accepted atomic.Int64 // by this process, that the sample doesn't hold
	away     atomic.Bool
}

func (b *backlog) admit() error {
	switch {
	case b.away.Load():
		return ErrAway
	case b.limit > 0 && b.sampled.Load()+b.accepted.Load() >= b.limit:
		return ErrBacklog
	}
	return nil
}

// enter counts a request that is about to be accepted; leave takes it back
// where it was not.
func (b *backlog) enter() error {
	if err := b.admit(); err != nil {
		return err
	}
	b.accepted.Add(1)
	return nil
}

func (b *backlog) leave() { b.accepted.Add(-1) }

// watch takes samples until ctx ends.
func (b *backlog) watch(ctx context.Context) {
	tick := time.NewTicker(backlogInterval)
	defer tick.Stop()
	for {
		b.sample(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (b *backlog) sample(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, backlogTimeout)
	defer cancel()
	// What is accepted while the database counts is counted twice, until the next
	// sample: better than not at all.
	before := b.accepted.Load()
	count, err := b.count(limited, max(b.limit, 1))
	if ctx.Err() != nil {
		return
	}
	b.away.Store(err != nil && (db.IsUnavailable(err) || limited.Err() != nil))
	if err == nil {
		b.sampled.Store(count)
		b.accepted.Add(-before)
	}
}
