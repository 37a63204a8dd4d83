package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/receivers"
)

const maxListed = 10 // missing requests that are printed, and pending requests

// exitStatus is exitBroken for a broken promise or a run that proves nothing, and otherwise
// exitMissed for a missed objective.
func exitStatus(r *load.Report) int {
	switch {
	case len(r.Breaches()) > 0:
		return exitBroken
	case len(r.Missed()) > 0:
		return exitMissed
	}
	return exitOK
}

// printSummary writes the summary as plain text that fits 110 columns.
func printSummary(w io.Writer, r *load.Report) {
	length := " for"
	if r.Interrupted {
		length = ", interrupted after"
	}
	fmt.Fprintf(w, "Storm on %s, %s%s %.1f s: %.1f requests/s offered, %.1f/s sent\n",
		r.Server, r.Profile, length, r.DurationS, r.OfferedRate, r.AchievedRate)
	for _, table := range tables(r) {
		table.print(w)
	}
	printUndelivered(w, "Not called back", r.Async.Missing, r.Async.MissingRequests)
	printUndelivered(w, "Still to be called back, at receivers that are slow or flaky", r.Async.Pending, r.Async.PendingRequests)
	for _, note := range notes(r) {
		fmt.Fprintf(w, "\n%s\n", note)
	}
	fmt.Fprintf(w, "\n%s\n", r.Verdict())
}

// table is a part of the summary, and of the page.
type table struct {
	Name    string
	Columns []string
	Rows    []row
}

type row struct {
	Name  string
	Cells []string
}

// tables leaves out empty tables and rows.
func tables(r *load.Report) []table {
	requests := table{"requests", strings.Fields("sent ok shed rejected failed ambiguous unsent"), nil}
	for i, endpoint := range r.Endpoints() {
		if endpoint.Sent+endpoint.Unsent > 0 {
			requests.add([]string{"sync", "async"}[i], endpoint.Sent, endpoint.OK, endpoint.Shed,
				endpoint.Rejected, endpoint.Failed, endpoint.Ambiguous, endpoint.Unsent)
		}
	}
	latency := table{"ms since due", strings.Fields("count p50 p90 p95 p99 p99.9 max"), nil}
	latency.addQuantiles("sync answered", r.Sync.Latency)
	latency.addQuantiles("sync shed", r.Sync.Shedded)
	latency.addQuantiles("async acknowledged", r.Async.Latency)
	latency.addQuantiles("async shed", r.Async.Shedded)
	latency.addQuantiles("called back", r.Async.TimeToCallback)
	latency.addQuantiles("sent", r.Generator.SendDelay)
	callbacks := table{"callbacks", strings.Fields("acked delivered dead pending missing mismatched duplicates orphans"), nil}
	if a := r.Async; a.Sent > 0 {
		callbacks.add("of async requests", a.Acked, a.Delivered, a.Dead, a.Pending, a.Missing, a.Mismatched, a.Duplicates, a.Orphans)
	}
	kinds := table{"receivers", []string{"acked", "delivered", "attempts", "p50 ms", "p99 ms", "max ms"}, nil}
	for kind := range receivers.Behaviours {
		if of, found := r.Async.Kinds[kind.String()]; found {
			took := of.TimeToCallback
			kinds.add(kind.String(), of.Acked, of.Delivered, of.Attempts, took.P50, took.P99, took.Max)
		}
	}
	objectives := table{"objectives", []string{"measured", ""}, nil}
	for _, o := range r.Objectives {
		var measured any = o.Measured
		if o.NoSample {
			measured = "no sample"
		}
		objectives.add(o.Objective, measured, map[bool]string{true: "met", false: "missed"}[o.Met])
	}
	all := []table{requests, latency, callbacks, kinds, objectives}
	return slices.DeleteFunc(all, func(t table) bool { return len(t.Rows) == 0 })
}

// add adds a row of texts, counts, and numbers with a digit after the point.
func (t *table) add(name string, values ...any) {
	cells := make([]string, len(values))
	for i, value := range values {
		cells[i] = fmt.Sprint(value)
		if number, ok := value.(float64); ok {
			cells[i] = fmt.Sprintf("%.1f", number)
		}
	}
	t.Rows = append(t.Rows, row{name, cells})
}

func (t *table) addQuantiles(name string, of load.Quantiles) {
	if of.Count > 0 {
		t.add(name, of.Count, of.P50, of.P90, of.P95, of.P99, of.P999, of.Max)
	}
}

func (t *table) print(w io.Writer) {
	width := 20
	for _, row := range t.Rows {
		width = max(width, len(row.Name))
	}
	line := func(indent int, row row) {
		fmt.Fprintf(w, "%*s%-*s", indent, "", width+2-indent, row.Name)
		for _, cell := range row.Cells {
			fmt.Fprintf(w, "%11s", cell)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
	line(0, row{t.Name, t.Columns})
	for _, row := range t.Rows {
		line(2, row)
	}
}

// printUndelivered explains requests that were not called back, a line each.
func printUndelivered(w io.Writer, title string, total int, explained []load.Undelivered) {
	if total == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s:\n", title)
	explained = explained[:min(len(explained), maxListed)]
	for _, request := range explained {
		fmt.Fprintf(w, "  %s: %s\n", request.ID, request.Server)
	}
	if rest := total - len(explained); rest > 0 {
		fmt.Fprintf(w, "  and %d more (-json lists up to %d)\n", rest, load.MaxReported)
	}
}

// notes are the findings that no table has.
func notes(r *load.Report) (notes []string) {
	for i, endpoint := range r.Endpoints() {
		var reasons []string
		for _, reason := range slices.Sorted(maps.Keys(endpoint.Reasons)) {
			reasons = append(reasons, fmt.Sprintf("%s %d", reason, endpoint.Reasons[reason]))
		}
		if len(reasons) > 0 {
			notes = append(notes, []string{"sync", "async"}[i]+": "+strings.Join(reasons, ", "))
		}
	}
	for _, found := range []struct {
		text  string
		count int
	}{
		{"Called back without a valid signature", r.Async.BadSignatures},
		{"Called back after a later request of the same ordering key", r.Async.OutOfOrder},
		{"Called back to say that the work failed", r.Async.WorkFailed},
		{"Called back without an acknowledgement, which got lost", r.Async.Unacknowledged},
		{"Called back with results that there was no time to compute again", r.Async.Unverified},
		{"Unsent because no connection was free in time (-connections, -timeout)", r.Unsent()},
	} {
		if found.count > 0 {
			notes = append(notes, fmt.Sprintf("%s: %d", found.text, found.count))
		}
	}
	if r.Async.Delivered+r.Async.Unacknowledged > 0 && !r.Async.SignaturesRead {
		notes = append(notes, "Signatures of callbacks were not checked, for want of the secret: -secret or RINGBACK_SECRET names it.")
	}
	g := r.Generator
	notes = append(notes, fmt.Sprintf("Storm itself: rate off by %.2f %% (worst second %.2f %%), p99 %.1f ms late, %.0f µs CPU a request, %.0f MiB.",
		g.RateError, g.WorstRateError, g.Late.P99, g.CPUMicroseconds, g.PeakMemory))
	if r.IsLate() {
		notes = append(notes, "It fell behind schedule by itself: it has too little CPU for this rate.")
	}
	return notes
}
