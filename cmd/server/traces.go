package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/http/httpguts"

	"ringback/jobs/tracing"
	"ringback/work/upstream"
)

// collectorURL is the URL of a collector of traces.
type collectorURL string

// UnmarshalText checks it.
func (u *collectorURL) UnmarshalText(text []byte) error {
	*u = collectorURL(text)
	parsed, err := url.Parse(string(text))
	if err == nil && parsed.User != nil {
		return errors.New("must hold no user name or password: OTEL_EXPORTER_OTLP_HEADERS may name an Authorization")
	}
	if upstream.CheckURL(string(text)) != nil {
		return errors.New("must be a URL such as http://127.0.0.1:4318")
	}
	return nil
}

// pairs are names with values.
type pairs map[string]string

// UnmarshalText reads name=value,name=value, where a percent sign and two hex digits are
// a byte of a value. It quotes no value, since headers hold keys.
func (p *pairs) UnmarshalText(text []byte) error {
	*p = pairs{}
	for one := range items(text) {
		name, value, both := strings.Cut(one, "=")
		decoded, err := url.PathUnescape(strings.TrimSpace(value))
		name = strings.TrimSpace(name)
		if !both || name == "" || err != nil {
			return errors.New("must be name=value,name=value, with values percent-encoded")
		}
		(*p)[name] = decoded
	}
	return nil
}

// headers are pairs that HTTP can carry.
type headers struct{ pairs }

// UnmarshalText checks them.
func (h *headers) UnmarshalText(text []byte) error {
	if err := h.pairs.UnmarshalText(text); err != nil {
		return err
	}
	for name, value := range h.pairs {
		if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			return errors.New("must be names and values of HTTP headers")
		}
	}
	return nil
}

// tracesURL is where spans go, nothing where nothing is traced.
func (c Config) tracesURL() string {
	switch {
	case c.OTelSDKDisabled || c.OTelTracesExporter == noExporter:
		return ""
	case c.OTelExporterOTLPTracesEndpoint != "":
		return string(c.OTelExporterOTLPTracesEndpoint)
	case c.OTelExporterOTLPEndpoint == "":
		return ""
	}
	base, err := url.Parse(string(c.OTelExporterOTLPEndpoint)) // as checked
	if err != nil {
		return ""
	}
	return base.JoinPath("v1", "traces").String()
}

// noExporter as OTEL_TRACES_EXPORTER means that nothing is traced.
const noExporter = "none"

// checkTraces refuses settings that the standard knows and this program doesn't. Mistakes
// in the URL of an unused collector are no mistakes: other programs may share the
// settings.
func (c Config) checkTraces(refuse func(mistake bool, setting, format string, args ...any)) {
	refuse(!c.OTelSDKDisabled && c.OTelTracesExporter != "otlp" && c.OTelTracesExporter != noExporter, "OTEL_TRACES_EXPORTER", "must be otlp or none, not %q", c.OTelTracesExporter)
	if c.tracesURL() == "" {
		return
	}
	setting, protocol := "OTEL_EXPORTER_OTLP_PROTOCOL", c.OTelExporterOTLPProtocol
	if c.OTelExporterOTLPTracesProtocol != "" {
		setting, protocol = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", c.OTelExporterOTLPTracesProtocol
	}
	refuse(protocol != tracing.Protocol, setting,
		"must be %s, not %q: no other protocol is spoken here, and collectors take it on port 4318 as a rule", tracing.Protocol, protocol)
	refuse(!slices.Contains(tracing.Samplers(), c.OTelTracesSampler), "OTEL_TRACES_SAMPLER", "must be one of %s, not %q", strings.Join(tracing.Samplers(), ", "), c.OTelTracesSampler)
	_, err := c.tracesRatio()
	refuse(err != nil, "OTEL_TRACES_SAMPLER_ARG", "%v", err)
}

// tracesRatio is the part of traces that a sampler with a ratio takes.
func (c Config) tracesRatio() (float64, error) {
	if c.OTelTracesSamplerArg == "" || !strings.HasSuffix(c.OTelTracesSampler, "traceidratio") {
		return 1, nil
	}
	ratio, err := strconv.ParseFloat(c.OTelTracesSamplerArg, 64)
	if err != nil || !(ratio >= 0 && ratio <= 1) {
		return 0, fmt.Errorf("must be a number from 0 to 1, not %q", c.OTelTracesSamplerArg)
	}
	return ratio, nil
}

// newTracer returns nil where nothing is to be traced.
func newTracer(c Config, logger *slog.Logger, metrics prometheus.Registerer) (*tracing.Tracer, error) {
	target := c.tracesURL()
	if target == "" {
		return nil, nil
	}
	ratio, err := c.tracesRatio()
	if err != nil {
		return nil, err
	}
	headers := c.OTelExporterOTLPHeaders.pairs
	if c.OTelExporterOTLPTracesHeaders.pairs != nil {
		headers = c.OTelExporterOTLPTracesHeaders.pairs
	}
	collector, err := url.Parse(target)
	if err != nil {
		return nil, errors.New("the collector's URL can't be parsed")
	}
	logger.Info("traces", "collector", collector.Host, "sampler", c.OTelTracesSampler, "ratio", ratio)
	return tracing.New(tracing.Config{
		URL: target, Headers: headers, Sampler: c.OTelTracesSampler, Ratio: ratio, Resource: c.OTelResourceAttributes,
		Service: cmp.Or(c.OTelServiceName, c.OTelResourceAttributes["service.name"], "ringback"), Version: version(), Logger: logger, Metrics: metrics,
	})
}
