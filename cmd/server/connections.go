package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"ringback/api"
	"ringback/jobs/limit"
)

const (
	// The reserve is the connections beyond the bound. They reach GET /healthz, and get 503
	// for any other call. They are a quarter of the bound, within these limits: a bound by
	// the open files leaves half of the files to the rest.
	leastReserve, mostReserve = 8, 256
	// settled is how long a connection is idle before it may be closed for a new connection:
	// its first or next call may be on its way.
	settled = 250 * time.Millisecond
	// socketBuffer is how much of calls and answers the kernel holds for each
	// connection, either way. It would give megabytes to callers that don't read.
	socketBuffer = 64 << 10
)

// connections bounds the connections at a time. A new connection beyond the bound closes
// the longest idle connection of the address that has the most. Addresses share
// connections as clients share slots. A connection with a call on it is never closed.
type connections struct {
	most    int
	reserve int
	settled time.Duration
	exempt  []netip.Prefix // whose connections may take the whole bound

	noRoom  []byte // the answer to callers in the reserve
	refused limit.Count
	closed  prometheus.Counter // for another connection

	mu        sync.Mutex
	count     int // those in the reserve, too
	spare     int // those in the reserve
	addresses addresses

	silent atomic.Int64 // connections on which no call has come yet
}

// loopback is where a proxy on the same machine calls from.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

func newConnections(most int, exempt []netip.Prefix, registerer prometheus.Registerer) *connections {
	s := &connections{
		most: most, reserve: min(max(most/4, leastReserve), mostReserve), settled: settled, exempt: exempt, addresses: newAddresses(),
		noRoom:  api.RefusalBody(api.Connections),
		refused: api.CountRefusals(registerer, api.Connections),
		closed: promauto.With(registerer).NewCounter(prometheus.CounterOpts{
			Name: "ringback_connections_closed_total", Help: "Idle connections of callers that were closed for another one.",
		}),
	}
	s.watch(registerer)
	return s
}

// watch tells how many connections there are.
func (s *connections) watch(registerer prometheus.Registerer) {
	for state, count := range map[string]func() int{
		"open": func() int { open, _ := s.counts(); return open },
		"idle": func() int { _, idle := s.counts(); return idle },
		"max":  func() int { return s.most },
	} {
		promauto.With(registerer).NewGaugeFunc(prometheus.GaugeOpts{
			Name: "ringback_connections", Help: "Connections of callers, by state; max is how many there may be.",
			ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 { return float64(count()) })
	}
}

// on returns a listener whose connections are bounded. The server that uses it
// needs changed as its ConnState, and noteConn as its ConnContext.
func (s *connections) on(listener net.Listener) net.Listener { return boundListener{listener, s} }

type boundListener struct {
	net.Listener
	connections *connections
}

// Accept returns the next connection within the bound or the reserve.
func (l boundListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if admitted := l.connections.admit(conn, time.Now()); admitted != nil {
			return admitted, nil
		}
		_ = conn.Close()
	}
}

// admit returns nil where even the reserve is taken.
func (s *connections) admit(conn net.Conn, now time.Time) *boundConn {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(socketBuffer)
		_ = tcp.SetWriteBuffer(socketBuffer)
	}
	s.mu.Lock()
	of := s.addresses.of(conn.RemoteAddr(), s.exempt)
	victims, room := s.makeRoom(of, now)
	c := s.enter(conn, of, !room, now)
	s.mu.Unlock()
	for _, victim := range victims {
		_ = victim.Close()
	}
	return c
}

func (s *connections) enter(conn net.Conn, of *address, spare bool, now time.Time) *boundConn {
	if spare && s.spare >= s.reserve {
		s.refused.Add(api.Connections, 1)
		return nil
	}
	c := &boundConn{Conn: conn, all: s, address: of, spare: spare}
	c.called = sync.OnceFunc(func() { s.silent.Add(-1) })
	s.silent.Add(1)
	s.count++
	if spare {
		s.spare++
	}
	s.addresses.enter(c, now)
	return c
}

// free is how many more there may be within the bound. Connections in the reserve take
// none of them: their address may have more than its share.
func (s *connections) free() int { return s.most - (s.count - s.spare) }

// makeRoom tells whether there is room for a new connection of an address, once the
// victims are closed. An address that has its share gives up one of its own; beyond
// the bound the greatest address gives one up, unless it holds fewer than the new
// connection's address.
func (s *connections) makeRoom(of *address, now time.Time) (victims []*boundConn, room bool) {
	if hasRoom(of, of.held, s.free()) {
		return nil, true
	}
	for {
		from := of
		if greatest := s.addresses.greatest(); s.free() <= 0 && greatest != nil && greatest.held >= of.held {
			from = greatest
		}
		victim := from.longestIdle()
		if victim == nil || now.Sub(victim.since) < s.settled {
			return victims, false
		}
		s.leave(victim)
		victim.cut = true
		s.closed.Inc()
		victims = append(victims, victim)
		if !victim.spare {
			return victims, true
		}
	}
}

