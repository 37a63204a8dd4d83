package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"ringback/api/contract"
	"ringback/db/dbtest"
	"ringback/work/fingerprint"
)

// boundServer answers GET /wait when it is told to, and anything else at once.
type boundServer struct {
	registry    *prometheus.Registry
	connections *connections
	address     string
	waiting     chan bool // gets a value for each call that waits
	answer      chan bool // closed to answer them
	served      atomic.Int64
}

// newBoundServer takes a bounded number of connections, and closes idle connections at
// once. Each address of loopback counts by itself.
func newBoundServer(t *testing.T, most int, adjust func(*boundServer, *http.Server)) *boundServer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	s := &boundServer{registry: registry, connections: newConnections(most, nil, registry), address: listener.Addr().String(), waiting: make(chan bool), answer: make(chan bool)}
	s.connections.settled = 0
	server := &http.Server{ConnContext: noteConn, ConnState: s.connections.changed}
	server.Handler = bounded(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.served.Add(1)
		if r.URL.Path == "/wait" {
			s.waiting <- true
			<-s.answer
		}
		_, _ = io.WriteString(w, "served")
	}))
	if adjust != nil {
		adjust(s, server)
	}
	go server.Serve(s.connections.on(listener))
	t.Cleanup(func() { server.Close() })
	return s
}

// caller has a connection.
type caller struct {
	net.Conn
	in *bufio.Reader
}

// dial connects from an address of loopback.
func (s *boundServer) dial(t *testing.T, from string) caller {
	t.Helper()
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(dbtest.Patience)); err != nil {
		t.Fatal(err)
	}
	return caller{conn, bufio.NewReader(conn)}
}

func (c caller) send(path string) { fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path) }

// status returns the status of the next answer, 0 for none.
func (c caller) status() int {
	response, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0
	}
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode
}

func (c caller) call(path string) int {
	c.send(path)
	return c.status()
}

// active counts the connections with a call.
func (s *boundServer) active() int {
	open, idle := s.connections.counts()
	return open - idle
}

// fill makes connections that are idle after a call each.
func (s *boundServer) fill(t *testing.T, from string, count int) (callers []caller) {
	t.Helper()
	before := s.active()
	for range count {
		c := s.dial(t, from)
		if got := c.call("/"); got != http.StatusOK {
			t.Fatalf("a call from %s: got %d, want 200", from, got)
		}
		until(t, func() bool { return s.active() <= before }, func() string { return "it to be idle" })
		callers = append(callers, c)
	}
	return callers
}

func TestLongestIdleConnectionIsClosedForTheNext(t *testing.T) {
	t.Parallel()
	s := newBoundServer(t, 3, nil)
	first, second, third := s.fill(t, "127.0.0.2", 1)[0], s.fill(t, "127.0.0.3", 1)[0], s.fill(t, "127.0.0.4", 1)[0]
	if first.call("/") != http.StatusOK { // it isn't the longest idle any more
		t.Fatal("a kept connection isn't served")
	}
	s.fill(t, "127.0.0.5", 1)
	if got := second.call("/"); got != 0 {
		t.Errorf("the longest idle: got %d, want it closed", got)
	}
	for _, kept := range []caller{third, first} {
		if got := kept.call("/"); got != http.StatusOK {
			t.Errorf("another: got %d, want it kept", got)
		}
	}
}

func TestConnectionWithACallIsNeverClosed(t *testing.T) {
	t.Parallel()
	s := newBoundServer(t, 2, nil)
	active := []caller{s.dial(t, "127.0.0.2"), s.dial(t, "127.0.0.3")}
	for _, c := range active {
		c.send("/wait")
		<-s.waiting
	}
	for range 3 {
		if got := s.dial(t, "127.0.0.4").call("/healthz"); got != http.StatusOK {
			t.Errorf("health: got %d, want 200", got)
		}
		c := s.dial(t, "127.0.0.4")
		c.send("/")
		response, err := http.ReadResponse(c.in, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") == "" || !response.Close || !strings.Contains(string(body), "temporary-reduced-capacity") {
			t.Errorf("anything else: got %v with %s, want 503 with Retry-After, a problem, and the connection closed", response, body)
		}
	}
	metrics, err := s.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, metric := range metrics {
		if got := metric.Metric[0].Counter.GetValue(); metric.GetName() == "ringback_http_refusals_total" && got != 3 {
			t.Errorf("counted: got %v refusals, want 3", got)
		}
	}
	close(s.answer)
	for _, c := range active {
		if got := c.status(); got != http.StatusOK {
			t.Errorf("a call under way: got %d, want 200", got)
		}
	}
	// A connection is idle a moment after its answer has arrived.
	until(t, func() bool { return s.active() == 0 }, func() string { return "the calls to end" })
	if got := s.dial(t, "127.0.0.4").call("/"); got != http.StatusOK {
		t.Errorf("afterwards: got %d, want 200", got)
	}
}

