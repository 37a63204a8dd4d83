package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"ringback/db/dbtest"
	"ringback/jobs/webhook"
	"ringback/work/fingerprint"
)

// span is a span as a collector shows it.
type span struct {
	id, parent, trace string
	*otlp.Span
	tells map[string]string // attributes
}

// collector keeps the spans that it gets.
type collector struct {
	*httptest.Server
	mu       sync.Mutex
	header   http.Header
	resource map[string]string
	spans    []span
	raw      strings.Builder // all that came, as text
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var data otlp.TracesData
		if err = errors.Join(err, proto.Unmarshal(body, &data)); err != nil {
			t.Error(err)
		}
		c.take(r.Header, &data)
	})
	c.Server = httptest.NewServer(mux)
	t.Cleanup(c.Close)
	return c
}

func (c *collector) take(header http.Header, data *otlp.TracesData) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.header = header
	fmt.Fprintln(&c.raw, prototext.Format(data))
	for _, resource := range data.ResourceSpans {
		c.resource = map[string]string{}
		for _, attribute := range resource.Resource.Attributes {
			c.resource[attribute.Key] = attribute.Value.GetStringValue()
		}
		for _, scope := range resource.ScopeSpans {
			for _, s := range scope.Spans {
				c.spans = append(c.spans, spanOf(s))
			}
		}
	}
}

func spanOf(s *otlp.Span) span {
	tells := map[string]string{}
	for _, attribute := range s.Attributes {
		value, _ := prototext.Marshal(attribute.Value)
		_, told, _ := strings.Cut(string(value), ":")
		tells[attribute.Key] = strings.Trim(strings.TrimSpace(told), `"`)
	}
	return span{hex.EncodeToString(s.SpanId), hex.EncodeToString(s.ParentSpanId), hex.EncodeToString(s.TraceId), s, tells}
}

// named returns the spans of a name, in the order in which they began.
func (c *collector) named(t *testing.T, name string, want int) []span {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	refused := map[string]bool{} // by a busy machine, and called again
	for _, s := range c.spans {
		refused[s.id] = s.tells["http.response.status_code"] == "503"
	}
	var found []span
	for _, s := range c.spans {
		if s.Name == name && !refused[s.id] && !refused[s.parent] {
			found = append(found, s)
		}
	}
	if len(found) != want {
		t.Fatalf("got %d spans named %q, want %d, in:\n%s", len(found), name, want, &c.raw)
	}
	slices.SortFunc(found, func(a, b span) int { return int(a.StartTimeUnixNano) - int(b.StartTimeUnixNano) })
	return found
}

// check compares the attributes of a span. An empty value is forbidden in the span.
func (s span) check(t *testing.T, parent string, kind otlp.Span_SpanKind, failed bool, tells map[string]string) {
	t.Helper()
	if s.parent != parent || s.Kind != kind || (s.Status.GetCode() == otlp.Status_STATUS_CODE_ERROR) != failed {
		t.Errorf("%s: got a %s span below %s with status %v, want a %s span below %s, failed: %v", s.Name, s.Kind, s.parent, s.Status, kind, parent, failed)
	}
	for name, want := range tells {
		if s.tells[name] != want {
			t.Errorf("%s: got %s %q, want %q", s.Name, name, s.tells[name], want)
		}
	}
}

const (
	callerTrace = "0af7651916cd43dd8448eb211c80319c"
	callerSpan  = "b7ad6b7169203331"
)

