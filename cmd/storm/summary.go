package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"charm.land/lipgloss/v2"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/receivers"
)

const maxListed = 10 // printed missing requests, and pending requests

// exitStatus is exitBroken for a broken promise and for a run that proves
// nothing, before exitMissed for a missed objective.
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
	fmt.Fprintf(w, "Storm on %s, %s for %.1f s: %.1f requests/s offered, %.1f/s sent\n",
		r.Server, r.Profile, r.DurationS, r.OfferedRate, r.AchievedRate)
	printRequests(w, r)
	printLatency(w, r)
	printCallbacks(w, r)
	printKinds(w, r)
	printUndelivered(w, "Not called back", r.Async.Missing, r.Async.MissingRequests)
	printAuditError(w, r)
	printUndelivered(w, "Still to be called back, at receivers that are slow or flaky", r.Async.Pending, r.Async.PendingRequests)
	printNotes(w, r)
	printObjectives(w, r)
	color := map[int]string{exitOK: "10", exitMissed: "11", exitBroken: "9"}[exitStatus(r)]
	// Without colours where w is not a terminal.
	_, _ = lipgloss.Fprintln(w, "\n"+lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Color(color)).Inline(true).
		Render(r.Verdict()))
}

// requestRow is an endpoint of the table of requests.
type requestRow struct {
	Name string
	load.Endpoint
}

// requestRows leaves out an endpoint that nothing was due at.
func requestRows(r *load.Report) []requestRow {
	rows := []requestRow{{"sync", r.Sync}, {"async", r.Async.Endpoint}}
	return slices.DeleteFunc(rows, func(row requestRow) bool { return row.Sent+row.Unsent == 0 })
}

func printRequests(w io.Writer, r *load.Report) {
	printHead(w, "requests", "sent", "ok", "shed", "rejected", "failed", "ambiguous", "unsent")
	for _, row := range requestRows(r) {
		printRow(w, row.Name, row.Sent, row.OK, row.Shed, row.Rejected, row.Failed, row.Ambiguous, row.Unsent)
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

// latencyRow is a line of the table of latencies.
type latencyRow struct {
	Name string
	load.Quantiles
}

// latencyRows leaves out empty rows.
func latencyRows(r *load.Report) []latencyRow {
	rows := []latencyRow{
		{"sync answered", r.Sync.Latency},
		{"sync shed", r.Sync.Shedded},
		{"async acknowledged", r.Async.Latency},
		{"async shed", r.Async.Shedded},
		{"called back", r.Async.TimeToCallback},
		{"sent", r.Generator.Left},
	}
	return slices.DeleteFunc(rows, func(row latencyRow) bool { return row.Count == 0 })
}

func printLatency(w io.Writer, r *load.Report) {
	printHead(w, "ms since due", "count", "p50", "p90", "p95", "p99", "p99.9", "max")
	for _, row := range latencyRows(r) {
		printQuantiles(w, row.Name, row.Quantiles)
	}
}

func printCallbacks(w io.Writer, r *load.Report) {
	a := r.Async
	if a.Sent == 0 {
		return
	}
	printHead(w, "callbacks", "acked", "delivered", "dead", "pending", "missing", "mismatched", "duplicates", "orphans")
	printRow(w, "of async requests", a.Acked, a.Delivered, a.Dead, a.Pending, a.Missing, a.Mismatched, a.Duplicates, a.Orphans)
}

func printKinds(w io.Writer, r *load.Report) {
	if len(r.Async.Kinds) == 0 {
		return
	}
	printHead(w, "receivers", "acked", "delivered", "attempts", "p50 ms", "p99 ms", "max ms")
	for kind := range receivers.Behaviours {
		if of, found := r.Async.Kinds[kind.String()]; found {
			fmt.Fprintf(w, "  %-20s%11d%11d%11d%11.1f%11.1f%11.1f\n", kind, of.Acked, of.Delivered, of.Attempts,
				of.TimeToCallback.P50, of.TimeToCallback.P99, of.TimeToCallback.Max)
		}
	}
}

func printHead(w io.Writer, name string, columns ...string) {
	fmt.Fprintf(w, "\n%-22s", name)
	for _, column := range columns {
		fmt.Fprintf(w, "%11s", column)
	}
	fmt.Fprintln(w)
}

func printRow(w io.Writer, name string, counts ...int) {
	fmt.Fprintf(w, "  %-20s", name)
	for _, count := range counts {
		fmt.Fprintf(w, "%11d", count)
	}
	fmt.Fprintln(w)
}

func printQuantiles(w io.Writer, name string, of load.Quantiles) {
	fmt.Fprintf(w, "  %-20s%11d", name, of.Count)
	for _, value := range []float64{of.P50, of.P90, of.P95, of.P99, of.P999, of.Max} {
		fmt.Fprintf(w, "%11.1f", value)
	}
	fmt.Fprintln(w)
}

// printUndelivered explains requests that were not called back, a line each.
func printUndelivered(w io.Writer, title string, total int, explained []load.Lost) {
	if total == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s:\n", title)
	explained = explained[:min(len(explained), maxListed)]
	for _, request := range explained {
		fmt.Fprintf(w, "  %s: %s\n", request.ID, request.Server)
		if request.Audit != "" {
			fmt.Fprintf(w, "    database: %s\n", request.Audit)
		}
	}
	if rest := total - len(explained); rest > 0 {
		fmt.Fprintf(w, "  and %d more (-json lists up to %d)\n", rest, load.MaxReported)
	}
}

func printAuditError(w io.Writer, r *load.Report) {
	if r.Async.AuditError != "" {
		fmt.Fprintf(w, "  database: %s\n", r.Async.AuditError)
	}
}

// printNotes prints the findings outside the tables.
func printNotes(w io.Writer, r *load.Report) {
	note := func(text string, count int) {
		if count > 0 {
			fmt.Fprintf(w, "\n%s: %d\n", text, count)
		}
	}
	note("Called back without a valid signature", r.Async.BadSignatures)
	note("Called back after a later request of the same ordering key", r.Async.OutOfOrder)
	note("Called back to say that the work failed", r.Async.WorkFailed)
	note("Called back without an acknowledgement, which got lost", r.Async.Unacknowledged)
	note("Called back with results that there was no time to compute again", r.Async.Unverified)
	note("Unsent because no connection was free in time (-connections, -timeout)", r.Unsent())
	fmt.Fprintf(w, "\n%s\n", generatorText(r))
}

func generatorText(r *load.Report) string {
	g := r.Generator
	text := fmt.Sprintf("Storm itself: rate off by %.2f %% (worst second %.2f %%), p99 %.1f ms late, %.0f µs CPU a request, %.0f MiB.",
		g.RateError, g.WorstRateError, g.Late.P99, g.CPUMicroseconds, g.PeakMemory)
	if r.IsLate() {
		text += "\nIt fell behind schedule by itself: it has too little CPU for this rate."
	}
	return text
}

func printObjectives(w io.Writer, r *load.Report) {
	if len(r.Objectives) == 0 {
		return
	}
	fmt.Fprintln(w, "\nobjectives")
	for _, objective := range r.Objectives {
		if objective.NoSample {
			fmt.Fprintf(w, "  %-50s %12s  missed\n", objective.Objective, "no sample")
			continue
		}
		fmt.Fprintf(w, "  %-50s %12.2f  %s\n", objective.Objective, objective.Measured,
			map[bool]string{true: "met", false: "missed"}[objective.Met])
	}
}
