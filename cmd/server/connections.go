package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"ringback/api"
)

// maxConnections bounds what idle and slow callers hold: some 20 KiB each.
const maxConnections = 8192

// maxRefusals bounds the connections that are told that there is no room.
const maxRefusals = 256

// boundListener takes a bounded number of connections at a time, and tells those
// beyond it at once: one that waited in the kernel for a place would get no
// answer at all.
type boundListener struct {
	net.Listener
	places, refusals chan struct{}
	silent           *atomic.Int64 // connections on which no call has come yet
	refused          *refusedConnections
}

// refusedConnections are told the same, and counted.
type refusedConnections struct {
	answer []byte
	count  prometheus.Counter
}

func newRefusedConnections(registerer prometheus.Registerer) *refusedConnections {
	return &refusedConnections{api.RefusalBody(api.Connections), api.CountRefusals(registerer, api.Connections)}
}

func newBoundListener(listener net.Listener, most int, refused *refusedConnections) boundListener {
	return boundListener{listener, make(chan struct{}, most), make(chan struct{}, maxRefusals), &atomic.Int64{}, refused}
}

// Accept returns the next connection that there is a place for.
func (l boundListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.places <- struct{}{}:
			l.silent.Add(1)
			return &placedConn{conn, sync.OnceFunc(func() { <-l.places }), sync.OnceFunc(func() { l.silent.Add(-1) })}, nil
		default:
			l.refuse(conn)
		}
	}
}

// awaitCalls waits until a call has come on every connection that was accepted,
// and is being answered. Until then a server that shuts down would close it without
// an answer, and its caller not know why.
func (l boundListener) awaitCalls(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for l.silent.Load() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return // some open connections ahead
		}
	}
}

// placedConn gives its place back when it is closed.
type placedConn struct {
	net.Conn
	leave  func()
	called func() // is to be told of each call
}

func (c *placedConn) Close() error {
	defer c.leave()
	c.called()
	return c.Conn.Close()
}

// connKey is where a call's context has its connection.
type connKey struct{}

func withConn(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// noteCall tells a call's connection of it.
func noteCall(ctx context.Context) {
	if conn, ok := ctx.Value(connKey{}).(*placedConn); ok {
		conn.called()
	}
}

func (l boundListener) refuse(conn net.Conn) {
	l.refused.count.Inc()
	select {
	case l.refusals <- struct{}{}:
		go func() {
			defer func() { <-l.refusals }()
			sayNoRoom(conn, l.refused.answer)
		}()
	default:
		_ = conn.Close()
	}
}

// sayNoRoom answers when a call begins to come, and reads the rest of it for a
// moment: closing a connection that has unread bytes would take the answer away.
func sayNoRoom(conn net.Conn, answer []byte) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Read(make([]byte, 4<<10)); err != nil {
		return
	}
	_, _ = fmt.Fprintf(conn, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n"+
		"Content-Length: %d\r\nRetry-After: 2\r\nConnection: close\r\n\r\n%s", len(answer), answer)
	if half, ok := conn.(*net.TCPConn); ok {
		_ = half.CloseWrite()
	}
	_, _ = io.CopyN(io.Discard, conn, 64<<10)
}