// postTraced posts with a traceparent.
func (p *program) postTraced(t *testing.T, path, body, traceparent string) (id string) {
	t.Helper()
	call, err := http.NewRequest(http.MethodPost, p.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	call.Header.Set("Content-Type", "application/json")
	call.Header.Set("Traceparent", traceparent)
	response, err := http.DefaultClient.Do(call)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer request
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || response.StatusCode > 299 {
		t.Fatalf("POST %s: got %s, %v", path, response.Status, err)
	}
	return answer.ID
}

func TestOneTraceLeadsFromTheCallToEachAttempt(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	parents := make(chan string, 10) // headers that the service got
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		parents <- r.Header.Get("Traceparent")
		fmt.Fprint(w, `{"secret":"result"}`)
	}))
	t.Cleanup(upstream.Close)
	var posts atomic.Int64
	r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
		if posts.Add(1) == 1 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	p := startHere(t, dbtest.New(t), map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": c.URL, "OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%20key", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
		"OTEL_SERVICE_NAME": "callbacks", "WORK_URL": upstream.URL + "/work", "WORK_SECRET": webhook.NewSecret(),
	}, fingerprint.Do)
	traceparent := "00-" + callerTrace + "-" + callerSpan + "-01"
	id := p.postTraced(t, "/async", asyncBody(`"a secret input"`, r.URL+"/secret/path?secret=query"), traceparent)
	sent := []string{r.next(t).header.Get("Traceparent"), r.next(t).header.Get("Traceparent")}
	p.waitFor(t, id, "delivered", func(r request) bool { return r.CallbackState == "delivered" })
	syncID := p.postTraced(t, "/sync/upstream", `{"input":"a secret input"}`, traceparent)
	if err := p.waitStopped(t); err != nil {
		t.Fatal(err)
	}

	const server, client, internal = otlp.Span_SPAN_KIND_SERVER, otlp.Span_SPAN_KIND_CLIENT, otlp.Span_SPAN_KIND_INTERNAL
	accept := c.named(t, "POST /async", 1)[0]
	accept.check(t, callerSpan, server, false, map[string]string{
		"http.request.method": "POST", "http.route": "/async", "url.path": "/async", "http.response.status_code": "202",
		"server.address": "127.0.0.1", "ringback.request_id": id, "ringback.work": "upstream", "error.type": "",
	})
	works := c.named(t, "work upstream", 2)
	works[0].check(t, accept.id, client, false, map[string]string{"ringback.request_id": id, "ringback.work": "upstream", "ringback.attempt": "1", "ringback.outcome": "succeeded"})
	callbacks := c.named(t, "callback", 2)
	callbacks[0].check(t, accept.id, client, true, map[string]string{
		"ringback.request_id": id, "ringback.attempt": "1", "ringback.outcome": "http_status", "http.response.status_code": "500", "error.type": "500",
		"server.address": "127.0.0.1", "http.request.method": "POST", "url.path": "", "url.full": "",
	})
	callbacks[1].check(t, accept.id, client, false, map[string]string{"ringback.attempt": "2", "ringback.outcome": "delivered", "http.response.status_code": "200", "error.type": ""})
	answer := c.named(t, "POST /sync/:work", 1)[0]
	answer.check(t, callerSpan, server, false, map[string]string{"url.path": "/sync/upstream", "ringback.request_id": syncID, "http.response.status_code": "200"})
	works[1].check(t, answer.id, client, false, map[string]string{"ringback.request_id": syncID})
	for n, callback := range callbacks {
		if want := "00-" + callerTrace + "-" + callback.id + "-01"; sent[n] != want {
			t.Errorf("callback %d carries %q, want %q", n+1, sent[n], want)
		}
		if callback.EndTimeUnixNano < callback.StartTimeUnixNano {
			t.Errorf("callback %d ends before it starts", n+1)
		}
	}
	for _, s := range works {
		if got, want := <-parents, "00-"+callerTrace+"-"+s.id+"-01"; got != want {
			t.Errorf("the service that does the work got %q, want %q", got, want)
		}
	}
	for _, s := range c.spans {
		if s.trace != callerTrace || s.Kind == internal {
			t.Errorf("got %s in trace %s as %s, want it in the caller's, and no internal span", s.Name, s.trace, s.Kind)
		}
	}
	if strings.Contains(c.raw.String(), "secret") {
		t.Errorf("the spans tell a secret:\n%s", &c.raw)
	}
	if c.header.Get("Api-Key") != "a key" || c.resource["service.name"] != "callbacks" || c.resource["deployment.environment.name"] != "test" || c.resource["service.version"] == "" {
		t.Errorf("got the headers %v and the resource %v", c.header, c.resource)
	}
	for _, line := range []string{"msg=http_request", "msg=work_finished", "msg=callback_attempt"} {
		for logged := range strings.Lines(p.log.String()) {
			if strings.Contains(logged, line) && strings.Contains(logged, id) && !strings.Contains(logged, "trace_id="+callerTrace) && !strings.Contains(logged, "method=GET") {
				t.Errorf("the log tells no trace: %s", logged)
			}
		}
	}
}

