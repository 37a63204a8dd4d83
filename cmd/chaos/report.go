package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

// outcome is the result of a run.
type outcome struct {
	Plan       plan         `json:"plan"`
	Faults     map[kind]int `json:"faults"` // that were carried out
	Violations []violation  `json:"violations"`
	Traces     [][]string   `json:"traces"` // of the violations' examples
	Loaded     float64      `json:"loaded_s"`
	Settled    float64      `json:"settled_s"`

	Calls        int             `json:"calls"`
	Acknowledged int             `json:"acknowledged"`
	Unanswered   int             `json:"unanswered"`
	Refused      int             `json:"refused"`
	Callbacks    int             `json:"callbacks"`
	Repeated     int             `json:"repeated_callbacks"` // of a request that had been taken before
	Redelivered  int             `json:"redelivered"`        // dead letters, many at a time
	Outcomes     map[string]int  `json:"outcomes"`           // status and state of the callback
	Storm        stormCounts     `json:"storm"`
	Recovered    []time.Duration `json:"recovered"`   // from a kill until a job ran again
	Hindered     int             `json:"hindered"`    // jobs that did, with other faults in the way
	Unrecovered  int             `json:"unrecovered"` // jobs that didn't
	Refusals     []time.Duration `json:"refusals"`    // how long callers waited for their 503 while the database was away
	Resumed      []time.Duration `json:"resumed"`     // from its return to the first acknowledgement
	WentOn       []resumption    `json:"went_on"`     // after the last fault
	Meddled      int             `json:"meddled"`     // requests whose jobs were taken away
	Upstream     upstreamCounts  `json:"upstream"`
}

// count fills in the numbers that follow from the history alone.
func (o *outcome) count(h *history) {
	o.Outcomes = map[string]int{}
	o.Calls, o.Callbacks, o.Redelivered = len(h.Calls), len(h.Callbacks), h.Redelivered
	o.WentOn, o.Meddled, o.Upstream = h.Resumed, len(h.Meddled), countUpstream(h)
	for _, c := range h.Calls {
		switch {
		case c.acknowledged():
			o.Acknowledged++
		case c.Status == 0:
			o.Unanswered++
		default:
			o.Refused++
		}
	}
	taken := map[string]bool{}
	for _, came := range h.Callbacks {
		if taken[came.ID] {
			o.Repeated++
		}
		taken[came.ID] = taken[came.ID] || came.taken()
	}
	for _, r := range h.Rows {
		o.Outcomes[strings.TrimSpace(r.Status+" "+r.CallbackState)]++
	}
}

// measureOutages times the calls that met a database that was away. Those to a
// server that was paused or killed meanwhile have no answer, and don't count.
func (o *outcome) measureOutages(h *history, outages []window) {
	for _, away := range outages {
		var resumed time.Time
		for _, c := range h.Calls {
			if c.Status >= 500 && c.SentAt.After(away.from) && c.SentAt.Before(away.to) {
				o.Refusals = append(o.Refusals, c.AnsweredAt.Sub(c.SentAt))
			}
			if c.Status/100 == 2 && c.AnsweredAt.After(away.to) && (resumed.IsZero() || c.AnsweredAt.Before(resumed)) {
				resumed = c.AnsweredAt
			}
		}
		if !resumed.IsZero() {
			o.Resumed = append(o.Resumed, resumed.Sub(away.to))
		}
	}
}

func (o outcome) broken() bool { return len(o.Violations) > 0 || o.Storm.Verdict != "" }

