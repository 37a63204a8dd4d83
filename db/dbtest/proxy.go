package dbtest

import (
	"net"
	"net/url"
	"sync"
	"testing"
)

// Proxy stands between a program and Postgres, so that a test can take the database away
// without touching either.
type Proxy struct {
	listener net.Listener
	target   string // host:port

	mu    sync.Mutex
	state proxyState
	conns map[net.Conn]struct{}
	flow  chan struct{} // closed while bytes may pass
}

type proxyState int

const (
	passing proxyState = iota
	refusing
	frozen
)

// NewProxy returns a proxy to the server of the given URL, and the URL that
// leads through it.
func NewProxy(t testing.TB, through string) (*Proxy, string) {
	t.Helper()
	parsed, err := url.Parse(through)
	if err != nil {
		t.Fatal("not a URL")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	open := make(chan struct{})
	close(open)
	p := &Proxy{listener: listener, target: parsed.Host, conns: map[net.Conn]struct{}{}, flow: open}
	go p.accept()
	t.Cleanup(func() {
		listener.Close()
		p.Refuse()
	})
	parsed.Host = listener.Addr().String()
	query := parsed.Query()
	query.Del("connect_timeout") // what is behind it may be away
	parsed.RawQuery = query.Encode()
	return p, parsed.String()
}

// MoveTo leads new connections to the server of another URL. Open connections go
// on, as with an address that moves.
func (p *Proxy) MoveTo(t testing.TB, to string) {
	t.Helper()
	parsed, err := url.Parse(to)
	if err != nil {
		t.Fatal("not a URL")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = parsed.Host
}

// Refuse breaks every connection and lets no new one live, as a database that
// is down does.
func (p *Proxy) Refuse() { p.change(refusing) }

// Freeze holds every byte back, as a network that lost its way does.
func (p *Proxy) Freeze() { p.change(frozen) }

// Pass lets everything through again. Connections that were broken stay so.
func (p *Proxy) Pass() { p.change(passing) }

func (p *Proxy) change(state proxyState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == frozen && state != frozen {
		close(p.flow)
	}
	if p.state != frozen && state == frozen {
		p.flow = make(chan struct{})
	}
	p.state = state
	if state == refusing {
		for conn := range p.conns {
			conn.Close()
		}
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		go p.serve(client)
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	if !p.add(client) {
		return
	}
	defer p.remove(client)
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	server, err := net.Dial("tcp", target)
	if err != nil || !p.add(server) {
		return
	}
	defer p.remove(server)
	go p.copy(server, client)
	p.copy(client, server)
}

func (p *Proxy) add(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[conn] = struct{}{}
	return p.state != refusing
}

func (p *Proxy) remove(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, conn)
	conn.Close()
}

// copy passes bytes on until either side closes.
func (p *Proxy) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		p.mu.Lock()
		flow := p.flow
		p.mu.Unlock()
		<-flow
		if _, writeErr := to.Write(buffer[:n]); err != nil || writeErr != nil {
			return
		}
	}
}
