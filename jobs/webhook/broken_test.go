package webhook

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// forever writes the same until the other side hangs up.
func forever(conn net.Conn, text string) {
	for {
		if _, err := io.WriteString(conn, text); err != nil {
			return
		}
	}
}

// drip writes the same again and again, slowly, until the other side hangs up.
func drip(conn net.Conn, text string) {
	closed := make(chan struct{})
	go func() { untilClosed(conn); close(closed) }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-closed:
			return
		case <-tick.C:
			_, _ = io.WriteString(conn, text)
		}
	}
}

func TestSendBrokenAnswers(t *testing.T) {
	t.Parallel()
	const noAnswer = "connection closed before the answer"
	for _, test := range []struct {
		name  string
		serve func(conn net.Conn)
		want  Attempt
	}{
		{
			"closed without an answer", func(net.Conn) {},
			Attempt{Outcome: ConnectionFailed, Cause: noAnswer},
		},
		{
			"closed within the headers", func(conn net.Conn) { _, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nA: b\r\n") },
			Attempt{Outcome: Delivered, Status: 200, Cause: sloppyAnswer},
		},
		{
			"reset", func(conn net.Conn) { _ = conn.(*net.TCPConn).SetLinger(0) },
			Attempt{Outcome: ConnectionFailed, Cause: syscall.ECONNRESET.Error()},
		},
		{
			"garbage", func(conn net.Conn) { _, _ = io.WriteString(conn, "220 secret ESMTP\r\n"); untilClosed(conn) },
			Attempt{Outcome: ConnectionFailed, Cause: "no valid HTTP answer"},
		},
		{"endless headers", func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
			forever(conn, "A: b\r\n")
		}, Attempt{Outcome: Delivered, Status: 200, Cause: sloppyAnswer}},
		{"endless header line", func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nA: ")
			forever(conn, "b")
		}, Attempt{Outcome: Delivered, Status: 200, Cause: sloppyAnswer}},
		{
			"endless interim answers", func(conn net.Conn) { forever(conn, "HTTP/1.1 103 Early Hints\r\n\r\n") },
			Attempt{Outcome: ConnectionFailed, Cause: "no valid HTTP answer"},
		},
		{"headers of 31 KiB", func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nA: "+strings.Repeat("b", 31<<10)+"\r\n\r\n")
		}, Attempt{Outcome: Delivered, Status: 200}},
		{"headers of 33 KiB", func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nA: "+strings.Repeat("b", 33<<10)+"\r\n\r\n")
			untilClosed(conn)
		}, Attempt{Outcome: Delivered, Status: 200, Cause: sloppyAnswer}},
		{"interim answers, then the real one", func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")
		}, Attempt{Outcome: Delivered, Status: 200}},
		{"another protocol", func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
			untilClosed(conn)
		}, Attempt{Outcome: HTTPStatus, Status: 101}},
		{"dripping body", func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n1")
			untilClosed(conn)
		}, Attempt{Outcome: Delivered, Status: 200}},
		{"endless body", func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 410 Gone\r\n\r\n")
			forever(conn, strings.Repeat("a", 1024))
		}, Attempt{Outcome: Gone, Status: 410}},
		{"truncated body", func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n1")
		}, Attempt{Outcome: Delivered, Status: 200}},
		{"endless trailers", func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n0\r\n")
			forever(conn, "A: b\r\n")
		}, Attempt{Outcome: Delivered, Status: 200}},
		{"endless chunk extension", func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;")
			forever(conn, "aaaa")
		}, Attempt{Outcome: Delivered, Status: 200}},
		{"broken chunk", func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
			untilClosed(conn)
		}, Attempt{Outcome: Delivered, Status: 200}},
		{"two lengths", func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")
		}, Attempt{Outcome: Delivered, Status: 200, Cause: sloppyAnswer}},
		{
			"negative length", func(conn net.Conn) { _, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n") },
			Attempt{Outcome: Delivered, Status: 200, Cause: sloppyAnswer},
		},
		{
			"folded header", func(conn net.Conn) { _, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n A: b\r\n\r\n") },
			Attempt{Outcome: Delivered, Status: 200, Cause: sloppyAnswer},
		},
		{
			"sloppy refusal", func(conn net.Conn) { _, _ = io.WriteString(conn, "HTTP/1.0 410 Gone\r\nno colon\r\n\r\n") },
			Attempt{Outcome: Gone, Status: 410, Cause: sloppyAnswer},
		},
		{
			"sloppy failure", func(conn net.Conn) { _, _ = io.WriteString(conn, "HTTP/1.1 500\r\n: b\r\n\r\n") },
			Attempt{Outcome: HTTPStatus, Status: 500, Cause: sloppyAnswer},
		},
		{
			"status line alone", func(conn net.Conn) { _, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\n") },
			Attempt{Outcome: Delivered, Status: 204, Cause: sloppyAnswer},
		},
		{
			"half a status line", func(conn net.Conn) { _, _ = io.WriteString(conn, "HTTP/1.1 200") },
			Attempt{Outcome: ConnectionFailed, Cause: "connection closed before the answer"},
		},
		{"sloppy answer behind an interim one", func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nno colon\r\n\r\n")
		}, Attempt{Outcome: ConnectionFailed, Cause: "no valid HTTP answer"}},
		{
			"status beyond three digits", func(conn net.Conn) { _, _ = io.WriteString(conn, "HTTP/1.1 2000 OK\r\n\r\n") },
			Attempt{Outcome: ConnectionFailed, Cause: "no valid HTTP answer"},
		},
		{"status below 100", func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n")
		}, Attempt{Outcome: ConnectionFailed, Status: 99, Cause: "no valid HTTP answer"}},
		{"huge Retry-After", func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 429 Slow\r\nRetry-After: 99999999999999999999\r\n\r\n")
		}, Attempt{Outcome: Throttled, Status: 429, RetryAfter: 24 * time.Hour}},
		{
			"negative Retry-After", func(conn net.Conn) { _, _ = io.WriteString(conn, "HTTP/1.1 429 Slow\r\nRetry-After: -5\r\n\r\n") },
			Attempt{Outcome: HTTPStatus, Status: 429},
		},
		{"HTTP/2", func(conn net.Conn) {
			_, _ = conn.Write([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0}) // an empty SETTINGS frame
		}, Attempt{Outcome: ConnectionFailed, Cause: "no valid HTTP answer"}},
		{"HTTP/2's own preface", func(conn net.Conn) {
			_, _ = io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
			untilClosed(conn)
		}, Attempt{Outcome: ConnectionFailed, Cause: "no valid HTTP answer"}},
		{"TLS on a plain port", func(conn net.Conn) {
			_, _ = conn.Write([]byte{0x15, 0x03, 0x01, 0, 2, 2, 40, '\r', '\n', '\r', '\n'})
			untilClosed(conn)
		}, Attempt{Outcome: ConnectionFailed, Cause: "no valid HTTP answer"}},
		{"redirect to itself", func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 308 Again\r\nLocation: /\r\nContent-Length: 0\r\n\r\n")
		}, Attempt{Outcome: HTTPStatus, Status: 308, Cause: "redirects are not followed"}},
		{"compressed body that isn't", func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\n1")
		}, Attempt{Outcome: Delivered, Status: 200}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			target := receive(t, func(conn net.Conn) {
				readRequest(t, conn)
				test.serve(conn)
			})
			sender := localSender(t)
			if test.name == "endless body" {
				sender.drain = sender.exchange // its size has to end it
			}
			sender.exchange = time.Hour // which nothing waits for
			got := sender.Send(t.Context(), message(target.url))
			expect(t, got, test.want)
			if got.Address != target.address {
				t.Errorf("address is %q; want %q", got.Address, target.address)
			}
			if connections := target.connections.Load(); connections != 1 {
				t.Errorf("receiver got %d connections; want 1, without a retry", connections)
			}
		})
	}
}

