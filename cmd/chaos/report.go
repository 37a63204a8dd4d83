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

// tally is counts and durations, by name.
type tally struct {
	Counts map[string]int             `json:"counts"`
	Times  map[string][]time.Duration `json:"times"`
}

func (t tally) time(name string, took time.Duration) { t.Times[name] = append(t.Times[name], took) }

// count adds what a ledger holds.
func (t tally) count(l *ledger) {
	for _, w := range l.windows {
		t.Counts["faults, "+w.kind]++
	}
	if l.plan.Ahead != 0 {
		t.Counts["faults, "+clocks]++
	}
	if l.plan.Skews != nil {
		t.Counts["faults, "+serverClocks]++
	}
	for _, c := range l.calls {
		t.Counts[c.fate()]++
		if c.Sync && c.Hostile {
			continue // the 5xx may be the upstream's, and as late as the upstream is slow
		}
		for _, away := range l.windows {
			if c.Status >= 500 && c.SentAt.After(away.from) && c.SentAt.Before(away.to) && kindOf(away.kind).group == ofDatabase {
				t.time("database away, until the refusal", c.AnsweredAt.Sub(c.SentAt))
			}
		}
	}
	for _, s := range l.stories {
		s.count(t)
	}
	for _, w := range l.returned {
		if l.stalled(w.from, w.to) {
			t.Counts["processes killed, whose jobs met other faults"]++
		} else {
			t.time("a process killed, until its jobs were given back", w.to.Sub(w.from))
		}
	}
	for _, took := range l.resumed {
		t.time("last fault over, until a server went on", took)
	}
	t.Counts["dead letters, redelivered together"] += l.redelivered
	t.Counts["calls of storm, acknowledged"] += l.storm.Acked
	t.Counts["calls of storm, without an answer"] += l.storm.Ambiguous
}

// fate is the name under which a call is counted.
func (c *call) fate() string {
	switch {
	case c.acknowledged():
		return "calls, acknowledged"
	case c.Status == 0:
		return "calls, without an answer"
	}
	return "calls, refused"
}

func (s *story) count(t tally) {
	if s.stored {
		t.Counts[strings.TrimSpace("requests, "+s.Status+" "+s.CallbackState)]++
	}
	taken := false
	for _, came := range s.callbacks {
		t.Counts["callbacks"]++
		if taken {
			t.Counts["callbacks, after one that was taken"]++
		}
		taken = taken || came.taken()
	}
	if s.meddled.times > 0 {
		t.Counts["requests whose jobs were taken away"]++
	}
	for _, r := range s.runs {
		t.Counts["attempts of the upstream, "+string(r.Manner)]++
	}
	for _, f := range s.finishes {
		if f.Status > 0 {
			t.Counts["reports of the upstream, "+http.StatusText(f.Status)]++
		}
	}
}

// outcome is the result of a run.
type outcome struct {
	Plan       plan        `json:"plan"`
	Violations []violation `json:"violations"`
	Settled    float64     `json:"settled_s"`
}

func (o outcome) print(out io.Writer) {
	for _, v := range o.Violations {
		fmt.Fprintf(out, "  BROKEN: %s (%d), such as %s: %s\n", v.Invariant, v.Count, v.ID, v.Example)
		for _, line := range v.Trace {
			fmt.Fprintf(out, "    %s\n", line)
		}
	}
	if len(o.Violations) > 0 {
		fmt.Fprintf(out, "  run it again with %s\n", o.Plan.flags())
	}
}

// report is the result of all runs.
type report struct {
	Started time.Time `json:"started"`
	Runs    []outcome `json:"runs"`
	tally
}

func newReport() *report {
	return &report{Started: time.Now(), tally: tally{map[string]int{}, map[string][]time.Duration{}}}
}

func (r *report) broken() (count int) {
	for _, o := range r.Runs {
		if len(o.Violations) > 0 {
			count++
		}
	}
	return count
}

// verdict is nil if there were runs, and none was broken.
func (r *report) verdict() error {
	switch {
	case len(r.Runs) == 0:
		return errNothing
	case r.broken() > 0:
		return errBroken
	}
	return nil
}

func (r *report) print(out io.Writer) {
	fmt.Fprintf(out, "\n%d runs, %d broken\n", len(r.Runs), r.broken())
	for _, name := range slices.Sorted(maps.Keys(r.Counts)) {
		fmt.Fprintf(out, "%8d %s\n", r.Counts[name], name)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Times)) {
		times := slices.Sorted(slices.Values(r.Times[name]))
		at := func(q float64) float64 { return times[int(q*float64(len(times)-1)+0.5)].Seconds() }
		fmt.Fprintf(out, "  %s: p50 %.2f s, p99 %.2f s, worst %.2f s (of %d)\n", name, at(0.5), at(0.99), at(1), len(times))
	}
}

// write writes the report as JSON, unless path is empty.
func (r *report) write(path string) error {
	if path == "" {
		return nil
	}
	encoded, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = os.WriteFile(path, append(encoded, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}
