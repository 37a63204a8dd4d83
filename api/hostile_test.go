package api_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"ringback/api"
	"ringback/api/contract"
	"ringback/db/dbtest"
)

// open sends the head of a call and the given part of its body, and returns the connection.
func (s *service) open(t *testing.T, head, body string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(dbtest.Patience)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "%s\r\nHost: localhost\r\n\r\n%s", head, body)
	return conn
}

func TestBodiesThatDoNotArrive(t *testing.T) {
	t.Parallel()
	patient, brief := newService(t, nil), newService(t, func(c *api.Config) { c.BodyTimeout = time.Millisecond })
	tests := []struct {
		name, head string
		want       int
		atOnce     bool
	}{
		{"ForAnAddressThatTakesNone", "GET /livez HTTP/1.1\r\nContent-Length: 1000", 200, true},
		{"ForNoAddress", "POST /nope HTTP/1.1\r\nContent-Length: 1000", 404, true},
		{"ForAnotherMethod", "PUT /sync HTTP/1.1\r\nTransfer-Encoding: chunked", 405, true},
		{"OfAnotherType", "POST /sync HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 1000", 415, true},
		{"OfADeclaredSizeThatIsTooLarge", "POST /sync HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 262145", 413, true},
		{"AtAll", "POST /sync HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 1000", 408, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := brief
			if test.atOnce {
				s = patient // the body's time outlasts this test
			}
			in := bufio.NewReader(s.open(t, test.head, ""))
			response, err := http.ReadResponse(in, nil)
			if err != nil || response.StatusCode != test.want {
				t.Fatalf("got %v, %v, want %d", response, err, test.want)
			}
			contract.CheckRaw(t, test.head, response)
			if _, err := bytes.NewBuffer(nil).ReadFrom(response.Body); err != nil {
				t.Fatal(err)
			}
			if _, err := in.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the connection stays open for the rest of the body: %v", err)
			}
		})
	}
}

func TestHostileQueriesAreMistakesOfTheCaller(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	long := strings.Repeat("x", 5000)
	for query, named := range map[string]string{"%ff=1": "\uFFFD", long + "=1": long[:200] + "…", "mode=%ff": "mode"} {
		got := s.call(t, "GET", "/requests?"+query, "")
		s.wantProblem(t, got, http.StatusBadRequest, "invalid-parameter", named)
		if len(got.body) > 1000 {
			t.Errorf("%.30s: got %d bytes, want the name cut short", query, len(got.body))
		}
	}
	unknown := `{"input":{"text":"x","` + strings.Repeat("x", 100_000) + `":1}}`
	if got := s.call(t, "POST", "/sync", unknown); got.status != http.StatusUnprocessableEntity || len(got.body) > 1000 {
		t.Errorf("a long unknown field: got %d with %d bytes, want 422 with the name cut short", got.status, len(got.body))
	}
	for _, path := range []string{"/requests/", "/sync/"} {
		s.wantProblem(t, s.call(t, "GET", path, ""), http.StatusNotFound, "not-found")
	}
}

func TestCallerThatHangsUpIsNoErrorOfOurs(t *testing.T) {
	t.Parallel()
	logged := make(chan string, 100)
	s := newService(t, func(c *api.Config) { c.Logger = slog.New(slog.NewTextHandler(lines(logged), nil)) })
	conn := s.open(t, "GET /requests HTTP/1.1", "")
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close() // resets
	select {
	case line := <-logged:
		if strings.Contains(line, "level=ERROR") {
			t.Errorf("got %s, want no error", line)
		}
	case <-time.After(dbtest.Patience):
		t.Fatal("waited in vain for the log line")
	}
}

// lines is a writer that hands on each line.
type lines chan string

func (l lines) Write(line []byte) (int, error) {
	l <- string(line)
	return len(line), nil
}