func TestConnectionsOfAnAddressLeaveRoomToOthers(t *testing.T) {
	t.Parallel()
	const alice, mallory = "127.0.0.2", "127.0.0.3"

	t.Run("ThoughItOpensThousands", func(t *testing.T) {
		t.Parallel()
		s := newBoundServer(t, 20, nil)
		hers := s.fill(t, alice, 2) // idle for longer than all others
		for range 2000 {
			s.dial(t, mallory).Close()
			s.dial(t, mallory)
		}
		if open, _ := s.connections.counts(); open > 17 {
			t.Errorf("got %d connections, want some room left of 20", open)
		}
		s.fill(t, alice, 2)
		for _, c := range hers {
			if got := c.call("/"); got != http.StatusOK {
				t.Errorf("another address: got %d, want its connections kept", got)
			}
		}
	})

	t.Run("ThoughItHasACallOnEach", func(t *testing.T) {
		t.Parallel()
		s := newBoundServer(t, 20, nil)
		for {
			c := s.dial(t, mallory)
			c.send("/wait")
			refused := make(chan int, 1)
			go func() { refused <- c.status() }()
			select {
			case <-s.waiting:
				continue
			case got := <-refused:
				if got != http.StatusServiceUnavailable {
					t.Errorf("beyond its share: got %d, want 503", got)
				}
			}
			break
		}
		if open, _ := s.connections.counts(); open < 15 || open > 17 {
			t.Errorf("one address alone got %d of 20, want most", open)
		}
		s.fill(t, alice, 3)
		close(s.answer)
	})

	t.Run("ThoughItFillsTheReserve", func(t *testing.T) {
		t.Parallel()
		s := newBoundServer(t, 20, func(s *boundServer, _ *http.Server) { s.connections.settled = time.Hour })
		for range 20 + 2*s.connections.reserve {
			s.dial(t, mallory)
		}
		for n := range 3 {
			if got := s.dial(t, alice).call("/"); got != http.StatusOK {
				t.Errorf("connection %d of another address: got %d, want 200", n+1, got)
			}
		}
	})

	t.Run("WhoseIdleOnesGoFirst", func(t *testing.T) {
		t.Parallel()
		s := newBoundServer(t, 8, nil)
		hers := s.fill(t, alice, 1)
		s.fill(t, mallory, 5)
		s.fill(t, "127.0.0.4", 1)
		s.fill(t, "127.0.0.5", 1)
		s.fill(t, "127.0.0.6", 1) // there were eight
		if got := hers[0].call("/"); got != http.StatusOK {
			t.Errorf("got %d, want one closed of the address that has the most, though another is idle for longer", got)
		}
	})

	t.Run("WhichKeepTheirIdleOnes", func(t *testing.T) {
		t.Parallel()
		s := newBoundServer(t, 8, nil)
		for range 6 {
			s.dial(t, mallory).send("/wait")
			<-s.waiting
		}
		others := append(s.fill(t, alice, 1), s.fill(t, "127.0.0.4", 1)...)
		if got := s.dial(t, mallory).call("/"); got != http.StatusServiceUnavailable {
			t.Errorf("the address that has the most: got %d, want 503", got)
		}
		for _, c := range others {
			if got := c.call("/"); got != http.StatusOK {
				t.Errorf("another's: got %d, want it kept", got)
			}
		}
		close(s.answer)
	})

	t.Run("UnlessItIsExempt", func(t *testing.T) {
		t.Parallel()
		s := newBoundServer(t, 20, func(s *boundServer, _ *http.Server) { s.connections.exempt = loopback })
		s.fill(t, mallory, 20)
		if open, _ := s.connections.counts(); open != 20 {
			t.Errorf("got %d connections, want all 20", open)
		}
	})
}

func TestConnectionsThatHaveJustComeAreKept(t *testing.T) {
	t.Parallel()
	s := newBoundServer(t, 2, func(s *boundServer, _ *http.Server) { s.connections.settled = time.Hour })
	first, second := s.dial(t, "127.0.0.2"), s.dial(t, "127.0.0.3")
	if got := s.dial(t, "127.0.0.4").call("/"); got != http.StatusServiceUnavailable {
		t.Errorf("one more: got %d, want 503", got)
	}
	for _, c := range []caller{first, second} {
		if got := c.call("/"); got != http.StatusOK {
			t.Errorf("got %d, want 200", got)
		}
	}
}

