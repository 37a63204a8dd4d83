package webhook

import (
	"net/http"
	"sync"
	"time"
)

// renewal is how long a transport is handed out. A host whose name moves to another address is
// called there after a minute, although its former address still answers. Names that are made to
// move have a time to live of a minute or less, too.
const renewal = time.Minute

// Rotating hands out a transport, and each minute a new transport of the same pattern:
// net/http itself keeps a connection for as long as it is used. It is safe for concurrent
// use.
type Rotating struct {
	pattern *http.Transport

	mu      sync.Mutex
	current *http.Transport
	madeAt  time.Time // when current was made
}

// NewRotating returns a Rotating that clones pattern, and never uses pattern itself.
func NewRotating(pattern *http.Transport) *Rotating { return &Rotating{pattern: pattern} }

// Transport is the transport to use for one call. Calls under way on the previous transport
// go on, and their connections are closed after them.
func (r *Rotating) Transport() *http.Transport {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); r.current == nil || now.Sub(r.madeAt) >= renewal {
		if r.current != nil {
			r.current.CloseIdleConnections() // and, later, connections that are busy now
		}
		r.current, r.madeAt = r.pattern.Clone(), now
	}
	return r.current
}

// Rotate lets the next call use a new transport, as if a minute were over: for tests.
func (r *Rotating) Rotate() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.madeAt = r.madeAt.Add(-renewal)
}

// Close closes the connections that are idle.
func (r *Rotating) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current != nil {
		r.current.CloseIdleConnections()
	}
}
