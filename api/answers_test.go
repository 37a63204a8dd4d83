package api

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"ringback/db/dbtest"
)

// largeAnswer is the answer of a largeServer, as it is encoded.
var largeAnswer = `"` + strings.Repeat("x", 64<<10) + `"` + "\n"

// largeServer answers every call of the client that Authorization names with
// largeAnswer. Answers may take a megabyte.
func largeServer(t *testing.T) (*API, string) {
	t.Helper()
	a := &API{Config: Config{Logger: slog.New(slog.DiscardHandler)}, answers: newAnswerBudget(1 << 20), metrics: newMetrics(nil)}
	router := a.newRouter()
	router.GET("/", with(func(c *call) { c.client = c.GetHeader("Authorization") }),
		a.handle(func(*call) (reply, error) {
			return reply{status: http.StatusOK, body: largeAnswer[1 : 1+64<<10]}, nil
		}))
	server := httptest.NewUnstartedServer(router)
	server.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		_ = conn.(*net.TCPConn).SetWriteBuffer(16 << 10) // or it would take megabytes until an answer waits
		return ctx
	}
	server.Start()
	t.Cleanup(server.Close)
	return a, server.Listener.Addr().String()
}

// pipeline sends calls without reading their answers.
func pipeline(t *testing.T, address, client string, calls int) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.(*net.TCPConn).SetReadBuffer(16 << 10); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, strings.Repeat("GET / HTTP/1.1\r\nHost: x\r\nAuthorization: "+client+"\r\n\r\n", calls)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func readLarge(from *bufio.Reader) error {
	response, err := http.ReadResponse(from, nil)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(response.Body)
	if err == nil && string(body) != largeAnswer {
		err = fmt.Errorf("got %d bytes, want %d", len(body), len(largeAnswer))
	}
	return err
}

func TestAnswersThatNobodyReadsTakeLittleMemory(t *testing.T) {
	t.Parallel()
	a, address := largeServer(t)
	calls := 20 // more than sockets hold answers to
	slow := pipeline(t, address, "slow", calls)
	until(t, func() bool { taken, _ := a.answers.counts(); return taken > 0 }, "an answer that isn't read")
	const callers = 40 // more than the budget holds answers of
	for range callers {
		pipeline(t, address, "mallory", calls)
	}
	until(t, func() bool {
		if err := readLarge(bufio.NewReader(pipeline(t, address, "alice", 1))); err != nil {
			t.Fatalf("another client: %v", err)
		}
		taken, lost := a.answers.counts()
		if taken > 1<<20 {
			t.Fatalf("answers take %d bytes, want at most a megabyte", taken)
		}
		return lost > callers-16
	}, "all to be cut that the budget doesn't hold")
	for from := bufio.NewReader(slow); calls > 0; calls-- {
		if err := readLarge(from); err != nil {
			t.Fatalf("a client that holds less: %v, want its answers whole", err)
		}
	}
}

func until(t *testing.T, holds func() bool, what string) {
	t.Helper()
	for deadline := time.Now().Add(dbtest.Patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestAnswerBudget(t *testing.T) {
	t.Parallel()
	b := newAnswerBudget(100 << 10)
	cut := map[string]int{}
	hold := func(client string, length int) (release func()) {
		return b.reserve(client, length, func() { cut[client]++ })
	}
	hold("greedy", 60<<10)
	release := hold("greedy", 20<<10)
	hold("modest", 10<<10)
	hold("modest", smallAnswer)
	if taken, _ := b.counts(); taken != 90<<10 || len(cut) > 0 {
		t.Fatalf("got %d bytes taken and %v cut, want 90 KiB and none", taken, cut)
	}
	hold("new", 50<<10)
	if taken, lost := b.counts(); taken != 80<<10 || lost != 1 || cut["greedy"] != 1 {
		t.Errorf("got %d bytes taken and %v cut, want the greatest client's oldest", taken, cut)
	}
	release()
	release()
	hold("huge", 1<<20)
	if taken, _ := b.counts(); taken != 100<<10 || cut["greedy"] != 1 || cut["modest"] != 1 || cut["new"] != 1 {
		t.Errorf("beyond all there is: got %d bytes taken and %v cut, want all others cut", taken, cut)
	}
}