func TestReserveIsBounded(t *testing.T) {
	t.Parallel()
	for most, reserve := range map[int]int{1: leastReserve, 100: 25, 8192: mostReserve} {
		s := newBoundServer(t, most, func(s *boundServer, _ *http.Server) { s.connections.settled = time.Hour })
		if got := s.connections.reserve; got != reserve {
			t.Errorf("of %d: got a reserve of %d, want %d", most, got, reserve)
		}
	}
	s := newBoundServer(t, 1, func(s *boundServer, _ *http.Server) { s.connections.settled = time.Hour })
	for range 2 * leastReserve {
		s.dial(t, "127.0.0.2")
	}
	if got := s.dial(t, "127.0.0.2").call("/healthz"); got != 0 {
		t.Errorf("got %d, want the connection closed", got)
	}
	if open, _ := s.connections.counts(); open != 1+leastReserve {
		t.Errorf("got %d connections, want %d", open, 1+leastReserve)
	}
}

func TestCallOnAConnectionThatWasJustClosedIsNotDone(t *testing.T) {
	t.Parallel()
	var another atomic.Bool
	served := make(chan bool)
	s := newBoundServer(t, 1, func(s *boundServer, server *http.Server) {
		server.ConnState = func(conn net.Conn, state http.ConnState) {
			if state == http.StateActive && another.CompareAndSwap(false, true) { // its call is there, and another connection comes just now
				s.fill(t, "127.0.0.3", 1)
				close(served)
			}
			s.connections.changed(conn, state)
		}
	})
	got := s.dial(t, "127.0.0.2").call("/")
	<-served
	if got != 0 || s.served.Load() != 1 {
		t.Errorf("got %d and %d calls done, want that of the other connection alone", got, s.served.Load())
	}
}

func TestFullOfIdleConnectionsEveryoneIsServed(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), map[string]string{"MAX_CONNECTIONS": "8"}, fingerprint.Do)
	for range 50 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	for range 20 {
		fresh := &http.Client{Transport: contract.Transport{RoundTripper: &http.Transport{}}}
		t.Cleanup(fresh.CloseIdleConnections)
		for _, path := range []string{"/healthz", "/requests"} {
			until(t, func() bool {
				response, err := fresh.Get(p.url + path)
				if err != nil {
					return false
				}
				response.Body.Close()
				return response.StatusCode == http.StatusOK
			}, func() string { return path + " to be served" })
		}
	}
}

func TestAnswersThatNobodyReadsAreGivenUp(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), nil, fingerprint.Do)
	for name, host := range map[string]string{"OfTheAPI": "localhost", "ThatComeBeforeIt": "elsewhere.example.com"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
			calls := strings.Repeat("GET /problems/not-found HTTP/1.1\r\nHost: "+host+"\r\n\r\n", 50)
			for err == nil { // until the server closes it
				_, err = io.WriteString(conn, calls)
			}
		})
	}
}

func TestConnectionsThatWaitAreServedBeforeTheListenerCloses(t *testing.T) {
	t.Parallel()
	listener, err := listenTCP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	expectWaitingServed(t, listener)
}

// expectWaitingServed makes connections that wait for a listener, and closes it as a server
// that stops does.
func expectWaitingServed(t *testing.T, listener *net.TCPListener) {
	t.Helper()
	var answers sync.WaitGroup
	for range 20 {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		answers.Go(func() {
			fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil || response.StatusCode != http.StatusNoContent {
				t.Errorf("got %v, %v, want it served", response, err)
			}
		})
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	if err := emptyQueue(t.Context(), listener); err != nil {
		t.Fatal(err)
	}
	listener.Close()
	answers.Wait()
	server.Close()
	<-ended
}

func TestFirstCallIsAnsweredThoughTheListenerIsClosed(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), nil, fingerprint.Do)
	address := strings.TrimPrefix(p.url, "http://")
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	p.stop()
	until(t, func() bool {
		late, err := net.DialTimeout("tcp", address, 100*time.Millisecond)
		if err == nil {
			late.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	}, func() string { return "the listener to be closed" })
	fmt.Fprint(conn, "GET /works HTTP/1.1\r\nHost: localhost\r\n\r\n")
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || response.StatusCode != http.StatusOK || !response.Close {
		t.Errorf("got %v, %v, want an answer, and the connection closed after it", response, err)
	}
	if err := p.waitStopped(t); err != nil {
		t.Errorf("got %v, want it to stop", err)
	}
}