// hasRoom tells whether an address that holds so many connections may take one of the
// free ones.
func hasRoom(of *address, held, free int) bool {
	return limit.Fair(held, free) || of.exempt && free > 0
}

// leave takes a connection out, once.
func (s *connections) leave(c *boundConn) {
	if c.address == nil {
		return
	}
	s.addresses.leave(c)
	s.count--
	if c.spare {
		s.spare--
	}
	c.address = nil
}

// changed is an http.Server's ConnState: a connection is idle from the end of one call to
// the head of the next. A connection whose call is slow to come is idle, too.
func (s *connections) changed(conn net.Conn, state http.ConnState) {
	c := conn.(*boundConn)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case c.address == nil: // it is being closed
	case state == http.StateActive:
		s.addresses.busy(c)
	case state == http.StateIdle:
		s.addresses.idle(c, time.Now())
	}
}

// counts returns how many connections there are, and how many of them are idle.
func (s *connections) counts() (open, idle int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count, s.addresses.idling
}

// awaitCalls waits until a call has come on every connection that was accepted,
// and is being answered. Until then a server that shuts down would close it without
// an answer, and its caller not know why.
func (s *connections) awaitCalls(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for s.silent.Load() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return // some open connections ahead
		}
	}
}

// boundConn is a bounded connection. The lock of connections guards its variable fields.
type boundConn struct {
	net.Conn
	all    *connections
	called func() // is to be told of each call

	spare bool // it is in the reserve
	cut   bool // it was closed for another connection

	address *address // nil when it has left
	idleConn

	answering atomic.Bool // a call: reads are its body
	head      headScan
}

// Read notes the route in the head of a call.
func (c *boundConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && !c.answering.Load() {
		c.head.scan(p[:n])
	}
	return n, err
}

// headScan looks for a Content-Length, which net/http takes out of the header where
// there is a Transfer-Encoding, too.
type headScan struct {
	last   []byte // of the bytes read before, for names that were read in two parts
	length atomic.Bool
}

const lengthName = "content-length:"

func (s *headScan) scan(read []byte) {
	if s.length.Load() {
		return
	}
	text := append(s.last, read[:min(len(read), len(lengthName))]...)
	s.length.Store(namesLength(text) || namesLength(read))
	s.last = append(s.last[:0], text[max(0, len(text)-len(lengthName)):]...)
	if len(read) > len(lengthName) {
		s.last = append(s.last[:0], read[len(read)-len(lengthName):]...)
	}
}

func namesLength(text []byte) bool {
	for end := 0; ; {
		colon := bytes.IndexByte(text[end:], ':')
		if colon < 0 {
			return false
		}
		end += colon + 1
		if end >= len(lengthName) && bytes.EqualFold(text[end-len(lengthName):end], []byte(lengthName)) {
			return true
		}
	}
}

// answer serves a call. A call that tells its length twice may be a part of another,
// smuggled past a proxy, so nothing more is read after it (RFC 9112, section 6.1).
func (c *boundConn) answer(next http.Handler, w http.ResponseWriter, r *http.Request) {
	if len(r.TransferEncoding) > 0 && c.head.length.Load() {
		w.Header().Set("Connection", "close")
	}
	c.head.length.Store(false)
	c.answering.Store(true)
	defer c.answering.Store(false)
	next.ServeHTTP(w, r)
}

func (c *boundConn) Close() error {
	c.called()
	c.all.mu.Lock()
	c.all.leave(c)
	c.all.mu.Unlock()
	return c.Conn.Close()
}

// begin tells whether a call may be answered. A connection may have been closed just as
// its call came, which then isn't done. A connection of the reserve leaves it if there is
// room by now, and otherwise serves health alone.
func (c *boundConn) begin(health bool) (cut, refused bool) {
	c.called()
	s := c.all
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.cut {
		return true, false
	}
	if c.spare && c.address != nil && hasRoom(c.address, c.address.held-1, s.free()) {
		c.spare = false
		s.spare--
	}
	if refused = c.spare && !health; refused {
		s.refused.Add(api.Connections, 1)
	}
	return false, refused
}

// connKey is where a call's context has its connection.
type connKey struct{}

// noteConn is an http.Server's ConnContext.
func noteConn(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// isProbe tells the paths that say how the process is.
func isProbe(path string) bool { return path == "/healthz" || path == "/readyz" || path == "/livez" }

// bounded answers the calls of connections within the bound, and calls to health of all.
func bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := r.Context().Value(connKey{}).(*boundConn)
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		switch cut, refused := c.begin(isProbe(r.URL.Path)); {
		case cut:
			panic(http.ErrAbortHandler) // ends the connection and nothing else
		case refused:
			c.all.sayNoRoom(w)
		default:
			c.answer(next, w, r)
		}
	})
}

func (s *connections) sayNoRoom(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Retry-After", "2")
	w.Header().Set("Connection", "close")
	w.WriteHeader(http.StatusServiceUnavailable)
	_, _ = w.Write(s.noRoom)
}
