package main

import (
	"fmt"
	"io"
	"net"
	"sync"
	"time"
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
}

func newBoundListener(listener net.Listener, most int) boundListener {
	return boundListener{listener, make(chan struct{}, most), make(chan struct{}, maxRefusals)}
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
			return &placedConn{conn, sync.OnceFunc(func() { <-l.places })}, nil
		default:
			l.refuse(conn)
		}
	}
}

// placedConn gives its place back when it is closed.
type placedConn struct {
	net.Conn
	leave func()
}

func (c *placedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

func (l boundListener) refuse(conn net.Conn) {
	select {
	case l.refusals <- struct{}{}:
		go func() {
			defer func() { <-l.refusals }()
			sayNoRoom(conn)
		}()
	default:
		_ = conn.Close()
	}
}

const noRoom = `{"type":"/problems/temporary-reduced-capacity","title":"The service is too busy.","status":503,"detail":"Too many connections are open. Nothing was accepted; try again."}`

// sayNoRoom answers when a call begins to come, and reads the rest of it for a
// moment: closing a connection that has unread bytes would take the answer away.
func sayNoRoom(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Read(make([]byte, 4<<10)); err != nil {
		return
	}
	_, _ = fmt.Fprintf(conn, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n"+
		"Content-Length: %d\r\nRetry-After: 2\r\nConnection: close\r\n\r\n%s", len(noRoom), noRoom)
	if half, ok := conn.(*net.TCPConn); ok {
		_ = half.CloseWrite()
	}
	_, _ = io.CopyN(io.Discard, conn, 64<<10)
}
