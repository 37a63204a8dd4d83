package webhook

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// keeper is a receiver that answers until it is told to fail, and keeps each
// connection. It counts each request of which a byte came since.
type keeper struct {
	url string

	// The receiver's behaviour after a request on a kept connection, and on a fresh
	// connection, before it closes that connection.
	onKept, onFresh func(conn net.Conn, reader *bufio.Reader)

	mu      sync.Mutex
	failing bool
	seen    int // requests that began to come since it fails
}

// keep starts a receiver to which the sender has kept connections, and which
// fails from now on.
func keep(t *testing.T, sender *Sender, secure bool) *keeper {
	t.Helper()
	k := &keeper{}
	var config *tls.Config
	if secure {
		server := serveTLS(t, nil, func(*httptest.Server) {}) // lends its certificate
		trust(sender, server)
		config = &tls.Config{Certificates: server.TLS.Certificates, SessionTicketsDisabled: true}
	}
	// The first answers wait for each other, so that each request takes a connection. The
	// requests leave one by one: so many handshakes at once take too long on a busy machine.
	came, all := make(chan struct{}), make(chan struct{})
	target := receive(t, func(conn net.Conn) {
		if secure {
			conn = tls.Server(conn, config)
		}
		k.serve(conn, came, all)
	})
	t.Cleanup(sender.Close) // or the receiver would wait for it
	k.url = map[bool]string{false: "http://", true: "https://"}[secure] + target.address + "/"
	var sent sync.WaitGroup
	ended := make(chan struct{}, kept)
	for range kept {
		sent.Go(func() {
			expect(t, sender.Send(t.Context(), message(k.url)), Attempt{Outcome: Delivered, Status: 200})
			ended <- struct{}{}
		})
		select {
		case <-came:
		case <-ended: // without an answer, which has failed the test
		}
	}
	close(all)
	sent.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failing = true
	return k
}

func (k *keeper) serve(conn net.Conn, came chan<- struct{}, all <-chan struct{}) {
	reader, known := bufio.NewReader(conn), false
	for {
		if _, err := reader.Peek(1); err != nil {
			return
		}
		if k.note() {
			if known {
				k.onKept(conn, reader)
			} else {
				k.onFresh(conn, reader)
			}
			_ = conn.Close()
			return
		}
		readPost(reader)
		select {
		case came <- struct{}{}:
		case <-all:
		}
		<-all
		known = true
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	}
}

// note counts a request, if it fails by now.
func (k *keeper) note() (failing bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.failing {
		k.seen++
	}
	return k.failing
}

func (k *keeper) expect(t *testing.T, want int) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.seen != want {
		t.Errorf("one attempt sent the message %d times, want %d", k.seen, want)
	}
}

func readPost(reader *bufio.Reader) *http.Request {
	request, err := http.ReadRequest(reader)
	if err == nil {
		_, _ = io.Copy(io.Discard, request.Body)
	}
	return request
}

func answerOK(conn net.Conn, reader *bufio.Reader) {
	readPost(reader)
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
}

// reset makes the receiver close a connection with RST.
func reset(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	_ = conn.(*net.TCPConn).SetLinger(0)
	_ = conn.Close()
}

const (
	kept  = 24 // connections that each receiver below has kept
	again = "tried twice: a kept connection failed first"
)

// large is a message that takes several writes.
func large(url string) Message {
	return Message{ID: "msg_2", URL: url, Body: bytes.Repeat([]byte("1"), 48<<10)}
}

