package main

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"ringback/cmd/internal/load"
)

// objective is a limit of a metric that a run must keep to.
type objective struct {
	text   string // as -slo has it
	metric metric
	most   bool // the limit is the greatest value, not the least
	strict bool // the value must differ from the limit
	limit  float64
}

// objectives are all objectives of a run.
type objectives []objective

// parseObjectives reads the value of -slo.
func parseObjectives(text string) (objectives, error) {
	var all objectives
	var mistakes error
	for part := range strings.SplitSeq(text, ",") {
		objective, err := parseObjective(strings.TrimSpace(part))
		if err != nil {
			mistakes = errors.Join(mistakes, fmt.Errorf("%q: %w", part, err))
		}
		all = append(all, objective)
	}
	return all, mistakes
}

func parseObjective(text string) (objective, error) {
	at := strings.IndexAny(text, "<>")
	if at < 0 {
		return objective{}, errors.New("want METRIC<LIMIT or METRIC>LIMIT")
	}
	metric, known := findMetric(strings.TrimSpace(text[:at]))
	if !known {
		return objective{}, errors.New("there is no such metric; " + metricsHelp)
	}
	limit, orEqual := strings.CutPrefix(text[at+1:], "=")
	value, err := metric.parse(strings.TrimSpace(limit))
	return objective{text, metric, text[at] == '<', !orEqual, value}, err
}

// isMet compares a measured value with the limit.
func (o objective) isMet(value float64) bool {
	switch {
	case value == o.limit:
		return !o.strict
	case o.most:
		return value < o.limit
	default:
		return value > o.limit
	}
}

const metricsHelp = "want [sync.|async.]{shed|rejected|failed|ambiguous|unsent} in %, " +
	"{sync|async}[.latency|.service|.shed|.time_to_callback].{p50|p90|p95|p99|p999|max|mean} as a duration, " +
	"or {sync|async}.goodput, achieved_rate, missing, pending, duplicates, orphans or mismatched as a number"

// metric is a value that an objective may limit.
type metric struct {
	endpoint string                              // empty for both
	fields   []string                            // of the report: the value is their sum
	samples  []string                            // of the report: if their sum is 0, nothing was measured
	part     bool                                // the value is in per cent of the samples
	parse    func(limit string) (float64, error) // reads a limit
}

// findMetric returns the metric of a name.
func findMetric(name string) (m metric, known bool) {
	endpoint, rest, _ := strings.Cut(name, ".")
	switch name {
	case "sync.goodput", "async.goodput":
		return metric{endpoint, []string{name + "_per_s"}, []string{endpoint + ".sent"}, false, parseNumber}, true
	case "achieved_rate":
		return metric{"", []string{name}, []string{"sync.sent", "async.sent"}, false, parseNumber}, true
	case "missing", "pending", "orphans": // of acknowledged requests
		return metric{"async", []string{"async." + name}, []string{"async.acked"}, false, parseNumber}, true
	case "duplicates", "mismatched": // of callbacks
		return metric{"async", []string{"async." + name}, []string{"async.delivered", "async.unacknowledged"}, false, parseNumber}, true
	}
	endpoints := []string{endpoint}
	if rest == "" {
		endpoint, rest, endpoints = "", name, []string{"sync", "async"}
	}
	if slices.Contains([]string{"shed", "rejected", "failed", "ambiguous", "unsent"}, rest) {
		m = metric{endpoint: endpoint, part: true, parse: parsePercent}
		for _, endpoint := range endpoints {
			m.fields = append(m.fields, endpoint+"."+rest)
			m.samples = append(m.samples, endpoint+".sent", endpoint+".unsent")
		}
	} else {
		series, quantile, found := strings.Cut(rest, ".")
		if !found {
			series, quantile = "latency", rest
		}
		of := endpoint + "." + series + "_ms."
		m = metric{endpoint, []string{of + quantile}, []string{of + "count"}, false, parseMillis}
	}
	_, known = new(load.Report).Numbers()[m.fields[0]]
	return m, known && (endpoint == "" || endpoint == "sync" || endpoint == "async")
}

// measure computes the metric from a report's numbers. It returns false if nothing was
// measured.
func (m metric) measure(numbers map[string]float64) (value float64, found bool) {
	samples := 0.0
	for _, field := range m.samples {
		samples += numbers[field]
	}
	for _, field := range m.fields {
		value += numbers[field]
	}
	if m.part {
		value = 100 * value / max(1, samples)
	}
	return value, samples > 0
}

func parseMillis(limit string) (float64, error) {
	duration, err := time.ParseDuration(limit)
	if err != nil || duration < 0 {
		return 0, errors.New("want a limit like 250ms")
	}
	return float64(duration) / float64(time.Millisecond), nil
}

func parsePercent(limit string) (float64, error) {
	number, found := strings.CutSuffix(limit, "%")
	value, err := strconv.ParseFloat(number, 64)
	if !found || err != nil || !(value >= 0 && value <= 100) { // refuses NaN, too
		return 0, errors.New("want a limit like 1%, from 0% to 100%")
	}
	return value, nil
}

func parseNumber(limit string) (float64, error) {
	value, err := strconv.ParseFloat(limit, 64)
	if err != nil || !(value >= 0 && value <= math.MaxFloat64) { // refuses NaN, too
		return 0, errors.New("want a number as the limit, 0 or more")
	}
	return value, nil
}

func (o objectives) check(r *load.Report) []load.Objective {
	var reports []load.Objective
	numbers := r.Numbers()
	for _, objective := range o {
		value, found := objective.metric.measure(numbers)
		reports = append(reports, load.Objective{
			Objective: objective.text, Measured: value, Met: found && objective.isMet(value), NoSample: !found,
		})
	}
	return reports
}

// unmeasurable names the objectives about an endpoint that gets no requests.
func (o objectives) unmeasurable(shares load.Mix) (mistakes error) {
	for _, objective := range o {
		of := objective.metric.endpoint
		if of == "sync" && shares.Sync == 0 || of == "async" && shares.Async == 0 {
			mistakes = errors.Join(mistakes, fmt.Errorf("-slo %q: -mix sends no %s requests", objective.text, of))
		}
	}
	return mistakes
}
