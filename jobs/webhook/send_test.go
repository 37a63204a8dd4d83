package webhook

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ringback/db/dbtest"
)

// localSender has time enough for a slow machine and none for a body that drips.
func localSender(t *testing.T) *Sender {
	t.Helper()
	sender := NewSender(local, "test")
	beUnhurried(sender)
	sender.drain = time.Millisecond
	t.Cleanup(sender.Close)
	return sender
}

// beUnhurried gives a busy machine all the time that it needs.
func beUnhurried(sender *Sender) {
	sender.exchange = dbtest.Patience
	sender.guard.resolveLimit, sender.guard.dialLimit = dbtest.Patience, dbtest.Patience
	sender.kept.pattern.TLSHandshakeTimeout = dbtest.Patience
}

// withMoreTime tries with more and more time until the outcome is as wanted: at first it
// may run out too early, on a busy machine.
func withMoreTime(t *testing.T, try func(limit time.Duration) (asWanted bool, got any)) {
	t.Helper()
	var got any
	for limit := 100 * time.Millisecond; limit < dbtest.Patience; limit *= 2 {
		asWanted := false
		if asWanted, got = try(limit); asWanted {
			return
		}
	}
	t.Errorf("with as much time as it needs: got %+v", got)
}

func message(target string) Message {
	return Message{ID: "msg_1", URL: target, Body: []byte(`{"type":"request.succeeded"}`)}
}

// expect compares the fields that callers see, and the cause.
func expect(t *testing.T, got, want Attempt) {
	t.Helper()
	if got.Outcome != want.Outcome || got.Status != want.Status || got.RetryAfter != want.RetryAfter || got.Cause != want.Cause {
		t.Errorf("attempt is %q, status %d, retry after %s, cause %q; want %q, %d, %s, %q",
			got.Outcome, got.Status, got.RetryAfter, got.Cause, want.Outcome, want.Status, want.RetryAfter, want.Cause)
	}
	if got.StartedAt.IsZero() || got.EndedAt.Before(got.StartedAt) {
		t.Errorf("attempt lasts from %s to %s; want an interval", got.StartedAt, got.EndedAt)
	}
}

func TestSendAnswered(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name       string
		status     int
		retryAfter string
		want       Attempt
	}{
		{"delivered", 200, "", Attempt{Outcome: Delivered}},
		{"delivered without content", 204, "", Attempt{Outcome: Delivered}},
		{"gone", 410, "", Attempt{Outcome: Gone}},
		{"throttled by 429", 429, "3", Attempt{Outcome: Throttled, RetryAfter: 3 * time.Second}},
		{"throttled by 503", 503, "90000", Attempt{Outcome: Throttled, RetryAfter: 24 * time.Hour}},
		{"429 without Retry-After", 429, "", Attempt{Outcome: HTTPStatus}},
		{"503 without Retry-After", 503, "", Attempt{Outcome: HTTPStatus}},
		{"not found", 404, "", Attempt{Outcome: HTTPStatus}},
		{"server error", 500, "", Attempt{Outcome: HTTPStatus}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := serveHTTP(t, func(w http.ResponseWriter, _ *http.Request) {
				if test.retryAfter != "" {
					w.Header().Set("Retry-After", test.retryAfter)
				}
				w.WriteHeader(test.status)
			})
			test.want.Status = test.status
			expect(t, localSender(t).Send(t.Context(), message(server.URL)), test.want)
		})
	}
}

func TestSendFollowsNoRedirect(t *testing.T) {
	t.Parallel()
	var visits atomic.Int32
	elsewhere := serveHTTP(t, func(http.ResponseWriter, *http.Request) { visits.Add(1) })
	for _, status := range []int{301, 302, 303, 307, 308} {
		for name, location := range map[string]string{"elsewhere": elsewhere.URL, "nowhere": "http://[fe80::1%25lo", "port only": "http://:80/"} {
			t.Run(strconv.Itoa(status)+" "+name, func(t *testing.T) {
				t.Parallel()
				server := serveHTTP(t, func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Location", location)
					w.Header().Set("Set-Cookie", "a=b")
					w.WriteHeader(status)
				})
				expect(t, localSender(t).Send(t.Context(), message(server.URL)),
					Attempt{Outcome: HTTPStatus, Status: status, Cause: "redirects are not followed"})
				if got := visits.Load(); got != 0 {
					t.Errorf("target of the redirect got %d requests; want none", got)
				}
			})
		}
	}
}