func (o outcome) print(out io.Writer) {
	fmt.Fprintf(out, "  %d calls: %d acknowledged, %d refused, %d without an answer; %d callbacks, %d of them repeated; %d dead letters redelivered; settled in %.1f s\n",
		o.Calls, o.Acknowledged, o.Refused, o.Unanswered, o.Callbacks, o.Repeated, o.Redelivered, o.Settled)
	fmt.Fprintf(out, "  storm: %d acknowledged, %d called back, %d without an answer\n", o.Storm.Acked, o.Storm.Delivered, o.Storm.Ambiguous)
	fmt.Fprintf(out, "  upstream: %d attempts, %d reports taken, %d refused\n",
		o.Upstream.Runs, o.Upstream.Finishes[http.StatusNoContent], o.Upstream.Finishes[http.StatusGone])
	for _, r := range o.WentOn {
		fmt.Fprintf(out, "  %s went on %.2f s after the last fault\n", r.What, r.Took.Seconds())
	}
	if o.Meddled > 0 {
		fmt.Fprintf(out, "  %6d requests whose jobs were taken away\n", o.Meddled)
	}
	for _, name := range slices.Sorted(maps.Keys(o.Outcomes)) {
		fmt.Fprintf(out, "  %6d %s\n", o.Outcomes[name], name)
	}
	if o.Storm.Verdict != "" {
		fmt.Fprintf(out, "  BROKEN: storm says:\n%s\n", o.Storm.Verdict)
	}
	for i, v := range o.Violations {
		fmt.Fprintf(out, "  BROKEN: %s (%d), such as %s: %s\n", v.Invariant, v.Count, v.ID, v.Example)
		for _, line := range o.Traces[i] {
			fmt.Fprintf(out, "    %s\n", line)
		}
	}
	if o.broken() {
		fmt.Fprintf(out, "  run it again with %s\n", o.Plan.flags())
	}
}

// report is the result of all runs.
type report struct {
	Started time.Time `json:"started"`
	Runs    []outcome `json:"runs"`
}

func (r report) broken() (count int) {
	for _, o := range r.Runs {
		if o.broken() {
			count++
		}
	}
	return count
}

func (r report) print(out io.Writer) {
	faults := map[kind]int{}
	var recovered, refusals, resumed, wentOn []time.Duration
	var acknowledged, hindered, unrecovered, repeated int
	for _, o := range r.Runs {
		for kind, count := range o.Faults {
			faults[kind] += count
		}
		acknowledged += o.Acknowledged + o.Storm.Acked
		hindered += o.Hindered
		unrecovered += o.Unrecovered
		repeated += o.Repeated
		recovered = append(recovered, o.Recovered...)
		refusals = append(refusals, o.Refusals...)
		resumed = append(resumed, o.Resumed...)
		for _, r := range o.WentOn {
			wentOn = append(wentOn, r.Took)
		}
	}
	fmt.Fprintf(out, "\n%d runs, %d broken; %d acknowledged, %d callbacks repeated\n", len(r.Runs), r.broken(), acknowledged, repeated)
	for _, name := range slices.Sorted(maps.Keys(faults)) {
		fmt.Fprintf(out, "%6d %s\n", faults[name], name)
	}
	fmt.Fprintf(out, "jobs of killed processes ran again: %s; with other faults in the way: %d; never: %d\n", spread(recovered), hindered, unrecovered)
	fmt.Fprintf(out, "database away, until the refusal: %s\n", spread(refusals))
	fmt.Fprintf(out, "database back, until the first success: %s\n", spread(resumed))
	fmt.Fprintf(out, "last fault over, until each server went on: %s\n", spread(wentOn))
}

// spread is the median, the 99th percentile and the worst.
func spread(durations []time.Duration) string {
	if len(durations) == 0 {
		return "nothing to measure"
	}
	slices.Sort(durations)
	at := func(q float64) float64 { return durations[int(q*float64(len(durations)-1)+0.5)].Seconds() }
	return fmt.Sprintf("p50 %.2f s, p99 %.2f s, worst %.2f s (of %d)", at(0.5), at(0.99), at(1), len(durations))
}

// write does nothing without a file.
func (r report) write(path string) error {
	if path == "" {
		return nil
	}
	encoded, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	if err := os.WriteFile(path, append(encoded, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}
