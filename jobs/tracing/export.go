package tracing

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Protocol is the only protocol to the collector. The module for OTLP over HTTP brings
// gRPC all the same, with ninety packages and 2 MB of the program, so the few lines of a
// client stand below.
const Protocol = "http/protobuf"

// Config is the configuration of a Tracer.
type Config struct {
	URL      string // that spans are POSTed to
	Headers  map[string]string
	Service  string            // its name
	Version  string            // of it
	Resource map[string]string // further attributes of the resource
	Sampler  string            // one of Samplers
	Ratio    float64           // of the samplers with a ratio: the sampled part of traces
	Logger   *slog.Logger
	Metrics  prometheus.Registerer // nil for none
}

// samplers are the SDK's samplers, by their standard names. A sampler with a parent
// follows the caller's traceparent, if there is one.
var samplers = map[string]func(ratio float64) sdk.Sampler{
	"always_on":                func(float64) sdk.Sampler { return sdk.AlwaysSample() },
	"always_off":               func(float64) sdk.Sampler { return sdk.NeverSample() },
	"traceidratio":             sdk.TraceIDRatioBased,
	"parentbased_always_on":    func(float64) sdk.Sampler { return sdk.ParentBased(sdk.AlwaysSample()) },
	"parentbased_always_off":   func(float64) sdk.Sampler { return sdk.ParentBased(sdk.NeverSample()) },
	"parentbased_traceidratio": func(ratio float64) sdk.Sampler { return sdk.ParentBased(sdk.TraceIDRatioBased(ratio)) },
}

// Samplers are the names of the samplers.
func Samplers() []string { return slices.Sorted(maps.Keys(samplers)) }

const (
	// exportTimeout bounds the delivery of a batch, retries included.
	exportTimeout = 10 * time.Second
	// firstPause is before the second try of a batch; each further pause is twice as long.
	firstPause = 500 * time.Millisecond
)

// New makes a tracer. It doesn't connect. Nothing ever waits for the collector: spans do,
// and are dropped where too many of them wait.
func New(config Config) (*Tracer, error) {
	described, err := describe(config)
	if err != nil {
		return nil, fmt.Errorf("describing the service to the collector: %w", err)
	}
	client := &client{config: config, transport: &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
		TLSHandshakeTimeout: 3 * time.Second, ForceAttemptHTTP2: true, IdleConnTimeout: 45 * time.Second,
	}}
	exporter, err := otlptrace.New(context.Background(), client)
	if err != nil {
		return nil, fmt.Errorf("setting up the exporter of traces: %w", err)
	}
	provider := sdk.NewTracerProvider(
		sdk.WithSampler(samplers[config.Sampler](config.Ratio)), sdk.WithResource(described), sdk.WithSpanProcessor(newOutbox(exporter, config)))
	return &Tracer{provider: provider, tracer: provider.Tracer("ringback")}, nil
}

// describe tells which process speaks.
func describe(config Config) (*resource.Resource, error) {
	attributes := []attribute.KeyValue{attribute.String("service.version", config.Version)}
	for name, value := range config.Resource {
		attributes = append(attributes, attribute.String(name, value))
	}
	attributes = append(attributes, attribute.String("service.name", config.Service)) // the last of a name counts
	return resource.New(context.Background(), resource.WithTelemetrySDK(), resource.WithHost(), resource.WithAttributes(attributes...))
}

// End delivers the spans that wait, until ctx ends. Spans that end later are dropped.
func (t *Tracer) End(ctx context.Context) error {
	if t == nil {
		return nil
	}
	return t.provider.Shutdown(ctx)
}

// client POSTs spans to the collector.
type client struct {
	config    Config
	transport *http.Transport
}

// Start connects to nothing yet.
func (c *client) Start(context.Context) error { return nil }

// Stop closes idle connections.
func (c *client) Stop(context.Context) error {
	c.transport.CloseIdleConnections()
	return nil
}

// refusal is a status of the collector's other than 2xx.
type refusal int

func (r refusal) Error() string { return "the collector answered " + strconv.Itoa(int(r)) }