// 304 names no other place.
func TestSendCallsNotModifiedNoRedirect(t *testing.T) {
	t.Parallel()
	server := serveHTTP(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) })
	expect(t, localSender(t).Send(t.Context(), message(server.URL)), Attempt{Outcome: HTTPStatus, Status: http.StatusNotModified})
}

func TestSendNoConnection(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listening: %v", err)
	}
	listener.Close()
	closed := listener.Addr().String()
	_, port, _ := net.SplitHostPort(closed)

	t.Run("refused by the receiver", func(t *testing.T) {
		t.Parallel()
		got := localSender(t).Send(t.Context(), message("http://"+closed))
		expect(t, got, Attempt{Outcome: ConnectionFailed, Cause: syscall.ECONNREFUSED.Error()})
		if got.Address != closed || got.Connect <= 0 || got.FirstByte != 0 {
			t.Errorf("address is %q, connect %s, first byte %s; want %q, some time, none", got.Address, got.Connect, got.FirstByte, closed)
		}
	})
	t.Run("refused by Check", func(t *testing.T) {
		t.Parallel()
		got := NewSender(strict, "test").Send(t.Context(), message("https://10.1.2.3/secret"))
		expect(t, got, Attempt{Outcome: ConnectionFailed, Cause: "URL not allowed: The IP address in the callback URL must be a public one."})
		if got.Address != "" {
			t.Errorf("address is %q; want none", got.Address)
		}
	})
	t.Run("refused by the guard", func(t *testing.T) {
		t.Parallel()
		sender := NewSender(strict, "test")
		sender.policy = local // passes Check, as a public name with such an address would
		expect(t, sender.Send(t.Context(), message("https://localhost:"+port)),
			Attempt{Outcome: ConnectionFailed, Cause: "address not allowed"})
	})
	t.Run("cancelled by the caller", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		target := receive(t, func(conn net.Conn) {
			readRequest(t, conn)
			cancel()
			untilClosed(conn)
		})
		expect(t, localSender(t).Send(ctx, message(target.url)), Attempt{Outcome: ConnectionFailed, Cause: "cancelled"})
	})
}

func TestSendKeepsConnections(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		body        int // bytes
		connections int32
	}{
		"no body": {0, 1}, "small body": {100, 1}, "largest body that is drained": {maxDrain, 1}, "too large a body": {maxDrain + 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var connections atomic.Int32
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, strings.Repeat("a", test.body))
			}))
			server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					connections.Add(1)
				}
			}
			server.Start()
			t.Cleanup(server.Close)
			sender := localSender(t)
			sender.drain = sender.exchange
			first := sender.Send(t.Context(), message(server.URL))
			second := sender.Send(t.Context(), message(server.URL))
			if got := connections.Load(); got != test.connections {
				t.Errorf("two attempts took %d connections; want %d", got, test.connections)
			}
			if first.Connect <= 0 || first.FirstByte <= 0 || first.DNS != 0 || first.TLS != 0 {
				t.Errorf("first attempt's phases are %+v; want a connect and a first byte only", first)
			}
			if reused := second.Connect == 0; reused != (test.connections == 1) || second.Address != first.Address || second.FirstByte <= 0 {
				t.Errorf("second attempt is %+v; want %d connections in all, the address %s and a first byte", second, test.connections, first.Address)
			}
		})
	}
}

func TestSendExactly(t *testing.T) {
	t.Parallel()
	requests := make(chan string, 1)
	target := receive(t, func(conn net.Conn) {
		requests <- readRequest(t, conn)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
	})
	m := message("HTTP://" + target.address + "/hooks/%2F?a=[b]")
	m.Traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	before := time.Now().Unix()
	expect(t, localSender(t).Send(t.Context(), m), Attempt{Outcome: Delivered, Status: 200})
	got := <-requests
	timestamp := field(got, "Webhook-Timestamp")
	want := "POST /hooks/%2F?a=[b] HTTP/1.1\r\n" +
		"Host: " + target.address + "\r\n" +
		"User-Agent: Ringback/test\r\n" +
		"Content-Length: 28\r\n" +
		"Accept: */*\r\n" +
		"Cdn-Loop: ringback\r\n" +
		"Content-Type: application/json\r\n" +
		"Traceparent: " + m.Traceparent + "\r\n" +
		"Webhook-Id: msg_1\r\n" +
		"Webhook-Request-Origin: ringback\r\n" +
		"Webhook-Timestamp: " + timestamp + "\r\n" +
		"\r\n" + string(m.Body)
	if got != want {
		t.Errorf("request is %q; want %q", got, want)
	}
	if sent, err := strconv.ParseInt(timestamp, 10, 64); err != nil || sent < before || sent > time.Now().Unix() {
		t.Errorf("timestamp is %q; want one from %d on", timestamp, before)
	}
}

