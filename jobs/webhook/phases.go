package webhook

import (
	"crypto/tls"
	"net/http/httptrace"
	"sync"
	"time"
)

// phases follows one request through the transport. Its hooks are called from several goroutines,
// also after the request has ended: net/http finishes a dial even when the request took another
// connection meanwhile.
type phases struct {
	mu      sync.Mutex
	hasConn bool // a dial that still runs is none of this request
	seen    sighting
	head    *headConn // nil before the request has a connection

	dnsStart, connectStart, tlsStart, gotConnAt time.Time
}

// sighting holds the phases of a request so far.
type sighting struct {
	doing                        string // what the request waits for
	address, localAddress        string
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
	if p.head != nil {
		p.seen.status = p.head.status()
	}
	return p.seen
}

// trace returns the hooks. Got1xxResponse stays nil: with that hook, net/http doesn't limit
// the number of interim answers.
func (p *phases) trace() *httptrace.ClientTrace {
	p.seen.doing = "connecting"
	return &httptrace.ClientTrace{
		GotConn: p.gotConn,
		GotFirstResponseByte: func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.seen.answered, p.seen.firstByte = true, time.Since(p.gotConnAt)
			p.seen.doing = "reading the answer"
		},
		DNSStart: func(httptrace.DNSStartInfo) {
			p.noteDial(func() { p.seen.doing, p.dnsStart = "resolving the name", time.Now() })
		},
		DNSDone: func(httptrace.DNSDoneInfo) {
			p.noteDial(func() { p.seen.dns = time.Since(p.dnsStart) })
		},
		ConnectStart: func(_, address string) { p.noteDial(func() { p.startConnect(address) }) },
		ConnectDone: func(string, string, error) {
			p.noteDial(func() { p.seen.connect = time.Since(p.connectStart) })
		},
		TLSHandshakeStart: func() {
			p.noteDial(func() { p.seen.doing, p.tlsStart = "shaking hands", time.Now() })
		},
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			p.noteDial(func() { p.seen.tls, p.seen.tlsFailed = time.Since(p.tlsStart), err != nil })
		},
	}
}

func (p *phases) gotConn(info httptrace.GotConnInfo) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hasConn, p.gotConnAt = true, time.Now()
	if info.Reused { // the request may have begun a dial before the kept connection came free
		p.seen = sighting{reused: true}
	}
	p.seen.doing = "waiting for the answer"
	if head, ok := info.Conn.(*headConn); ok {
		head.begin()
		p.head = head
	}
	p.seen.address, p.seen.localAddress = info.Conn.RemoteAddr().String(), info.Conn.LocalAddr().String()
}

// noteDial notes a step of a dial, unless the request no longer waits for the dial.
func (p *phases) noteDial(note func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.hasConn {
		note()
	}
}

// startConnect may be called for several addresses of a name: the phase starts with the first.
func (p *phases) startConnect(address string) {
	p.seen.doing, p.seen.address = "connecting", address
	if p.connectStart.IsZero() {
		p.connectStart = time.Now()
	}
}
