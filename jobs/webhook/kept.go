package webhook

import (
	"net/http"
	"sync"
	"time"
)

// keptFor is how long connections are kept that are in use all the time. A host whose name
// moves to another address is called there after a minute, although its former address
// still answers; names that are made to move have a time to live of a minute or less, too.
const keptFor = time.Minute

// Kept hands out a transport, and another like it once keptFor is over: net/http itself
// keeps a connection for as long as it is used. It is safe for concurrent use.
type Kept struct {
	like *http.Transport

	mu    sync.Mutex
	now   *http.Transport
	since time.Time // when now was made
}

// NewKept returns transports that are made like the given transport, which is never used
// itself.
func NewKept(like *http.Transport) *Kept { return &Kept{like: like} }

// Transport is the transport to use for one call. Calls under way on the transport before it
// go on, and their connections are closed after them.
func (k *Kept) Transport() *http.Transport {
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := time.Now(); k.now == nil || now.Sub(k.since) >= keptFor {
		if k.now != nil {
			k.now.CloseIdleConnections() // and, later, connections that are busy now
		}
		k.now, k.since = k.like.Clone(), now
	}
	return k.now
}

// Outlive makes the transport as old as a transport becomes: for tests.
func (k *Kept) Outlive() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.since = k.since.Add(-keptFor)
}

// Close closes the connections that are idle.
func (k *Kept) Close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.now != nil {
		k.now.CloseIdleConnections()
	}
}
