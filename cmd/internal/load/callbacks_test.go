package load

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"ringback/cmd/internal/receivers"
	"ringback/db/dbtest"
)

func TestReceiverResetsByRST(t *testing.T) {
	t.Parallel()
	receiver := startReceiver(t, func(config *Config) { config.Receivers = AllOf(receivers.Reset) })
	if _, err := io.ReadAll(postOverTCP(t, receiver)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want the connection reset", err)
	}
}

func TestReceiverHangs(t *testing.T) {
	t.Parallel()
	receiver := startReceiver(t, func(config *Config) { config.Receivers = AllOf(receivers.Hang) })
	conn := postOverTCP(t, receiver)
	if err := conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want no answer", err)
	}
	receiver.close()
	if err := conn.SetReadDeadline(time.Now().Add(dbtest.Patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after the run: got %v, want the connection reset", err)
	}
}

// postOverTCP sends a callback to a receiver.
func postOverTCP(t *testing.T, receiver *crowd) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(receiver.receivers[receiver.ledger.requests[0].kind].URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	fmt.Fprintf(conn, "POST %s0 HTTP/1.1\r\nHost: storm\r\nContent-Length: 0\r\n\r\n", receiver.path)
	return conn
}

// startReceiver returns the receiver of a run of ten async requests, serving.
func startReceiver(t *testing.T, adjust func(*Config)) *crowd {
	t.Helper()
	config := Defaults()
	config.Mix = Mix{Async: 1}
	adjust(&config)
	ledger := newLedger(config, 10)
	ledger.start = time.Now()
	receiver, err := newCrowd(ledger, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(receiver.close)
	return receiver
}

func TestReceiverTakesNothingAfterTheRun(t *testing.T) {
	t.Parallel()
	receiver := startReceiver(t, func(*Config) {})
	post := func() int {
		response, err := http.Post(receiver.url(3), "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	if got := post(); got != http.StatusOK {
		t.Errorf("during the run: got status %d, want 200", got)
	}
	receiver.ledger.close()
	if got := post(); got != http.StatusServiceUnavailable {
		t.Errorf("after it: got status %d, want 503", got)
	}
	if got := receiver.ledger.requests[3]; got.taken != 1 || got.attempts != 1 {
		t.Errorf("got %d taken of %d attempts, want the first one alone", got.taken, got.attempts)
	}
}

func TestReceiverConsents(t *testing.T) {
	t.Parallel()
	receiver := startReceiver(t, func(config *Config) { config.Receivers = AllOf(receivers.Granting) })
	url := receiver.url(0)
	for origin, want := range map[string]string{"ringback.example": "*", "": ""} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if origin != "" {
			request.Header.Set("WebHook-Request-Origin", origin)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		got, rate := response.Header.Get("WebHook-Allowed-Origin"), response.Header.Get("WebHook-Allowed-Rate")
		if response.StatusCode != http.StatusOK || got != want || rate != want {
			t.Errorf("asked by %q: got status %d, origin %q and rate %q, want 200 and %q", origin, response.StatusCode, got, rate, want)
		}
	}
	if got := receiver.ledger.requests[0].attempts; got != 0 {
		t.Errorf("attempts: got %d, want none for a handshake", got)
	}
}
