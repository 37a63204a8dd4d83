package console

import (
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// sample has the counts of this process in a second.
type sample struct {
	At         int64              `json:"at"`          // Unix seconds
	Accepted   float64            `json:"accepted"`    // requests a second, of both modes
	Done       float64            `json:"done"`        // runs of the work that ended, a second
	CalledBack float64            `json:"called_back"` // callbacks delivered, a second
	Refused    float64            `json:"refused"`     // calls a second
	Reasons    map[string]float64 `json:"reasons"`     // refusals by reason, over the last ten seconds
	P50        *float64           `json:"p50"`         // time to callback in ms, over the last ten seconds; null for none
	P99        *float64           `json:"p99"`
	Unfinished float64            `json:"unfinished"` // requests whose next step is due soon, of all processes
	Running    float64            `json:"running"`    // jobs under way here
	Jobs       map[string]float64 `json:"jobs"`       // that have not ended, of all processes, by state
	Dead       float64            `json:"dead"`       // dead letters that are kept
	Away       bool               `json:"away"`       // the database doesn't answer, or can't be written

	totals   totals
	readings readings
}

// totals are counters. The differences between them are samples.
type totals struct {
	accepted, done, calledBack float64
	refused                    map[string]float64
	waits                      []bucket // of time to callback
}

// bucket counts observations of at most so many seconds.
type bucket struct{ upTo, count float64 }

const (
	kept     = 10 * 60 // samples, one a second
	lookBack = 10      // samples over which quantiles and reasons are taken
)

// history is the samples of the last ten minutes.
type history struct {
	mu      sync.Mutex
	samples []sample
	changed chan struct{} // closed with the next sample
}

// add keeps a sample, and wakes the followers.
func (h *history) add(next sample) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.samples); n > 0 {
		next.compare(h.samples[n-1].totals, h.samples[max(0, n-lookBack)].totals)
		if next.readings.logFull > unreadRatio {
			next.readings.unread = h.samples[n-1].readings.unread + 1
		}
	}
	if len(h.samples) == kept {
		h.samples = append(h.samples[:0], h.samples[1:]...)
	}
	h.samples = append(h.samples, next)
	if h.changed != nil {
		close(h.changed)
	}
	h.changed = make(chan struct{})
}

// since returns the samples after a time, and a channel that is closed with the next
// sample.
func (h *history) since(at int64) ([]sample, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.changed == nil {
		h.changed = make(chan struct{})
	}
	first := slices.IndexFunc(h.samples, func(s sample) bool { return s.At > at })
	if first < 0 {
		return nil, h.changed
	}
	return slices.Clone(h.samples[first:]), h.changed
}

// span returns the latest sample, and the sample so many before it, or the oldest.
func (h *history) span(back int) (before, latest sample) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.samples)
	if n == 0 {
		return sample{}, sample{}
	}
	return h.samples[max(0, n-1-back)], h.samples[n-1]
}

// compare fills in the differences to the sample before, and to the sample ten seconds
// before.
func (s *sample) compare(last, before totals) {
	s.Accepted = max(0, s.totals.accepted-last.accepted)
	s.Done = max(0, s.totals.done-last.done)
	s.CalledBack = max(0, s.totals.calledBack-last.calledBack)
	s.Reasons = map[string]float64{}
	for reason, total := range s.totals.refused {
		s.Refused += max(0, total-last.refused[reason])
		if more := total - before.refused[reason]; more > 0 {
			s.Reasons[reason] = more
		}
	}
	s.P50, s.P99 = quantile(s.totals.waits, before.waits, 0.5), quantile(s.totals.waits, before.waits, 0.99)
}

// quantile is the quantile of the observations between two readings of a histogram, in
// milliseconds; nil where there were none. Within a bucket it interpolates linearly, as
// Prometheus does.
func quantile(now, before []bucket, share float64) *float64 {
	if len(now) == 0 || len(before) != len(now) {
		return nil
	}
	more := func(i int) float64 { return now[i].count - before[i].count }
	all := more(len(now) - 1)
	if all <= 0 {
		return nil
	}
	low, lowCount := 0.0, 0.0
	for i, b := range now {
		if more(i) >= share*all {
			value := b.upTo
			if math.IsInf(value, 1) {
				value = low
			} else if within := more(i) - lowCount; within > 0 {
				value = low + (b.upTo-low)*(share*all-lowCount)/within
			}
			value *= 1000
			return &value
		}
		low, lowCount = b.upTo, more(i)
	}
	return nil
}

