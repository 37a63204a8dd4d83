package webhook

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptrace"
	"regexp"
	"strconv"
	"sync"
)

// headConn keeps the first bytes of the answer to its latest request. Where net/http can't read an
// answer's header, it gives nothing of the answer, though the status line may be in order.
type headConn struct {
	net.Conn
	mu   sync.Mutex
	head [headBytes]byte
	got  int // bytes of head
}

// headBytes hold a version, a status and the byte behind it.
const headBytes = len("HTTP/1.1 200 ")

// begin forgets the answer to the previous request. It is called before anything of the
// next request is sent.
func (c *headConn) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = 0
}

func (c *headConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got += copy(c.head[c.got:], p[:n])
	return n, err
}

// statusLine is the start of a status line that leaves no doubt. An answer behind an interim
// answer isn't read.
var statusLine = regexp.MustCompile(`^HTTP/1\.[01] ([2-5][0-9][0-9])[ \r\n]`)

// status is the status in the answer's status line, 0 where it is in doubt.
func (c *headConn) status() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	found := statusLine.FindSubmatch(c.head[:c.got])
	if found == nil {
		return 0
	}
	status, _ := strconv.Atoi(string(found[1])) // three digits
	return status
}

type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// keepingHeads lets the connections of a dialer record each answer's first bytes.
func keepingHeads(dial dialer) dialer {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &headConn{Conn: conn}, nil
	}
}

// overTLS dials and shakes hands, as the transport does when DialTLSContext is nil: the bytes
// of an answer are only seen within TLS.
func overTLS(dial dialer, transport *http.Transport) dialer {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		config := transport.TLSClientConfig.Clone()
		if host, _, err := net.SplitHostPort(address); err == nil && config.ServerName == "" {
			config.ServerName = host
		}
		secured := tls.Client(conn, config)
		if err := shakeHands(ctx, secured, transport); err != nil {
			conn.Close()
			return nil, err
		}
		return secured, nil
	}
}

func shakeHands(ctx context.Context, conn *tls.Conn, transport *http.Transport) error {
	limited, cancel := context.WithTimeout(ctx, transport.TLSHandshakeTimeout)
	defer cancel()
	trace := httptrace.ContextClientTrace(ctx)
	if trace != nil {
		trace.TLSHandshakeStart()
	}
	err := conn.HandshakeContext(limited)
	if trace != nil {
		trace.TLSHandshakeDone(conn.ConnectionState(), err)
	}
	return err
}
