package tracing

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// collector keeps the spans of each POST that it answers with 200.
type collector struct {
	*httptest.Server
	mu     sync.Mutex
	posts  int
	header http.Header
	spans  []*otlp.Span
}

// newCollector answers the nth POST with the nth status, and later POSTs with the last.
func newCollector(t *testing.T, statuses ...int) *collector {
	t.Helper()
	c := &collector{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var data otlp.TracesData
		if err = errors.Join(err, proto.Unmarshal(body, &data)); err != nil {
			t.Error(err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		status := statuses[min(c.posts, len(statuses)-1)]
		c.posts, c.header = c.posts+1, r.Header
		w.WriteHeader(status)
		if status != http.StatusOK {
			return
		}
		for _, resource := range data.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				c.spans = append(c.spans, scope.Spans...)
			}
		}
	}))
	t.Cleanup(c.Close)
	return c
}

// tracer is a tracer under test, with its log.
type tracer struct {
	*Tracer
	log      bytes.Buffer // to be read when the tracer has ended
	registry *prometheus.Registry
}

func newTracer(t *testing.T, url string) *tracer {
	t.Helper()
	made := &tracer{registry: prometheus.NewRegistry()}
	var err error
	made.Tracer, err = New(Config{
		URL: url, Headers: map[string]string{"Api-Key": "k"}, Service: "s", Version: "v", Sampler: "parentbased_always_on", Ratio: 1,
		Logger: slog.New(slog.NewTextHandler(&made.log, nil)), Metrics: made.registry,
	})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// make makes so many spans.
func (tr *tracer) make(n int) {
	for range n {
		tr.Work(WorkAttempt{Request: "r", Work: "w", Number: 1}, parent).Worked("succeeded", false, nil)
	}
}

func (tr *tracer) end(t *testing.T) {
	t.Helper()
	if err := tr.End(t.Context()); err != nil {
		t.Error(err)
	}
}

// spans reads a counter of spans.
func (tr *tracer) spans(t *testing.T, name string) float64 {
	t.Helper()
	families, err := tr.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			return family.Metric[0].Counter.GetValue()
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}

func (tr *tracer) check(t *testing.T, exported, lost float64) {
	t.Helper()
	if got, gone := tr.spans(t, "ringback_spans_exported_total"), tr.spans(t, "ringback_spans_lost_total"); got != exported || gone != lost {
		t.Errorf("got %v spans exported and %v lost, want %v and %v", got, gone, exported, lost)
	}
}

func TestCollectorThatIsBusyForAMoment(t *testing.T) {
	t.Parallel()
	c := newCollector(t, http.StatusServiceUnavailable, http.StatusOK)
	tr := newTracer(t, c.URL)
	tr.make(10)
	tr.end(t)
	if len(c.spans) != 10 || c.posts < 2 || tr.log.Len() > 0 {
		t.Errorf("got %d spans in %d POSTs, and the log %q, want 10, of which some were sent again, and no log", len(c.spans), c.posts, &tr.log)
	}
	if got := c.header; got.Get("Api-Key") != "k" || got.Get("Content-Type") != "application/x-protobuf" || got.Get("User-Agent") != "Ringback/v" {
		t.Errorf("got the header %v", got)
	}
	tr.check(t, 10, 0)
}

func TestCollectorThatRefusesIsToldOnce(t *testing.T) {
	t.Parallel()
	c := newCollector(t, http.StatusUnauthorized, http.StatusUnauthorized, http.StatusOK)
	tr := newTracer(t, c.URL)
	for range 3 { // batches
		tr.make(1)
		if err := tr.provider.ForceFlush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	tr.end(t)
	if told := strings.Count(tr.log.String(), "\n"); told != 2 || !strings.Contains(tr.log.String(), "the collector answered 401") || !strings.Contains(tr.log.String(), "traces_exported_again") {
		t.Errorf("got the log %s, want one line of the refusals and one of their end", &tr.log)
	}
	if c.posts != 3 {
		t.Errorf("got %d POSTs, want 3: spans that are refused for good are not sent again", c.posts)
	}
	tr.check(t, 1, 2)
}

func TestCollectorThatTakesAPart(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-protobuf")
		_, _ = w.Write([]byte("\x0a\x0a\x08\x03\x12\x06full\xffX\x10\x01")) // and a field of the future
	}))
	t.Cleanup(server.Close)
	tr := newTracer(t, server.URL)
	tr.make(10)
	tr.end(t)
	if !strings.Contains(tr.log.String(), "the collector rejected 3 spans: fullX") {
		t.Errorf("got the log %s", &tr.log)
	}
	tr.check(t, 7, 3)
}

