package webhook

import (
	"bufio"
	"bytes"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
)

// receiver is a TCP server that may break every rule of HTTP.
type receiver struct {
	address     string
	url         string
	connections atomic.Int32
}

// receive starts a receiver that calls serve for each connection and closes
// the connection afterwards. It ends, with all its connections, with the test.
func receive(t *testing.T, serve func(conn net.Conn)) *receiver {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listening: %v", err)
	}
	r := &receiver{address: listener.Addr().String(), url: "http://" + listener.Addr().String() + "/"}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			r.connections.Add(1)
			running.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		running.Wait()
	})
	return r
}

// readRequest returns the bytes of a request, headers and body.
func readRequest(t *testing.T, conn net.Conn) string {
	t.Helper()
	var raw bytes.Buffer
	request, err := http.ReadRequest(bufio.NewReader(io.TeeReader(conn, &raw)))
	if err == nil {
		_, err = io.Copy(io.Discard, request.Body)
	}
	if err != nil {
		t.Errorf("reading a request: %v", err)
	}
	return raw.String()
}

// untilClosed returns when the other side has closed the connection.
func untilClosed(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

func serveHTTP(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

// serveTLS starts a TLS server that offers HTTP/2 too and whose handshake
// errors are not logged.
func serveTLS(t *testing.T, handler http.HandlerFunc, adjust func(*httptest.Server)) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.EnableHTTP2 = true
	adjust(server)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}
