package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/receivers"
	"ringback/cmd/internal/sample"
)

// service acts as Ringback. Its fields make it misbehave; the zero value does everything
// right. n counts requests of the same path from 1.
type service struct {
	onSync  func(n int, w http.ResponseWriter)
	onAsync func(n int, job job, w http.ResponseWriter)
	onGet   func(id string, w http.ResponseWriter) // knows no request otherwise
	works   string                                 // the work in GET /works; none otherwise

	url         string
	syncCount   atomic.Int32
	asyncCount  atomic.Int32
	calls       sync.WaitGroup
	lastRequest atomic.Pointer[http.Request]
	lastBody    atomic.Pointer[map[string]any]
}

// job is an accepted request, ready to be called back.
type job struct {
	t      *testing.T
	client *http.Client
	id     string
	url    string
	input  any
}

// callBackLate is an onAsync that calls back a while after the acknowledgement.
func (s *service) callBackLate(_ int, job job, w http.ResponseWriter) {
	accept(job, w)
	called := make(chan struct{})
	time.AfterFunc(300*time.Millisecond, func() {
		defer close(called)
		job.callBack(job.id, "succeeded")
	})
	s.later(func() { <-called })
}

func jobID(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }

func start(t *testing.T, s *service) *service {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 64} // the default of 2 would dial for most callbacks
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	if s.works != "" {
		mux.HandleFunc("GET /works", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"default":"one","works":[{"name":"one",%s}]}`, s.works)
		})
	}
	work := ""
	if strings.Contains(s.works, `"fingerprint"`) {
		work = "/fingerprint"
	}
	mux.HandleFunc("POST /sync"+work, func(w http.ResponseWriter, r *http.Request) {
		s.note(t, r)
		n := int(s.syncCount.Add(1))
		if s.onSync != nil {
			s.onSync(n, w)
			return
		}
		answerSync(n, w)
	})
	mux.HandleFunc("POST /async"+work, func(w http.ResponseWriter, r *http.Request) {
		body := s.note(t, r)
		n := int(s.asyncCount.Add(1))
		job := job{t, client, jobID(n), fmt.Sprint(body["callback_url"]), body["input"]}
		if s.onAsync != nil {
			s.onAsync(n, job, w)
			return
		}
		accept(job, w)
		s.later(func() { job.callBack(job.id, "succeeded") })
	})
	mux.HandleFunc("GET /requests/{id}", func(w http.ResponseWriter, r *http.Request) {
		if s.onGet == nil {
			http.NotFound(w, r)
			return
		}
		s.onGet(r.PathValue("id"), w)
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
	j.post(j.url, j.body(id, status))
}

func (j job) body(id, status string) string {
	return fmt.Sprintf(`{"type":"request.%[2]s","data":{"id":%[1]q,"status":%[2]q,"result":%[3]s}}`,
		id, status, j.result())
}

// result is the work's result for the job's input.
func (j job) result() string {
	input, err := json.Marshal(j.input)
	if err != nil {
		j.t.Error(err)
	}
	result, err := sample.Do(j.t.Context(), input)
	if err != nil && j.t.Context().Err() == nil {
		j.t.Error(err)
	}
	return string(result)
}

// post returns the status, or 0 when nobody listens any more: a storm that
// knows all it wants to know doesn't wait for duplicates.
func (j job) post(url, body string) int {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		j.t.Error(err)
		return 0
	}
	request.Header = sign(j.t, j, body, receivers.LocalSecret)
	response, err := j.client.Do(request)
	if err != nil {
		return 0
	}
	response.Body.Close()
	return response.StatusCode
}

// output is the output of a run.
type output struct {
	status         int
	stdout, stderr string
	report         load.Report // as its JSON tells it; zero when there is none
}

func runStorm(t *testing.T, args ...string) output {
	t.Helper()
	return runStormUntil(t, t.Context(), args...)
}

func runStormUntil(t *testing.T, ctx context.Context, args ...string) output {
	t.Helper()
	var stdout, stderr bytes.Buffer
	noEnv := func(string) string { return "" }
	file := filepath.Join(t.TempDir(), "report.json")
	status := run(ctx, append(args, "-json", file), noEnv, &stdout, &stderr)
	return output{status, stdout.String(), stderr.String(), reportOf(t, file)}
}

// runStormPlainly runs a command that writes no report.
func runStormPlainly(t *testing.T, args ...string) output {
	t.Helper()
	var stdout, stderr bytes.Buffer
	status := run(t.Context(), args, func(string) string { return "" }, &stdout, &stderr)
	return output{status: status, stdout: stdout.String(), stderr: stderr.String()}
}

func reportOf(t *testing.T, file string) load.Report {
	t.Helper()
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return load.Report{}
	}
	if err != nil {
		t.Fatal(err)
	}
	var report load.Report
	if err := json.Unmarshal(text, &report); err != nil {
		t.Fatalf("decoding %s: %v", text, err)
	}
	return report
}

// against is 40 requests, half of them async, within 200 ms.
func against(s *service, more ...string) []string {
	return append([]string{"-target", s.url, "-rate", "200", "-duration", "200ms", "-connections", "64"}, more...)
}

// requests are the counts of an endpoint, without zeros.
type requests struct{ ok, shed, rejected, failed, ambiguous, unsent int }

func (o output) wantRequests(t *testing.T, name string, got load.Endpoint, want requests) {
	t.Helper()
	counts := requests{got.OK, got.Shed, got.Rejected, got.Failed, got.Ambiguous, got.Unsent}
	if counts != want {
		t.Errorf("%s: got %+v, want %+v\n%s", name, counts, want, o.stdout)
	}
	if sum := got.OK + got.Shed + got.Rejected + got.Failed + got.Ambiguous; got.Sent != sum {
		t.Errorf("%s: %d sent, but outcomes add up to %d", name, got.Sent, sum)
	}
}

func (o output) wantSync(t *testing.T, want requests) {
	t.Helper()
	o.wantRequests(t, "sync", o.report.Sync, want)
}

func (o output) wantAsync(t *testing.T, want requests) {
	t.Helper()
	o.wantRequests(t, "async", o.report.Async.Endpoint, want)
}

// callbacks are the counts of callbacks, without zeros.
type callbacks struct{ delivered, dead, pending, missing, mismatched, duplicates, orphans int }

func (o output) wantCallbacks(t *testing.T, want callbacks) {
	t.Helper()
	a := o.report.Async
	got := callbacks{a.Delivered, a.Dead, a.Pending, a.Missing, a.Mismatched, a.Duplicates, a.Orphans}
	if got != want {
		t.Errorf("callbacks: got %+v, want %+v\n%s", got, want, o.stdout)
	}
	if sum := a.Delivered + a.Dead + a.Pending + a.Missing; a.Acked != sum || a.Acked != a.OK {
		t.Errorf("%d acked of %d ok, but fates add up to %d", a.Acked, a.OK, sum)
	}
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
