package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"ringback/db/dbtest"
	"ringback/work/fingerprint"
)

func TestCallThatTellsItsLengthTwiceEndsItsConnection(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), nil, fingerprint.Do)
	body := `{"input":{"text":"x"}}`
	chunked := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	head := "POST /sync HTTP/1.1\r\nHost: " + strings.TrimPrefix(p.url, "http://") + "\r\nContent-Type: application/json\r\n"
	for name, test := range map[string]struct {
		call  string
		close bool
	}{
		"Length":                   {head + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body)) + body, false},
		"Chunks":                   {head + "Transfer-Encoding: chunked\r\n\r\n" + chunked, false},
		"ChunksWithTheLengthAfter": {head + "Transfer-Encoding: chunked\r\ncontent-LENGTH: 5\r\n\r\n" + chunked, true},
		"ChunksWithTheLengthFirst": {head + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked, true},
	} {
		for _, size := range []int{len(test.call), 7, 1} {
			response := p.sendInParts(t, test.call, size)
			for response.StatusCode == http.StatusServiceUnavailable && t.Context().Err() == nil { // on a busy machine
				response = p.sendInParts(t, test.call, size)
			}
			if response.StatusCode != http.StatusOK || response.Close != test.close {
				t.Errorf("%s in parts of %d: got %s, closed %v, want 200, closed %v", name, size, response.Status, response.Close, test.close)
			}
		}
	}
}

// sendInParts sends bytes on a connection of their own, and returns the head of the answer.
func (p *program) sendInParts(t *testing.T, call string, size int) *http.Response {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for rest := call; rest != ""; {
		n := min(size, len(rest))
		if _, err := conn.Write([]byte(rest[:n])); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("in parts of %d: %v", size, err)
	}
	return response
}

func TestHeadScan(t *testing.T) {
	t.Parallel()
	const head = "POST / HTTP/1.1\r\nHost: a:80\r\nCONTENT-length: 5\r\nAccept: */*\r\n"
	for size := 1; size <= len(head); size++ {
		var s headScan
		for rest := head; rest != ""; {
			n := min(size, len(rest))
			s.scan([]byte(rest[:n]))
			rest = rest[n:]
		}
		if !s.length.Load() {
			t.Errorf("in parts of %d it isn't found", size)
		}
	}
	var none headScan
	none.scan([]byte("POST / HTTP/1.1\r\nContent-Type: x\r\nX-Length: 5\r\n"))
	if none.length.Load() {
		t.Error("found where there is none")
	}
}