// takeSample reads the metrics of this process.
func takeSample(metrics prometheus.Gatherer, now time.Time) (sample, error) {
	families, err := metrics.Gather()
	if err != nil {
		return sample{}, err
	}
	s := sample{At: now.Unix(), Jobs: map[string]float64{}, totals: totals{refused: map[string]float64{}}, readings: readings{works: map[string]string{}}}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			s.read(family.GetName(), metric)
			s.readings.read(family.GetName(), metric)
		}
	}
	return s, nil
}

// read adds a metric to the sample, if the pages show it.
func (s *sample) read(name string, metric *dto.Metric) {
	switch name {
	case "ringback_requests_accepted_total":
		s.totals.accepted += metric.GetCounter().GetValue()
	case "ringback_work_duration_seconds":
		s.totals.done += float64(metric.GetHistogram().GetSampleCount())
	case "ringback_callbacks_ended_total":
		if labels(metric)["state"] == "delivered" {
			s.totals.calledBack += metric.GetCounter().GetValue()
		}
	case "ringback_time_to_callback_seconds":
		s.totals.waits = bucketsOf(metric.GetHistogram())
	case "ringback_http_refusals_total":
		s.totals.refused[labels(metric)["reason"]] = metric.GetCounter().GetValue()
	case "ringback_unfinished_requests":
		s.Unfinished = metric.GetGauge().GetValue()
	case "ringback_jobs_running":
		s.Running = metric.GetGauge().GetValue()
	case "ringback_jobs":
		s.Jobs[labels(metric)["state"]] = metric.GetGauge().GetValue()
	case "ringback_dead_letters":
		s.Dead = metric.GetGauge().GetValue()
	case "ringback_database_away":
		s.Away = metric.GetGauge().GetValue() > 0
	}
}

// read adds a metric to the readings, if an alarm needs it.
func (s *readings) read(name string, metric *dto.Metric) {
	switch name {
	case "ringback_works_down":
		if of := labels(metric); metric.GetGauge().GetValue() > 0 {
			s.works[of["work"]] = of["state"]
		}
	case "ringback_clock_skew_seconds":
		s.skew = metric.GetGauge().GetValue()
	case "ringback_log_buffer_ratio":
		s.logFull = metric.GetGauge().GetValue()
	case "ringback_log_lines_dropped_total":
		s.dropped = metric.GetCounter().GetValue()
	case "ringback_jobs_postponed_total":
		if labels(metric)["reason"] == "work_unknown" {
			s.unoffered = metric.GetCounter().GetValue()
		}
	case "ringback_http_problems_total":
		if labels(metric)["problem"] == "unauthorized" {
			s.unauthorized = metric.GetCounter().GetValue()
		}
	case "ringback_http_request_duration_seconds":
		if !isProbe(labels(metric)["route"]) {
			s.calls += float64(metric.GetHistogram().GetSampleCount())
		}
	}
}

// isProbe tells whether monitors call a route.
func isProbe(route string) bool {
	_, path, _ := strings.Cut(route, " ")
	return path == "/healthz" || path == "/readyz" || path == "/livez"
}

func bucketsOf(histogram *dto.Histogram) []bucket {
	var buckets []bucket
	for _, b := range histogram.GetBucket() {
		buckets = append(buckets, bucket{b.GetUpperBound(), float64(b.GetCumulativeCount())})
	}
	return append(buckets, bucket{math.Inf(1), float64(histogram.GetSampleCount())})
}

func labels(metric *dto.Metric) map[string]string {
	all := make(map[string]string, len(metric.GetLabel()))
	for _, label := range metric.GetLabel() {
		all[label.GetName()] = label.GetValue()
	}
	return all
}
