package api

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"ringback/jobs/limit"
)

// metrics count answers.
type metrics struct {
	answers  *prometheus.HistogramVec // by route and status
	problems *prometheus.CounterVec   // by name
	refused  limit.Count
}

// newMetrics registers nothing where there is no registerer.
func newMetrics(registerer prometheus.Registerer) *metrics {
	auto := promauto.With(registerer)
	var reasons []limit.Reason
	for _, known := range refusals {
		if known.reason != Connections {
			reasons = append(reasons, known.reason)
		}
	}
	m := &metrics{
		refused: CountRefusals(registerer, reasons...),
		answers: auto.NewHistogramVec(prometheus.HistogramOpts{
			Name: "ringback_http_request_duration_seconds", Help: "Calls, by route (empty where it is unknown) and status.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60},
		}, []string{"route", "status"}),
		problems: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "ringback_http_problems_total", Help: "Calls that were answered with a problem, by its name.",
		}, []string{"problem"}),
	}
	for _, known := range problemTypes {
		m.problems.WithLabelValues(known.Name)
	}
	return m
}

func (m *metrics) answered(c *call, took time.Duration) {
	route := c.FullPath()
	if route != "" {
		route = c.Request.Method + " " + route
	}
	if c.streams { // which may take hours
		route += " (events)"
	}
	m.answers.WithLabelValues(route, strconv.Itoa(c.Writer.Status())).Observe(took.Seconds())
	if c.problem != "" {
		m.problems.WithLabelValues(c.problem).Inc()
	}
	m.refused.Add(limit.Reason(c.reason), 1)
}

// watchGate tells how many sync requests run and wait.
func watchGate(registerer prometheus.Registerer, g gate) {
	auto := promauto.With(registerer)
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "ringback_sync_works_running", Help: "Sync requests whose work runs."},
		func() float64 { running, _ := g.Counts(); return float64(running) })
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "ringback_sync_works_waiting", Help: "Sync requests that wait for a slot."},
		func() float64 { _, waiting := g.Counts(); return float64(waiting) })
}