// A caller may decide that its call isn't traced; the later spans follow that decision.
func TestCallThatIsNotSampledHasNoSpan(t *testing.T) {
	t.Parallel()
	c, r := newCollector(t), newReceiver(t, nil)
	p := startHere(t, dbtest.New(t), map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": c.URL + "/v1/traces"}, fingerprint.Do)
	p.postTraced(t, "/async", asyncBody(`{"text":"x"}`, r.URL), "00-"+callerTrace+"-"+callerSpan+"-00")
	carried := r.next(t).header.Get("Traceparent")
	if !strings.HasPrefix(carried, "00-"+callerTrace+"-") || !strings.HasSuffix(carried, "-00") {
		t.Errorf("the callback carries %q, want the caller's trace, not sampled", carried)
	}
	p.postTraced(t, "/sync", `{"input":{"text":"x"}}`, "00-"+callerTrace+"-"+callerSpan+"-01")
	if err := p.waitStopped(t); err != nil {
		t.Fatal(err)
	}
	c.named(t, "POST /sync", 1)
	c.named(t, "work fingerprint", 1)
	c.named(t, "POST /async", 0)
	c.named(t, "callback", 0)
}

func TestRefusedCallHasASpanOfItsOwn(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	p := startHere(t, dbtest.New(t), map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": c.URL + "/"}, fingerprint.Do)
	if status, _, err := p.post("/sync", `{"input":{"text":""}}`); err != nil || status != http.StatusUnprocessableEntity {
		t.Fatalf("got %d, %v, want 422", status, err)
	}
	if err := p.waitStopped(t); err != nil {
		t.Fatal(err)
	}
	c.named(t, "POST /sync", 1)[0].check(t, "", otlp.Span_SPAN_KIND_SERVER, false, map[string]string{
		"http.response.status_code": "422", "ringback.problem": "invalid-input", "error.type": "",
	})
}

// A collector that takes connections and says nothing.
func TestCollectorThatIsDeadHoldsNothingUp(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	r := newReceiver(t, nil)
	p := startHere(t, dbtest.New(t), map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://" + listener.Addr().String()}, fingerprint.Do)
	for range 20 {
		p.accept(t, `{"text":"x"}`, r.URL)
		r.next(t)
	}
	if err := p.waitStopped(t); err != nil {
		t.Fatal(err)
	}
	if log := p.log.String(); !strings.Contains(log, "what=traces") {
		t.Errorf("the log doesn't tell that the last traces are lost:\n%s", log)
	}
}

func TestTracesURL(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		environ []string
		want    string
	}{
		{nil, ""},
		{[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318"}, "http://c:4318/v1/traces"},
		{[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=https://c/base/"}, "https://c/base/v1/traces"},
		{[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://t/here"}, "http://t/here"},
		{[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318", "OTEL_TRACES_EXPORTER=none"}, ""},
		{[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318", "OTEL_SDK_DISABLED=true", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}, ""},
		{[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf"}, "http://c:4318/v1/traces"},
	} {
		config, err := readConfig(parsedEnvironment(test.environ...), options{dev: true}, works)
		if got := config.tracesURL(); err != nil || got != test.want {
			t.Errorf("%q: got %q, %v, want %q", test.environ, got, err, test.want)
		}
	}
}