func TestSendTooSlow(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		scheme, answer, cause string
	}{
		"no answer":                {"http://", "", "too slow while waiting for the answer"},
		"half a status line":       {"http://", "HTTP/1.1 200", "too slow while reading the answer"},
		"interim only":             {"http://", "HTTP/1.1 100 Continue\r\n\r\n", "too slow while reading the answer"},
		"half handshake":           {"https://", "", "too slow while shaking hands"},
		"dripping interim answers": {"http://", "drip 1xx", "too slow while reading the answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := receive(t, func(conn net.Conn) {
				if test.scheme == "http://" {
					readRequest(t, conn)
				}
				switch test.answer {
				case "drip 1xx":
					drip(conn, "HTTP/1.1 102 Processing\r\n\r\n")
				default:
					_, _ = io.WriteString(conn, test.answer)
					untilClosed(conn)
				}
			})
			withMoreTime(t, func(limit time.Duration) (bool, any) {
				sender := localSender(t)
				sender.exchange = limit
				sender.kept.pattern.TLSHandshakeTimeout = 50 * time.Millisecond
				got := sender.Send(t.Context(), message(test.scheme+target.address))
				// Pacing tells by Conn whether the receiver has taken the connection.
				return got.Outcome == Timeout && got.Cause == test.cause && (got.Conn == "") == (name == "half handshake"), got
			})
		})
	}
}

