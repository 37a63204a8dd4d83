package webhook

import (
	"crypto/tls"
	"net/http/httptrace"
	"sync"
	"time"
)

// phases follows one request through the transport. net/http calls the hooks
// from several goroutines, some of them after the request has ended: it
// finishes a dial even when the request took another connection meanwhile.
type phases struct {
	mu    sync.Mutex
	ready bool // the request has its connection: a dial that still runs isn't its own
	seen  sighting
	conn  *headConn // nil before the request has a connection

	dnsStart, connectStart, tlsStart, connected time.Time
}

// sighting holds the phases of a request so far.
type sighting struct {
	doing                        string // the request's present wait
	address, conn                string
	reused                       bool // a kept connection was used
	answered                     bool // a byte of the answer came
	status                       int  // by the status line, 0 before it came
	tlsFailed                    bool
	dns, connect, tls, firstByte time.Duration
}

// report returns the phases so far.
func (p *phases) report() sighting {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		p.seen.status = p.conn.status()
	}
	return p.seen
}

// trace returns the hooks. Got1xxResponse stays unset: setting it lifts the
// limit on the number of interim answers.
func (p *phases) trace() *httptrace.ClientTrace {
	p.seen.doing = "connecting"
	return &httptrace.ClientTrace{
		GotConn: p.gotConn,
		GotFirstResponseByte: func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.seen.answered, p.seen.firstByte = true, time.Since(p.connected)
			p.seen.doing = "reading the answer"
		},
		DNSStart: func(httptrace.DNSStartInfo) {
			p.dialing(func() { p.seen.doing, p.dnsStart = "resolving the name", time.Now() })
		},
		DNSDone: func(httptrace.DNSDoneInfo) {
			p.dialing(func() { p.seen.dns = time.Since(p.dnsStart) })
		},
		ConnectStart: func(_, address string) { p.dialing(func() { p.connecting(address) }) },
		ConnectDone: func(string, string, error) {
			p.dialing(func() { p.seen.connect = time.Since(p.connectStart) })
		},
		TLSHandshakeStart: func() {
			p.dialing(func() { p.seen.doing, p.tlsStart = "shaking hands", time.Now() })
		},
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			p.dialing(func() { p.seen.tls, p.seen.tlsFailed = time.Since(p.tlsStart), err != nil })
		},
	}
}

func (p *phases) gotConn(info httptrace.GotConnInfo) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ready, p.connected = true, time.Now()
	if info.Reused { // a dial of our own may have begun before it came free
		p.seen = sighting{reused: true}
	}
	p.seen.doing = "waiting for the answer"
	if conn, ok := info.Conn.(*headConn); ok {
		conn.begin()
		p.conn = conn
	}
	p.seen.address, p.seen.conn = info.Conn.RemoteAddr().String(), info.Conn.LocalAddr().String()
}

// dialing notes a step of a dial, unless the request no longer waits for it.
func (p *phases) dialing(note func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ready {
		note()
	}
}

// connecting may be called for several addresses of a name; the phase lasts
// from the first of them.
func (p *phases) connecting(address string) {
	p.seen.doing, p.seen.address = "connecting", address
	if p.connectStart.IsZero() {
		p.connectStart = time.Now()
	}
}