func TestSendIntroducesItself(t *testing.T) {
	t.Parallel()
	headers := make(chan http.Header, 1)
	server := serveHTTP(t, func(_ http.ResponseWriter, r *http.Request) { headers <- r.Header })
	sender := NewSender(Policy{Local: true, Names: []string{"api.example.com", "www.example.com"}}, "v1")
	t.Cleanup(sender.Close)
	expect(t, sender.Send(t.Context(), message(server.URL)), Attempt{Outcome: Delivered, Status: 200})
	got := <-headers
	if got.Get("User-Agent") != "Ringback/v1 (+https://api.example.com)" || got.Get("Webhook-Request-Origin") != "api.example.com" {
		t.Errorf("headers are %v; want the first of our names in them", got)
	}
}

// field returns a header of a raw request, or "".
func field(request, name string) string {
	_, rest, _ := strings.Cut(request, "\r\n"+name+": ")
	value, _, _ := strings.Cut(rest, "\r\n")
	return value
}

func TestSendKeepsNoCookies(t *testing.T) {
	t.Parallel()
	server := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		if len(r.Cookies()) > 0 || r.Header.Get("Accept-Encoding") != "" {
			t.Errorf("headers are %v; want neither cookies nor Accept-Encoding", r.Header)
		}
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "b"})
	})
	sender := localSender(t)
	for range 2 {
		expect(t, sender.Send(t.Context(), message(server.URL)), Attempt{Outcome: Delivered, Status: 200})
	}
}

func TestSendConcurrently(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	ids := map[string]int{}
	server := serveHTTP(t, func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		ids[r.Header.Get("Webhook-Id")]++
	})
	sender := localSender(t)
	var senders sync.WaitGroup
	for i := range 32 {
		senders.Go(func() {
			m := message(server.URL)
			m.ID = "msg_" + strconv.Itoa(i)
			for range 4 {
				expect(t, sender.Send(t.Context(), m), Attempt{Outcome: Delivered, Status: 200})
			}
		})
	}
	senders.Wait()
	for id, count := range ids {
		if count != 4 {
			t.Errorf("receiver got %s %d times; want 4", id, count)
		}
	}
	if len(ids) != 32 {
		t.Errorf("receiver got %d messages; want 32", len(ids))
	}
}

// net/http reads the environment once and excepts loopback from proxies, but not the
// names under localhost: with a proxy, this Sender's resolver would not be asked. The
// result of the lookup doesn't matter here.
func TestSendIgnoresProxies(t *testing.T) {
	var visits atomic.Int32
	proxy := serveHTTP(t, func(http.ResponseWriter, *http.Request) { visits.Add(1) })
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		t.Setenv(name, proxy.URL)
	}
	t.Setenv("NO_PROXY", "")
	t.Setenv("no_proxy", "")
	sender := localSender(t)
	sender.exchange = 500 * time.Millisecond
	if sender.kept.pattern.Proxy != nil {
		t.Error("transport has a proxy function; want none")
	}
	sender.Send(t.Context(), message("http://callback.localhost:1/"))
	if got := visits.Load(); got != 0 {
		t.Errorf("proxy got %d requests; want none", got)
	}
}

// A traceparent that somebody wrote by hand doesn't count against the receiver.
func TestSendWithoutATraceparentThatIsNone(t *testing.T) {
	t.Parallel()
	server := serveHTTP(t, func(_ http.ResponseWriter, r *http.Request) {
		if got := r.Header.Values("Traceparent"); len(got) > 0 {
			t.Errorf("got the traceparent %q, want none", got)
		}
	})
	m := message(server.URL)
	m.Traceparent = "x\ny"
	expect(t, localSender(t).Send(t.Context(), m), Attempt{Outcome: Delivered, Status: 200})
}
