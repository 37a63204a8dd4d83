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

// tally is what was counted and measured, in a run or in all.
type tally struct {
	Faults map[string]int             `json:"faults"` // that were carried out
	Counts map[string]int             `json:"counts"`
	Times  map[string][]time.Duration `json:"times"`
}

func newTally() tally {
	return tally{map[string]int{}, map[string]int{}, map[string][]time.Duration{}}
}

func (t tally) add(other tally) {
	for name, count := range other.Faults {
		t.Faults[name] += count
	}
	for name, count := range other.Counts {
		t.Counts[name] += count
	}
	for name, times := range other.Times {
		t.Times[name] = append(t.Times[name], times...)
	}
}

func (t tally) time(name string, took time.Duration) { t.Times[name] = append(t.Times[name], took) }

// print prints what is not nothing.
func (t tally) print(out io.Writer) {
	for _, counts := range []map[string]int{t.Faults, t.Counts} {
		for _, name := range slices.Sorted(maps.Keys(counts)) {
			fmt.Fprintf(out, "%8d %s\n", counts[name], name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.Times)) {
		times := slices.Sorted(slices.Values(t.Times[name]))
		at := func(q float64) float64 { return times[int(q*float64(len(times)-1)+0.5)].Seconds() }
		fmt.Fprintf(out, "  %s: p50 %.2f s, p99 %.2f s, worst %.2f s (of %d)\n", name, at(0.5), at(0.99), at(1), len(times))
	}
}

// tally counts and measures what the ledger holds.
func (l *ledger) tally() tally {
	t := newTally()
	for _, w := range l.windows {
		t.Faults[w.kind]++
	}
	for _, c := range l.calls {
		t.Counts[c.fate()]++
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
			t.Counts["killed processes whose jobs met other faults"]++
		} else {
			t.time("a process killed, until its jobs were given back", w.to.Sub(w.from))
		}
	}
	for _, took := range l.resumed {
		t.time("last fault over, until a server went on", took)
	}
	t.Counts["dead letters redelivered together"] = l.redelivered
	t.Counts["calls of storm, acknowledged"] = l.storm.Acked
	t.Counts["calls of storm, without an answer"] = l.storm.Ambiguous
	return t
}

// fate names what became of a call.
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
		t.Counts["upstream's attempts, "+string(r.Manner)]++
	}
	for _, f := range s.finishes {
		if f.Status > 0 {
			t.Counts["upstream's reports, "+http.StatusText(f.Status)]++
		}
	}
}

// outcome is the result of a run.
type outcome struct {
	Plan       plan        `json:"plan"`
	Violations []violation `json:"violations"`
	Settled    float64     `json:"settled_s"`
	tally
}

func (o outcome) print(out io.Writer) {
	o.tally.print(out)
	fmt.Fprintf(out, "  settled in %.1f s\n", o.Settled)
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
}

func (r report) broken() (count int) {
	for _, o := range r.Runs {
		if len(o.Violations) > 0 {
			count++
		}
	}
	return count
}

func (r report) print(out io.Writer) {
	all := newTally()
	for _, o := range r.Runs {
		all.add(o.tally)
	}
	fmt.Fprintf(out, "\n%d runs, %d broken\n", len(r.Runs), r.broken())
	all.print(out)
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