func FuzzPartialOf(f *testing.F) {
	f.Add([]byte("\x0a\x0a\x08\x03\x12\x06full\xffX"))
	f.Add([]byte("\x0a\x7f\x08"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		if found := partialOf(answer); found != nil && (found.rejected < 1 || found.rejected > maxWaiting || len(found.why) > maxCause) {
			t.Errorf("%x: got %+v", answer, found)
		}
	})
}

// A collector takes connections and never answers.
func TestCollectorThatNeverAnswers(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	tr := newTracer(t, "http://"+listener.Addr().String())
	const made = maxWaiting + 1000
	tr.make(made) // which would never end, if it waited for the collector
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tr.End(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the end of the context", err)
	}
	if lost := tr.spans(t, "ringback_spans_lost_total"); lost < made-maxWaiting {
		t.Errorf("got %v spans lost of %d, want no more than %d waiting", lost, made, maxWaiting)
	}
}

func TestCallersDecisionIsKept(t *testing.T) {
	t.Parallel()
	c := newCollector(t, http.StatusOK)
	tr := newTracer(t, c.URL)
	unsampled := strings.TrimSuffix(parent, "01") + "00"
	for from, flags := range map[string]string{parent: "-01", unsampled: "-00", "": "-01"} {
		span := tr.Work(WorkAttempt{Request: "r", Work: "w", Number: 1}, from)
		got := span.Traceparent("none")
		if !strings.HasSuffix(got, flags) || got == from || from != "" && TraceID(got) != TraceID(parent) {
			t.Errorf("below %q: got %q, want another span of its trace, with the flags %s", from, got, flags)
		}
		span.Worked("succeeded", false, nil)
	}
	tr.end(t)
	if len(c.spans) != 2 {
		t.Errorf("got %d spans, want 2", len(c.spans))
	}
}

func TestWhatIsToldOfAFailure(t *testing.T) {
	t.Parallel()
	c := newCollector(t, http.StatusOK)
	tr := newTracer(t, c.URL)
	tr.Work(WorkAttempt{Request: "r", Work: "w", Number: 2}, parent).Worked("panic", true, errors.New(strings.Repeat("ä", maxCause)+"\nthe stack"))
	tr.end(t)
	if got := c.spans[0].Status.Message; got != strings.Repeat("ä", maxCause/2) {
		t.Errorf("got %q, want the first line, as far as it is told", got)
	}
}

// Without tracing, each step runs these calls.
func TestTracingCostsNothingWhenItIsOff(t *testing.T) {
	var off *Tracer
	id, request := uuid.New(), httptest.NewRequest(http.MethodPost, "/async", nil)
	failure := errors.New("failure")
	got := testing.AllocsPerRun(100, func() {
		call := off.Call(request, "/async", parent)
		_ = call.Traceparent(parent)
		call.Answered(Answer{Status: 503, Request: "r", Failure: failure})
		attempt := off.Work(WorkAttempt{Request: "r", Work: "w", Number: 1}, parent)
		_ = attempt.Traceparent(parent)
		attempt.Worked("code", true, failure)
		callback := off.Callback(id, "w", "https://example.com/", parent)
		_ = callback.Traceparent(parent)
		callback.CalledBack(Callback{Number: 1, Outcome: "delivered", Status: 200, At: time.Time{}})
		callback.NotMade(failure)
	})
	if err := off.End(t.Context()); got != 0 || err != nil {
		t.Errorf("got %v allocations, %v, want none", got, err)
	}
}