// passes tells whether a try may succeed later, by the specification of OTLP.
func passes(err error) bool {
	var refused refusal
	if _, taken := errors.AsType[*partial](err); taken {
		return false
	}
	if !errors.As(err, &refused) {
		return true // there was no answer
	}
	switch int(refused) {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// UploadTraces delivers spans. It tries again while ctx lasts and there is hope.
func (c *client) UploadTraces(ctx context.Context, spans []*otlp.ResourceSpans) error {
	// On the wire it is the same as the request of the collector's service.
	body, err := proto.Marshal(&otlp.TracesData{ResourceSpans: spans})
	if err != nil {
		return fmt.Errorf("encoding spans: %w", err)
	}
	for pause := firstPause; ; pause *= 2 {
		err := c.post(ctx, body)
		if err == nil || !passes(err) {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

const contentType = "application/x-protobuf"

// post sends spans once. It uses a transport rather than a client, which would follow a
// redirect with the headers, and whose errors hold the URL.
func (c *client) post(ctx context.Context, body []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.config.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("User-Agent", "Ringback/"+c.config.Version)
	for name, value := range c.config.Headers {
		request.Header.Set(name, value)
	}
	request.Header.Set("Content-Type", contentType)
	response, err := c.transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	const most = 64 << 10
	answer, err := io.ReadAll(io.LimitReader(response.Body, most)) // so that the connection can be used again
	switch found := partialOf(answer); {
	case response.StatusCode < 200 || response.StatusCode > 299:
		return refusal(response.StatusCode)
	case err == nil && response.Header.Get("Content-Type") == contentType && found != nil:
		return found
	}
	return nil
}

// maxWaiting is how many spans may wait for the collector. More are dropped.
const maxWaiting = 2048

// outbox holds the spans that wait for the collector. It counts lost spans, and logs why
// once for each kind of failure.
type outbox struct {
	sdk.SpanProcessor // the SDK's, which makes batches of them
	exporter          *otlptrace.Exporter
	logger            *slog.Logger
	exported, lost    prometheus.Counter
	waiting           atomic.Int64

	mu      sync.Mutex
	trouble string               // the kind of the last failure, empty after a success
	told    map[string]time.Time // when each kind was told last
}

// tellInterval is the least time between two lines about a kind of failure.
const tellInterval = 10 * time.Minute

func newOutbox(exporter *otlptrace.Exporter, config Config) *outbox {
	auto := promauto.With(config.Metrics)
	o := &outbox{
		exporter: exporter, logger: config.Logger, told: map[string]time.Time{},
		exported: auto.NewCounter(prometheus.CounterOpts{Name: "ringback_spans_exported_total", Help: "Spans that the collector of traces took."}),
		lost:     auto.NewCounter(prometheus.CounterOpts{Name: "ringback_spans_lost_total", Help: "Spans that the collector of traces did not take, or not in time."}),
	}
	o.SpanProcessor = sdk.NewBatchSpanProcessor(batches{o}, sdk.WithMaxQueueSize(maxWaiting), sdk.WithExportTimeout(exportTimeout))
	return o
}

var errFull = errors.New("too many spans wait for the collector")

// OnEnd takes a span, if there is room.
func (o *outbox) OnEnd(span sdk.ReadOnlySpan) {
	if o.waiting.Add(1) > maxWaiting {
		o.waiting.Add(-1)
		o.lost.Inc()
		o.note(errFull, time.Now())
		return
	}
	o.SpanProcessor.OnEnd(span)
}

// batches is the way of an outbox to the collector.
type batches struct{ *outbox }

// ExportSpans returns no error, since the SDK would log it a second time.
func (b batches) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	err, lost := b.exporter.ExportSpans(ctx, spans), 0
	if part, taken := errors.AsType[*partial](err); taken {
		lost = min(part.rejected, len(spans))
	} else if err != nil {
		lost = len(spans)
	}
	b.lost.Add(float64(lost))
	b.exported.Add(float64(len(spans) - lost))
	b.waiting.Add(-int64(len(spans)))
	b.note(err, time.Now())
	return nil
}

// Shutdown closes the way.
func (b batches) Shutdown(ctx context.Context) error { return b.exporter.Shutdown(ctx) }

func (o *outbox) note(err error, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	kind, before := kindOf(err), o.trouble
	o.trouble = kind
	if kind == before || now.Sub(o.told[kind]) < tellInterval {
		return
	}
	o.told[kind] = now
	if err == nil {
		o.logger.Info("traces_exported_again")
		return
	}
	o.logger.Warn("traces_not_exported", "error", err,
		"remedy", "see that the collector at OTEL_EXPORTER_OTLP_ENDPOINT takes OTLP over HTTP; spans are lost meanwhile, and nothing else")
}

// kindOf is the kind of a failure: failures of a kind share a log line.
func kindOf(err error) string {
	var refused refusal
	var errno syscall.Errno
	var lookup *net.DNSError
	var timed net.Error
	_, taken := errors.AsType[*partial](err)
	switch {
	case err == nil:
		return ""
	case taken:
		return "partial"
	case errors.Is(err, errFull):
		return errFull.Error()
	case errors.As(err, &refused):
		return refused.Error()
	case errors.As(err, &lookup):
		return "name resolution"
	case errors.As(err, &errno):
		return errno.Error()
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timed) && timed.Timeout():
		return "timeout"
	}
	return "other"
}
