// Package tracing tells an OpenTelemetry collector the life of requests. A span is a call
// that asks for work, an attempt at the work, or an attempt at the callback:
//
//	the caller's span ── POST /async ──┬── work, attempt 1
//	                                   ├── work, attempt 2
//	                                   ├── callback, attempt 1
//	                                   └── callback, attempt 2
//
// The traceparent of the call is stored with the request and leads from one process to
// the next, so that no attempt needs to know another. No span holds a body, a header, a
// query, or the path of a callback URL, which may be a secret.
package tracing

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Tracer makes spans. A nil Tracer makes none, and costs nothing.
type Tracer struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
}

// Span is something that is under way, until it is told how it ended. The zero Span is
// none.
type Span struct{ span trace.Span }

// carried is the name by which a carrier holds a trace context.
const carried = "traceparent"

// start begins a span below the span of a traceparent, or a new trace without a
// traceparent.
func (t *Tracer) start(name string, kind trace.SpanKind, parent string, attributes ...attribute.KeyValue) Span {
	ctx := context.Background()
	if parent != "" {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{carried: parent})
	}
	_, span := t.tracer.Start(ctx, name, trace.WithSpanKind(kind), trace.WithAttributes(attributes...))
	return Span{span}
}

// Traceparent is the traceparent of the span, for its calls and for later spans. Where
// nothing is traced, it is otherwise.
func (s Span) Traceparent(otherwise string) string {
	if s.span == nil {
		return otherwise
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(trace.ContextWithSpan(context.Background(), s.span), carrier)
	return carrier[carried]
}

// traceID is where a traceparent of version 00 holds the id of its trace.
const traceIDFrom, traceIDTo = len("00-"), len("00-") + 32

// TraceID is the id of the trace that a valid traceparent belongs to, or nothing.
func TraceID(traceparent string) string {
	if len(traceparent) < traceIDTo {
		return ""
	}
	return traceparent[traceIDFrom:traceIDTo]
}

// Call begins the span of a call that asks for work, below its caller's.
func (t *Tracer) Call(r *http.Request, route, parent string) Span {
	if t == nil {
		return Span{}
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	host, port := hostOf(r.Host)
	return t.start(r.Method+" "+route, trace.SpanKindServer, parent, append(port,
		attribute.String("http.request.method", r.Method), attribute.String("http.route", route),
		attribute.String("url.path", r.URL.Path), attribute.String("url.scheme", scheme), attribute.String("server.address", host),
	)...)
}

// Answer is how a call ended.
type Answer struct {
	Status  int
	Request string // the id of the call's request, if any
	Work    string
	Problem string // the name of the answered problem, if any
	Failure error  // a fault of the service, if it was one
}

// Answered ends the span of a call.
func (s Span) Answered(a Answer) {
	if s.span == nil {
		return
	}
	s.span.SetAttributes(attribute.Int("http.response.status_code", a.Status))
	s.set("ringback.request_id", a.Request)
	s.set("ringback.work", a.Work)
	s.set("ringback.problem", a.Problem)
	if a.Status >= http.StatusInternalServerError { // less is the caller's doing
		s.set("error.type", a.Problem)
		cause := a.Problem
		if a.Failure != nil {
			cause = a.Failure.Error()
		}
		s.fail(cause)
	}
	s.span.End()
}

// WorkAttempt is an attempt to do the work of a request.
type WorkAttempt struct {
	Request string // its id
	Work    string
	Number  int
	Outside bool // another service does the work
}

// Work begins the span of an attempt.
func (t *Tracer) Work(a WorkAttempt, parent string) Span {
	if t == nil {
		return Span{}
	}
	kind := trace.SpanKindInternal
	if a.Outside {
		kind = trace.SpanKindClient
	}
	return t.start("work "+a.Work, kind, parent,
		attribute.String("ringback.request_id", a.Request), attribute.String("ringback.work", a.Work), attribute.Int("ringback.attempt", a.Number))
}

// Worked ends the span of an attempt with an outcome: succeeded, elsewhere, or the code
// of an error with its cause.
func (s Span) Worked(outcome string, failed bool, cause error) {
	if s.span == nil {
		return
	}
	s.set("ringback.outcome", outcome)
	if failed {
		s.set("error.type", outcome)
		told := outcome
		if cause != nil {
			told = cause.Error()
		}
		s.fail(told)
	}
	s.span.End()
}

// Callback begins the span of an attempt at the callback of a request.
func (t *Tracer) Callback(request uuid.UUID, work, callbackURL, parent string) Span {
	if t == nil {
		return Span{}
	}
	var attributes []attribute.KeyValue
	if target, err := url.Parse(callbackURL); err == nil {
		host, port := hostOf(target.Host)
		attributes = append(port, attribute.String("server.address", host), attribute.String("url.scheme", target.Scheme))
	}
	span := t.start("callback", trace.SpanKindClient, parent, append(attributes,
		attribute.String("http.request.method", http.MethodPost), attribute.String("ringback.request_id", request.String()))...)
	span.set("ringback.work", work)
	return span
}

// Callback is the result of an attempt at a callback.
type Callback struct {
	Number    int // in the request's log; 0 where it could not be recorded
	Outcome   string
	Status    int // 0 where there was no answer
	Cause     string
	Delivered bool
	At        time.Time // when the attempt ended
}

// CalledBack ends the span of an attempt.
func (s Span) CalledBack(c Callback) {
	if s.span == nil {
		return
	}
	s.set("ringback.outcome", c.Outcome)
	if c.Number > 0 {
		s.span.SetAttributes(attribute.Int("ringback.attempt", c.Number))
	}
	kind := c.Outcome
	if c.Status > 0 {
		kind = strconv.Itoa(c.Status)
		s.span.SetAttributes(attribute.Int("http.response.status_code", c.Status))
	}
	if !c.Delivered {
		s.set("error.type", kind)
		s.fail(strings.TrimSuffix(c.Outcome+": "+c.Cause, ": "))
	}
	s.span.End(trace.WithTimestamp(c.At))
}

// NotMade ends the span of an attempt that failed by a fault of the service, or because
// the process stops.
func (s Span) NotMade(cause error) {
	if s.span == nil {
		return
	}
	s.fail(cause.Error())
	s.span.End()
}

func (s Span) set(name, value string) {
	if value != "" {
		s.span.SetAttributes(attribute.String(name, value))
	}
}

// maxCause bounds the text of a cause: its first line, without the trace of a panic.
const maxCause = 256

func shorten(cause string) string {
	cause, _, _ = strings.Cut(cause, "\n")
	return strings.ToValidUTF8(cause[:min(len(cause), maxCause)], "")
}

func (s Span) fail(cause string) { s.span.SetStatus(codes.Error, shorten(cause)) }

// hostOf splits an address into its host and, if present, its port.
func hostOf(address string) (host string, port []attribute.KeyValue) {
	host, number, err := net.SplitHostPort(address)
	if err != nil {
		return strings.Trim(address, "[]"), nil
	}
	if n, err := strconv.Atoi(number); err == nil {
		port = append(port, attribute.Int("server.port", n))
	}
	return host, port
}