// The status line has decided, with any bytes behind it or none.
func TestSendTooSlowBehindTheStatusLine(t *testing.T) {
	t.Parallel()
	for name, serve := range map[string]func(net.Conn){
		"half a header": func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nA:")
			untilClosed(conn)
		},
		"dripping header": func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nA: ")
			drip(conn, "b")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := receive(t, func(conn net.Conn) {
				readRequest(t, conn)
				serve(conn)
			})
			withMoreTime(t, func(limit time.Duration) (bool, any) {
				sender := localSender(t)
				sender.exchange = limit
				got := sender.Send(t.Context(), message(target.url))
				return got.Outcome == Delivered && got.Status == 200 && got.Cause == sloppyAnswer, got
			})
		})
	}
}

// The memory of an attempt is bounded for any answer: 32 KiB of headers as net/http keeps
// them, 16 KiB of body, and the attempt itself.
func TestSendTakesLittleMemory(t *testing.T) {
	const most = 2 << 20 // bytes, nearly all of it for interim answers, and dropped at once
	var bomb bytes.Buffer
	writer := gzip.NewWriter(&bomb)
	_, _ = writer.Write(make([]byte, 32<<20))
	_ = writer.Close()
	for name, serve := range map[string]func(net.Conn){
		"endless headers":         func(conn net.Conn) { _, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n"); forever(conn, "A: b\r\n") },
		"endless header line":     func(conn net.Conn) { _, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nA: "); forever(conn, "bbbbbbbb") },
		"endless status line":     func(conn net.Conn) { forever(conn, "HTTP/1.1 200 ") },
		"endless interim answers": func(conn net.Conn) { forever(conn, "HTTP/1.1 103 \r\n\r\n") },
		"endless body":            func(conn net.Conn) { _, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n"); forever(conn, "aaaaaaaa") },
		"gzip bomb": func(conn net.Conn) {
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n", bomb.Len())
			_, _ = conn.Write(bomb.Bytes())
			untilClosed(conn)
		},
	} {
		t.Run(name, func(t *testing.T) {
			target := receive(t, func(conn net.Conn) {
				buffer := make([]byte, 1024)
				_, _ = conn.Read(buffer)
				serve(conn)
			})
			sender := localSender(t)
			sender.drain = sender.exchange // its size has to end it
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			sender.Send(t.Context(), message(target.url))
			runtime.ReadMemStats(&after)
			if took := after.TotalAlloc - before.TotalAlloc; took > most {
				t.Errorf("attempt allocated %d bytes; want at most %d", took, most)
			}
		})
	}
}
