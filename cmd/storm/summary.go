package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

const maxListed = 10 // missing ids that are printed

func (r *report) exitStatus() int {
	if r.Async.Missing > 0 || r.Async.Mismatched > 0 || r.unsent() > 0 || r.unanswered() != "" {
		return exitBroken
	}
	return exitOK
}

func (r *report) unsent() int { return r.Sync.Unsent + r.Async.Unsent }

// unanswered names the endpoint that answered none of what was sent to it.
func (r *report) unanswered() string {
	switch {
	case r.Sync.OK+r.Async.OK == 0:
		return "not one request was answered ok"
	case r.Sync.Sent > 0 && r.Sync.OK == 0:
		return "not one sync request was answered ok"
	case r.Async.Sent > 0 && r.Async.OK == 0:
		return "not one async request was acknowledged"
	}
	return ""
}

// print writes the summary as plain text that fits 102 columns.
func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "Storm on %s, %.1f s of %s: %.1f requests/s offered, %.1f/s achieved\n",
		r.Server, r.DurationS, r.Profile, r.OfferedRate, r.AchievedRate)
	r.printRequests(w)
	r.printLatency(w)
	r.printCallbacks(w)
	r.printMissing(w)
	r.printNotes(w)
	fmt.Fprintf(w, "\nVerdict: %s.\n", r.verdict())
}

func (r *report) printRequests(w io.Writer) {
	printHead(w, "requests", "sent", "ok", "shed", "rejected", "failed", "ambiguous", "unsent")
	for _, row := range []struct {
		name string
		endpointReport
	}{{"sync", r.Sync}, {"async", r.Async.endpointReport}} {
		printRow(w, row.name, row.Sent, row.OK, row.Shed, row.Rejected, row.Failed, row.Ambiguous, row.Unsent)
	}
	printReasons(w, "sync", r.Sync.Reasons)
	printReasons(w, "async", r.Async.Reasons)
}

func printReasons(w io.Writer, name string, counts map[string]int) {
	reasons := make([]string, 0, len(counts))
	for _, reason := range slices.Sorted(maps.Keys(counts)) {
		reasons = append(reasons, fmt.Sprintf("%s %d", reason, counts[reason]))
	}
	if len(reasons) > 0 {
		fmt.Fprintf(w, "  %s: %s\n", name, strings.Join(reasons, ", "))
	}
}

func (r *report) printLatency(w io.Writer) {
	printHead(w, "ms since due", "count", "p50", "p90", "p95", "p99", "p99.9", "max")
	printQuantiles(w, "sync answered", r.Sync.Latency)
	printQuantiles(w, "sync shed", r.Sync.Shedded)
	printQuantiles(w, "async acknowledged", r.Async.Latency)
	printQuantiles(w, "async shed", r.Async.Shedded)
	printQuantiles(w, "called back", r.Async.TimeToCallback)
	printQuantiles(w, "handed to a connection", r.Generator.Late)
	printQuantiles(w, "left", r.Generator.Left)
}

func (r *report) printCallbacks(w io.Writer) {
	a := r.Async
	printHead(w, "callbacks", "acked", "delivered", "dead", "missing", "mismatched", "duplicates", "orphans")
	printRow(w, "of acked requests", a.Acked, a.Delivered, a.Dead, a.Missing, a.Mismatched, a.Duplicates, a.Orphans)
}

func printHead(w io.Writer, name string, columns ...string) {
	fmt.Fprintf(w, "\n%-24s", name)
	for _, column := range columns {
		fmt.Fprintf(w, "%11s", column)
	}
	fmt.Fprintln(w)
}

func printRow(w io.Writer, name string, counts ...int) {
	fmt.Fprintf(w, "  %-22s", name)
	for _, count := range counts {
		fmt.Fprintf(w, "%11d", count)
	}
	fmt.Fprintln(w)
}

func printQuantiles(w io.Writer, name string, of quantiles) {
	if of.Count == 0 {
		return
	}
	fmt.Fprintf(w, "  %-22s%11d", name, of.Count)
	for _, value := range []float64{of.P50, of.P90, of.P95, of.P99, of.P999, of.Max} {
		fmt.Fprintf(w, "%11.1f", value)
	}
	fmt.Fprintln(w)
}

// printNotes tells what is not in the tables.
func (r *report) printNotes(w io.Writer) {
	note := func(text string, count int) {
		if count > 0 {
			fmt.Fprintf(w, "\n%s: %d\n", text, count)
		}
	}
	note("Called back to say that the work failed", r.Async.WorkFailed)
	note("Called back without an acknowledgement, which got lost", r.Async.Unacknowledged)
	note("Unsent because no connection was free in time (-connections, -timeout)", r.unsent())
	fmt.Fprintf(w, "\nStorm itself: rate off by %.2f %%, %.2f %% in the worst second; %.0f µs of CPU a request; %.0f MiB.\n",
		r.Generator.RateError, r.Generator.WorstRateError, r.Generator.CPUMicroseconds, r.Generator.PeakMemory)
	if r.isLate() {
		fmt.Fprintln(w, "The generator itself fell behind schedule: it has too little CPU for this rate.")
	}
}

// isLate tells whether the generator, not the server, spoils the figures. A
// tenth of a second is more than scheduling jitter.
func (r *report) isLate() bool { return r.Generator.Late.P99 > 100 }

func (r *report) printMissing(w io.Writer) {
	ids := r.Async.missingIDs
	if len(ids) == 0 {
		return
	}
	fmt.Fprintln(w, "\nNot called back, to look up with:")
	for _, id := range ids[:min(len(ids), maxListed)] {
		fmt.Fprintf(w, "  GET /requests/%s\n", id)
	}
	if rest := len(ids) - maxListed; rest > 0 {
		fmt.Fprintf(w, "  and %d more\n", rest)
	}
}

// verdict is one sentence, the worst first.
func (r *report) verdict() string {
	var broken []string
	breach := func(count int, text string) {
		if count > 0 {
			broken = append(broken, fmt.Sprintf(text, count, r.Async.Acked))
		}
	}
	if unanswered := r.unanswered(); unanswered != "" {
		return "broken, " + unanswered
	}
	breach(r.Async.Missing, "%d of %d acknowledged requests were not called back")
	breach(r.Async.Mismatched, "%d of %d acknowledged requests were called back wrongly")
	if unsent := r.unsent(); unsent > 0 {
		broken = append(broken, fmt.Sprintf("%d requests could not be sent in time", unsent))
	}
	if len(broken) > 0 {
		return "broken, " + strings.Join(broken, "; ")
	}
	return fmt.Sprintf("kept its word, all %d acknowledged requests were called back", r.Async.Acked)
}