func TestSendsTwiceAtMost(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(net.Conn, *bufio.Reader){
		"closed before it reads":   func(net.Conn, *bufio.Reader) {},
		"reset before it reads":    func(conn net.Conn, _ *bufio.Reader) { reset(conn) },
		"closed after the headers": func(_ net.Conn, reader *bufio.Reader) { _, _ = http.ReadRequest(reader) },
		"reset after the headers":  func(conn net.Conn, reader *bufio.Reader) { _, _ = http.ReadRequest(reader); reset(conn) },
		"closed after the body":    func(_ net.Conn, reader *bufio.Reader) { readPost(reader) },
		"reset after the body":     func(conn net.Conn, reader *bufio.Reader) { readPost(reader); reset(conn) },
	} {
		for scheme, secure := range map[string]bool{"HTTP": false, "TLS": true} {
			t.Run(scheme+" "+name, func(t *testing.T) {
				t.Parallel()
				sender := localSender(t)
				k := keep(t, sender, secure)
				k.onKept, k.onFresh = fail, fail
				if got := sender.Send(t.Context(), large(k.url)); got.Outcome != ConnectionFailed || !strings.HasSuffix(got.Cause, "; "+again) {
					t.Errorf("got %q because of %q, want a failure that says %q", got.Outcome, got.Cause, again)
				}
				k.expect(t, 2)
			})
			t.Run(scheme+" "+name+" and answered on a fresh connection", func(t *testing.T) {
				t.Parallel()
				sender := localSender(t)
				k := keep(t, sender, secure)
				k.onKept, k.onFresh = fail, answerOK
				got := sender.Send(t.Context(), large(k.url))
				expect(t, got, Attempt{Outcome: Delivered, Status: 200, Cause: again})
				if got.Connect <= 0 || got.FirstByte <= 0 {
					t.Errorf("phases are %+v, want those of the fresh connection", got)
				}
				k.expect(t, 2)
			})
		}
	}
}

func TestSendsTheSameTwice(t *testing.T) {
	t.Parallel()
	type post struct {
		header http.Header
		body   string
	}
	posts := make(chan post, 2)
	read := func(reader *bufio.Reader) {
		request, err := http.ReadRequest(reader)
		if err != nil {
			t.Errorf("reading a POST: %v", err)
			return
		}
		body, _ := io.ReadAll(request.Body)
		posts <- post{request.Header, string(body)}
	}
	sender := localSender(t)
	k := keep(t, sender, false)
	k.onKept = func(_ net.Conn, reader *bufio.Reader) { read(reader) }
	k.onFresh = func(conn net.Conn, reader *bufio.Reader) {
		read(reader)
		_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
	}
	m := large(k.url)
	expect(t, sender.Send(t.Context(), m), Attempt{Outcome: Delivered, Status: 204, Cause: again})
	for range 2 {
		got := <-posts
		if got.header.Get("Webhook-Id") != m.ID || got.body != string(m.Body) || got.header.Get("Idempotency-Key") != "" {
			t.Errorf("got %v and %d bytes, want the id %s and the body", got.header, len(got.body), m.ID)
		}
	}
}

func TestSendsOnceWhere(t *testing.T) {
	t.Parallel()
	t.Run("TheAnswerHasBegun", func(t *testing.T) {
		t.Parallel()
		for _, part := range []string{"H", "HTTP/1.1 200", "HTTP/1.1 100 Continue\r\n\r\n"} {
			sender := localSender(t)
			k := keep(t, sender, false)
			k.onKept = func(conn net.Conn, reader *bufio.Reader) { readPost(reader); _, _ = io.WriteString(conn, part) }
			if got := sender.Send(t.Context(), large(k.url)); got.Outcome != ConnectionFailed || strings.Contains(got.Cause, again) {
				t.Errorf("after %q: got %q because of %q, want a failure", part, got.Outcome, got.Cause)
			}
			k.expect(t, 1)
		}
	})

	t.Run("TheCallerIsGone", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		sender := localSender(t)
		k := keep(t, sender, false)
		k.onKept = func(conn net.Conn, reader *bufio.Reader) { readPost(reader); cancel(); untilClosed(conn) }
		expect(t, sender.Send(ctx, large(k.url)), Attempt{Outcome: ConnectionFailed, Cause: "cancelled"})
		k.expect(t, 1)
	})

	t.Run("ItIsAQuestion", func(t *testing.T) {
		t.Parallel()
		sender := localSender(t)
		k := keep(t, sender, false)
		k.onFresh = func(_ net.Conn, reader *bufio.Reader) { _, _ = http.ReadRequest(reader) }
		k.onKept = k.onFresh
		if consent, err := sender.Ask(t.Context(), k.url, 60, Admission{}); err == nil {
			t.Errorf("got %+v, want an error", consent)
		}
		k.expect(t, 1)
	})
}
