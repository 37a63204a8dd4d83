package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// service acts as Ringback. Its fields are what a test makes it do; the zero
// value does everything right. n counts requests of the same path from 1.
type service struct {
	onSync  func(n int, w http.ResponseWriter)
	onAsync func(n int, job job, w http.ResponseWriter)

	url         string
	syncCount   atomic.Int32
	asyncCount  atomic.Int32
	calls       sync.WaitGroup
	lastRequest atomic.Pointer[http.Request]
	lastBody    atomic.Pointer[map[string]any]
}

// job is an accepted request, ready to be called back.
type job struct {
	t   *testing.T
	id  string
	url string
}

func jobID(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }

func start(t *testing.T, s *service) *service {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /sync", func(w http.ResponseWriter, r *http.Request) {
		s.note(t, r)
		n := int(s.syncCount.Add(1))
		if s.onSync != nil {
			s.onSync(n, w)
			return
		}
		answerSync(n, w)
	})
	mux.HandleFunc("POST /async", func(w http.ResponseWriter, r *http.Request) {
		body := s.note(t, r)
		n := int(s.asyncCount.Add(1))
		job := job{t, jobID(n), fmt.Sprint(body["callback_url"])}
		if s.onAsync != nil {
			s.onAsync(n, job, w)
			return
		}
		accept(job, w)
		s.later(func() { job.callBack(job.id, "succeeded") })
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	t.Cleanup(s.calls.Wait)
	s.url = server.URL
	return s
}

func (s *service) note(t *testing.T, r *http.Request) map[string]any {
	var body map[string]any
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		t.Errorf("decoding the body of %s: %v", r.URL.Path, err)
	}
	s.lastRequest.Store(r)
	s.lastBody.Store(&body)
	return body
}

// later runs f in the background; the test waits for it at its end.
func (s *service) later(f func()) { s.calls.Go(f) }

func answerSync(n int, w http.ResponseWriter) {
	fmt.Fprintf(w, `{"id":%q,"mode":"sync","status":"succeeded","result":{}}`, jobID(n))
}

func accept(job job, w http.ResponseWriter) {
	w.WriteHeader(http.StatusAccepted)
	fmt.Fprintf(w, `{"id":%q,"status":"accepted","accepted_at":"2026-01-01T00:00:00Z"}`, job.id)
}

func (j job) callBack(id, status string) {
	j.post(j.url, fmt.Sprintf(`{"type":"request.%[2]s","data":{"id":%[1]q,"status":%[2]q}}`, id, status))
}

// post returns the status, or 0 when nobody listens any more: a storm that
// knows all it wants to know doesn't wait for duplicates.
func (j job) post(url, body string) int {
	response, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		return 0
	}
	response.Body.Close()
	return response.StatusCode
}

// output is what a run left behind.
type output struct {
	status         int
	stdout, stderr string
}

func runStorm(t *testing.T, args ...string) output {
	t.Helper()
	return runStormUntil(t, t.Context(), args...)
}

func runStormUntil(t *testing.T, ctx context.Context, args ...string) output {
	t.Helper()
	var stdout, stderr bytes.Buffer
	noEnv := func(string) string { return "" }
	status := run(ctx, args, noEnv, &stdout, &stderr)
	return output{status, stdout.String(), stderr.String()}
}

// against is 40 requests, half of them async, within 200 ms.
func against(s *service, more ...string) []string {
	return append([]string{"-target", s.url, "-rate", "200", "-duration", "200ms"}, more...)
}

// wantRow checks the cells of a table row, found by its name.
func (o output) wantRow(t *testing.T, name string, want ...int) {
	t.Helper()
	row := regexp.MustCompile(`(?m)^  ` + name + ` +(\d.*)$`).FindStringSubmatch(o.stdout)
	if row == nil {
		t.Fatalf("no row %q in:\n%s%s", name, o.stdout, o.stderr)
	}
	if got, want := fmt.Sprint(strings.Fields(row[1])), fmt.Sprint(want); got != want {
		t.Errorf("row %q: got %s, want %s\n%s", name, got, want, o.stdout)
	}
}

// millis returns one cell of a row of latencies.
func (o output) millis(t *testing.T, name string, column int) float64 {
	t.Helper()
	row := regexp.MustCompile(`(?m)^  ` + name + ` +(\d.*)$`).FindStringSubmatch(o.stdout)
	if row == nil {
		t.Fatalf("no row %q in:\n%s%s", name, o.stdout, o.stderr)
	}
	var value float64
	if _, err := fmt.Sscan(strings.Fields(row[1])[column], &value); err != nil {
		t.Fatalf("reading column %d of %q: %v", column, row[0], err)
	}
	return value
}

func (o output) want(t *testing.T, status int, phrases ...string) {
	t.Helper()
	if o.status != status {
		t.Errorf("exit status: got %d, want %d", o.status, status)
	}
	for _, phrase := range phrases {
		if !strings.Contains(o.stdout+o.stderr, phrase) {
			t.Errorf("%q is missing in the output", phrase)
		}
	}
	if t.Failed() {
		t.Logf("stdout:\n%s\nstderr:\n%s", o.stdout, o.stderr)
	}
}

const (
	// Columns of the latency table.
	median  = 1
	slowest = 4
)
