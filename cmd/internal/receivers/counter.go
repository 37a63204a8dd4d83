package receivers

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"
)

// Counter counts the called-back requests at little cost, because it shares the machine
// with the measured service.
type Counter struct {
	*Receiver
	Delivered atomic.Int64 // distinct requests
	Repeated  atomic.Int64 // callbacks beyond the first of a request
	onNew     func()       // nil for nothing
	seen      [64]shard
}

// StartCounter starts a receiver that counts. onNew is called at a request's first
// callback, nil for nothing.
func StartCounter(behaviour Behaviour, onNew func()) (*Counter, error) {
	c := &Counter{onNew: onNew}
	var err error
	c.Receiver, err = Start(behaviour, Book{Came: c.came, Answer: c.answer})
	return c, err
}

type shard struct {
	mu  sync.Mutex
	ids map[uuid.UUID]struct{}
}

func (c *Counter) came(*Callback) (earlier int, known bool) { return 0, true }

// answer refuses a call that has no id of a request.
func (c *Counter) answer(came *Callback, status int) int {
	if status != fasthttp.StatusOK {
		return status
	}
	id, err := uuid.Parse(came.RequestID())
	if err != nil {
		return fasthttp.StatusBadRequest
	}
	c.note(id)
	return status
}

func (c *Counter) note(id uuid.UUID) {
	if !c.isNew(id) {
		c.Repeated.Add(1)
		return
	}
	c.Delivered.Add(1)
	if c.onNew != nil {
		c.onNew()
	}
}

func (c *Counter) isNew(id uuid.UUID) bool {
	s := &c.seen[id[15]%64] // the random end of a UUIDv7
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ids == nil {
		s.ids = map[uuid.UUID]struct{}{}
	}
	if _, known := s.ids[id]; known {
		return false
	}
	s.ids[id] = struct{}{}
	return true
}

// Await returns when the number of requests was called back, or fails with the number
// that was not called back in time.
func (c *Counter) Await(ctx context.Context, requests int64, patience time.Duration) error {
	deadline := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for c.Delivered.Load() < requests {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			return fmt.Errorf("%d of %d accepted requests were not called back within %v", requests-c.Delivered.Load(), requests, patience)
		}
	}
	return nil
}
