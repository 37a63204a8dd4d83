package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// summary is all that a run found out.
type summary struct {
	target    string
	drain     time.Duration // how long callbacks were waited for at most
	elapsed   time.Duration
	offered   float64 // requests a second
	achieved  float64 // requests a second, as they left
	sync      tally
	async     tally
	callbacks callbackTally
}

func (s summary) exitStatus() int {
	if s.callbacks.missing > 0 || s.callbacks.mismatched > 0 || s.unanswered() != "" {
		return exitBroken
	}
	return exitOK
}

// unanswered names the endpoint that answered none of what was sent to it.
func (s summary) unanswered() string {
	switch {
	case s.sync.ok+s.async.ok == 0:
		return "not one request was answered ok"
	case s.sync.sent > 0 && s.sync.ok == 0:
		return "not one sync request was answered ok"
	case s.async.sent > 0 && s.async.ok == 0:
		return "not one async request was acknowledged"
	}
	return ""
}

// print writes the summary as plain text that fits 100 columns.
func (s summary) print(w io.Writer) {
	fmt.Fprintf(w, "Storm on %s, %.1f s: %.1f requests/s offered, %.1f/s achieved\n",
		s.target, s.elapsed.Seconds(), s.offered, s.achieved)
	s.printRequests(w)
	s.printLatency(w)
	s.printCallbacks(w)
	s.printMissing(w)
	s.printNotes(w)
	fmt.Fprintf(w, "\nVerdict: %s.\n", s.verdict())
}

func (s summary) printRequests(w io.Writer) {
	printHead(w, "requests", "sent", "ok", "shed", "failed", "unsent")
	for _, row := range []struct {
		name string
		tally
	}{{"sync", s.sync}, {"async", s.async}} {
		printCounts(w, row.name, row.sent, row.ok, row.shed, row.failures(), row.unsent)
	}
	printReasons(w, "sync", s.sync.failed)
	printReasons(w, "async", s.async.failed)
}

func printReasons(w io.Writer, name string, failed map[string]int) {
	reasons := make([]string, 0, len(failed))
	for _, reason := range slices.Sorted(maps.Keys(failed)) {
		reasons = append(reasons, fmt.Sprintf("%s %d", reason, failed[reason]))
	}
	if len(reasons) > 0 {
		fmt.Fprintf(w, "  %s failed: %s\n", name, strings.Join(reasons, ", "))
	}
}

func (s summary) printLatency(w io.Writer) {
	printHead(w, "ms since intended send", "count", "p50", "p95", "p99", "max")
	printQuantiles(w, "sync answered", s.sync.latency)
	printQuantiles(w, "async acknowledged", s.async.latency)
	printQuantiles(w, "called back", s.callbacks.after)
	printQuantiles(w, "request left", s.lateness())
}

// lateness is how far the generator itself was behind.
func (s summary) lateness() *histogram {
	all := newHistogram()
	all.Merge(s.sync.lateness.Histogram)
	all.Merge(s.async.lateness.Histogram)
	return all
}

func (s summary) printCallbacks(w io.Writer) {
	callbacks := s.callbacks
	printHead(w, "callbacks", "delivered", "missing", "mismatched", "duplicated", "orphans")
	printCounts(w, "to acknowledged requests", callbacks.delivered, callbacks.missing, callbacks.mismatched,
		callbacks.duplicated, callbacks.orphans)
}

func printHead(w io.Writer, name string, columns ...string) {
	fmt.Fprintf(w, "\n%-26s", name)
	for _, column := range columns {
		fmt.Fprintf(w, "%12s", column)
	}
	fmt.Fprintln(w)
}

func printCounts(w io.Writer, name string, counts ...int) {
	fmt.Fprintf(w, "  %-24s", name)
	for _, count := range counts {
		fmt.Fprintf(w, "%12d", count)
	}
	fmt.Fprintln(w)
}

func printQuantiles(w io.Writer, name string, of *histogram) {
	fmt.Fprintf(w, "  %-24s%12d", name, of.TotalCount())
	for _, percent := range []float64{50, 95, 99, 100} {
		if of.TotalCount() == 0 {
			fmt.Fprintf(w, "%12s", "-")
			continue
		}
		fmt.Fprintf(w, "%12.1f", of.quantile(percent).Seconds()*1000)
	}
	fmt.Fprintln(w)
}

// printNotes tells what is not in the tables.
func (s summary) printNotes(w io.Writer) {
	note := func(text string, count int) {
		if count > 0 {
			fmt.Fprintf(w, "\n%s: %d\n", text, count)
		}
	}
	note("Called back to say that the work failed", s.callbacks.workFailed)
	note("Called back without an acknowledgement, which got lost", s.callbacks.unacknowledged)
	note("Unsent because too many were in flight (-max-in-flight)", s.sync.unsent+s.async.unsent)
	if s.isLate() {
		fmt.Fprintln(w, "\nThe generator itself fell behind schedule: it has too little CPU for this rate.")
	}
}

// isLate tells whether the generator, not the server, spoils the figures. A
// percent of the rate or a tenth of a second is more than scheduling jitter.
func (s summary) isLate() bool {
	unsent := s.sync.unsent + s.async.unsent
	isSlow := unsent == 0 && s.achieved < 0.99*s.offered
	return isSlow || s.lateness().quantile(99) > 100*time.Millisecond
}

func (s summary) printMissing(w io.Writer) {
	if len(s.callbacks.missingIDs) == 0 {
		return
	}
	fmt.Fprintln(w, "\nNot called back, to look up with:")
	for _, id := range s.callbacks.missingIDs {
		fmt.Fprintf(w, "  GET /requests/%s\n", id)
	}
	if rest := s.callbacks.missing - len(s.callbacks.missingIDs); rest > 0 {
		fmt.Fprintf(w, "  and %d more\n", rest)
	}
}

func (s summary) verdict() string {
	acknowledged, callbacks := s.async.ok, s.callbacks
	switch {
	case s.unanswered() != "":
		return "broken, " + s.unanswered()
	case callbacks.missing > 0 && callbacks.mismatched > 0:
		return fmt.Sprintf("broken, of %d acknowledged requests %d were not called back and %d with a wrong id",
			acknowledged, callbacks.missing, callbacks.mismatched)
	case callbacks.missing > 0:
		return fmt.Sprintf("broken, %d of %d acknowledged requests were not called back within %v",
			callbacks.missing, acknowledged, s.drain)
	case callbacks.mismatched > 0:
		return fmt.Sprintf("broken, %d of %d acknowledged requests were called back with a wrong id",
			callbacks.mismatched, acknowledged)
	default:
		return fmt.Sprintf("kept its word, all %d acknowledged requests were called back", acknowledged)
	}
}
