package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"ringback/cmd/internal/load"
)

// objective is an objective of a run, as in "sync.p99<100ms".
type objective struct {
	text    string
	most    bool    // the value may be at most the limit, rather than at least
	strict  bool    // nor may it be the limit itself
	limit   float64 // in milliseconds, per cent, or as a bare number
	of      string  // the endpoint that it is about, "" for both
	measure measure
}

// measure returns a measured value, and false where there is none.
type measure func(*load.Report) (value float64, found bool)

// objectives are all that a run must achieve.
type objectives []objective

func (o objectives) String() string {
	texts := make([]string, len(o))
	for i, objective := range o {
		texts[i] = objective.text
	}
	return strings.Join(texts, ",")
}

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
	metric, limit := strings.TrimSpace(text[:at]), text[at+1:]
	limit, orEqual := strings.CutPrefix(limit, "=")
	measure, of, unit := findMetric(metric)
	if measure == nil {
		return objective{}, errors.New("there is no such metric; " + metricsHelp)
	}
	value, err := unit.parse(strings.TrimSpace(limit))
	if err != nil {
		return objective{}, err
	}
	return objective{text, text[at] == '<', !orEqual, value, of, measure}, nil
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

// unit is the unit of a limit.
type unit int

const (
	bare    unit = iota
	millis       // written as a duration
	percent      // of the sent requests
)

func (u unit) parse(text string) (float64, error) {
	switch u {
	case millis:
		duration, err := time.ParseDuration(text)
		if err != nil {
			return 0, errors.New("want a limit like 250ms")
		}
		return float64(duration) / float64(time.Millisecond), nil
	case percent:
		number, found := strings.CutSuffix(text, "%")
		value, err := strconv.ParseFloat(number, 64)
		if !found || err != nil {
			return 0, errors.New("want a limit like 1%")
		}
		return value, nil
	default:
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return 0, errors.New("want a number as the limit")
		}
		return value, nil
	}
}

const metricsHelp = "want [sync.|async.]{shed|rejected|failed|ambiguous|unsent} in %, " +
	"{sync|async}[.latency|.service|.shed|.time_to_callback].{p50|p90|p95|p99|p999|max|mean} as a duration, " +
	"or {sync|async}.goodput, achieved_rate, missing, pending, duplicates, orphans or mismatched as a number"

// findMetric returns the measure for a name, or nil, and its endpoint.
func findMetric(name string) (m measure, of string, u unit) {
	if number, known := numbers()[name]; known {
		return number.of, number.endpoint, bare
	}
	endpoint, rest := "", name
	if first, after, found := strings.Cut(name, "."); found {
		endpoint, rest = first, after
	}
	if count := portions()[rest]; count != nil && slices.Contains([]string{"", "sync", "async"}, endpoint) {
		return func(r *load.Report) (float64, bool) { return portion(r.Endpoints(endpoint), count) }, endpoint, percent
	}
	series, quantile, found := strings.Cut(rest, ".")
	if !found {
		series, quantile = "latency", rest
	}
	pick, choose := durations()[endpoint+"."+series], quantilePicks()[quantile]
	if pick == nil || choose == nil {
		return nil, "", bare
	}
	return func(r *load.Report) (float64, bool) { return choose(pick(r)), pick(r).Count > 0 }, endpoint, millis
}

// portion is a count's part of the due requests, in per cent, where any was due.
func portion(of []load.Endpoint, count func(load.Endpoint) int) (value float64, found bool) {
	part, whole := 0, 0
	for _, endpoint := range of {
		part += count(endpoint)
		whole += endpoint.Sent + endpoint.Unsent
	}
	return 100 * float64(part) / float64(max(1, whole)), whole > 0
}

func portions() map[string]func(load.Endpoint) int {
	return map[string]func(load.Endpoint) int{
		"shed":      func(e load.Endpoint) int { return e.Shed },
		"rejected":  func(e load.Endpoint) int { return e.Rejected },
		"failed":    func(e load.Endpoint) int { return e.Failed },
		"ambiguous": func(e load.Endpoint) int { return e.Ambiguous },
		"unsent":    func(e load.Endpoint) int { return e.Unsent },
	}
}

// number is a metric that is a bare number.
type number struct {
	endpoint string
	of       measure
}

func numbers() map[string]number {
	// Objectives about callbacks are about acknowledged requests.
	acked := func(count func(load.Async) int) number {
		return number{"async", func(r *load.Report) (float64, bool) { return float64(count(r.Async)), r.Async.Acked > 0 }}
	}
	return map[string]number{
		"sync.goodput":  {"sync", func(r *load.Report) (float64, bool) { return r.Sync.Goodput, r.Sync.Sent > 0 }},
		"async.goodput": {"async", func(r *load.Report) (float64, bool) { return r.Async.Goodput, r.Async.Sent > 0 }},
		"achieved_rate": {"", func(r *load.Report) (float64, bool) { return r.AchievedRate, r.Sync.Sent+r.Async.Sent > 0 }},
		"pending":       acked(func(a load.Async) int { return a.Pending }),
		"missing":       acked(func(a load.Async) int { return a.Missing }),
		"duplicates":    acked(func(a load.Async) int { return a.Duplicates }),
		"orphans":       acked(func(a load.Async) int { return a.Orphans }),
		"mismatched":    acked(func(a load.Async) int { return a.Mismatched }),
	}
}

func durations() map[string]func(*load.Report) load.Quantiles {
	return map[string]func(*load.Report) load.Quantiles{
		"sync.latency":           func(r *load.Report) load.Quantiles { return r.Sync.Latency },
		"sync.service":           func(r *load.Report) load.Quantiles { return r.Sync.Service },
		"sync.shed":              func(r *load.Report) load.Quantiles { return r.Sync.Shedded },
		"async.latency":          func(r *load.Report) load.Quantiles { return r.Async.Latency },
		"async.service":          func(r *load.Report) load.Quantiles { return r.Async.Service },
		"async.shed":             func(r *load.Report) load.Quantiles { return r.Async.Shedded },
		"async.time_to_callback": func(r *load.Report) load.Quantiles { return r.Async.TimeToCallback },
	}
}

func quantilePicks() map[string]func(load.Quantiles) float64 {
	return map[string]func(load.Quantiles) float64{
		"p50":  func(q load.Quantiles) float64 { return q.P50 },
		"p90":  func(q load.Quantiles) float64 { return q.P90 },
		"p95":  func(q load.Quantiles) float64 { return q.P95 },
		"p99":  func(q load.Quantiles) float64 { return q.P99 },
		"p999": func(q load.Quantiles) float64 { return q.P999 },
		"max":  func(q load.Quantiles) float64 { return q.Max },
		"mean": func(q load.Quantiles) float64 { return q.Mean },
	}
}

func (o objectives) check(r *load.Report) []load.Objective {
	var reports []load.Objective
	for _, objective := range o {
		value, found := objective.measure(r)
		reports = append(reports, load.Objective{
			Objective: objective.text, Measured: value, Met: found && objective.isMet(value), NoSample: !found,
		})
	}
	return reports
}

// unmeasurable names the objectives about an endpoint that gets no requests.
func (o objectives) unmeasurable(shares load.Mix) (mistakes error) {
	for _, objective := range o {
		if objective.of == "sync" && shares.Sync == 0 || objective.of == "async" && shares.Async == 0 {
			mistakes = errors.Join(mistakes, fmt.Errorf("-slo %q: -mix sends no %s requests", objective.text, objective.of))
		}
	}
	return mistakes
}
