package batch

import (
	"maps"
	"sync"
	"time"
)

// line is the items that wait for a flusher. Clients take turns, so the next
// item of a client waits for at most one item of each other client.
type line[T, R any] struct {
	mu    sync.Mutex
	of    map[string]*client[T, R]
	turns []*client[T, R] // clients with waiting items, in the order of their turns
	items int
	bytes int
	batch int // number of the latest batch
}

// client is the waiting items of a client.
type client[T, R any] struct {
	waiting []*call[T, R] // oldest first
	bytes   int
	batch   int           // number of the batch that took its latest item
	waited  time.Duration // for how long the client's first item in that batch had waited
}

// add puts an item behind its client's waiting items, unless refuse returns an error.
func (l *line[T, R]) add(name string, c *call[T, R], refuse func(held client[T, R]) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.of[name]
	if p == nil {
		p = &client[T, R]{}
	}
	if err := refuse(*p); err != nil {
		return err
	}
	if len(p.waiting) == 0 {
		l.of[name] = p
		l.turns = append(l.turns, p)
	}
	p.waiting = append(p.waiting, c)
	p.bytes += c.size
	l.items++
	l.bytes += c.size
	return nil
}

// begin comes before the items of a batch are taken. A free flusher takes the next item at
// once, so earlier waits say nothing of the next wait.
func (l *line[T, R]) begin(free bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.batch++
	if free {
		maps.DeleteFunc(l.of, func(_ string, p *client[T, R]) bool { return len(p.waiting) == 0 })
	}
}

// next takes the oldest item of the client whose turn it is. An item must be waiting.
func (l *line[T, R]) next() *call[T, R] {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.turns[0]
	l.turns = l.turns[1:]
	c := p.waiting[0]
	p.waiting = p.waiting[1:]
	p.bytes -= c.size
	if p.batch != l.batch {
		p.batch, p.waited = l.batch, time.Since(c.since)
	}
	l.items--
	l.bytes -= c.size
	if len(p.waiting) > 0 {
		l.turns = append(l.turns, p)
	}
	return c
}

// look returns the error of refuse for another item of a client.
func (l *line[T, R]) look(name string, refuse func(held client[T, R]) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.of[name]; p != nil {
		return refuse(*p)
	}
	return refuse(client[T, R]{})
}
