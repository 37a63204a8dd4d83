package batch

import (
	"maps"
	"sync"
	"time"
)

// line is the items that wait for a flusher. Parties take turns in it, so that the next item
// of a party waits for one item of each other party, however many they have waiting.
type line[T, R any] struct {
	mu    sync.Mutex
	of    map[string]*party[T, R]
	turns []*party[T, R] // that have items waiting, whose turn is next first
	items int
	bytes int
	batch int // its number
}

// party is whose items wait: a client, say.
type party[T, R any] struct {
	waiting []*call[T, R] // oldest first
	bytes   int
	batch   int           // number of the batch that took its latest item
	waited  time.Duration // how long its first item in that batch had waited
}

// add puts an item at the end of its party's, unless refuse says why not.
func (l *line[T, R]) add(name string, c *call[T, R], refuse func(held party[T, R]) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.of[name]
	if p == nil {
		p = &party[T, R]{}
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
// once: how long items waited before says nothing of it.
func (l *line[T, R]) begin(free bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.batch++
	if free {
		maps.DeleteFunc(l.of, func(_ string, p *party[T, R]) bool { return len(p.waiting) == 0 })
	}
}

// next takes the oldest item of the party whose turn it is. There must be one.
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

// look tells what refuse says of another item of a party.
func (l *line[T, R]) look(name string, refuse func(held party[T, R]) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.of[name]; p != nil {
		return refuse(*p)
	}
	return refuse(party[T, R]{})
}
