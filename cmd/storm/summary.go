package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"charm.land/lipgloss/v2"
)

const (
	maxListed   = 10   // missing requests that are printed, and pending ones
	maxReported = 1000 // likewise, in the JSON
)

// exitStatus is exitBroken for a broken promise and for a run that proves
// nothing, before exitMissed for a missed objective.
func (r *report) exitStatus() int {
	switch {
	case len(r.breaches()) > 0:
		return exitBroken
	case len(r.missed()) > 0:
		return exitMissed
	}
	return exitOK
}

// breaches tells what makes the run a failure, the worst first.
func (r *report) breaches() []string {
	if unanswered := r.unanswered(); unanswered != "" {
		return []string{unanswered}
	}
	var breaches []string
	add := func(count, of int, text string) {
		if count > 0 {
			breaches = append(breaches, fmt.Sprintf("%d of %d %s", count, of, text))
		}
	}
	add(r.Async.Missing, r.Async.Acked, "acknowledged requests were not called back")
	called := r.Async.Delivered + r.Async.Unacknowledged
	add(r.Async.Mismatched, called, "requests were called back wrongly")
	add(r.Async.BadSignatures, called, "requests were called back without a valid signature")
	add(r.Async.OutOfOrder, called, "requests were called back out of order")
	if lost := r.lost(); lost > r.Sync.OK+r.Async.OK {
		breaches = append(breaches, fmt.Sprintf("%d of %d requests were rejected, failed or lost", lost, r.sent()))
	}
	if unsent := r.unsent(); unsent > 0 {
		breaches = append(breaches, fmt.Sprintf("%d requests could not be sent in time", unsent))
	}
	return breaches
}

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

func (r *report) sent() int { return r.Sync.Sent + r.Async.Sent }

// lost is how many requests had neither the answer that they should have, nor were
// turned away.
func (r *report) lost() int {
	lost := 0
	for _, endpoint := range r.endpoints("") {
		lost += endpoint.Rejected + endpoint.Failed + endpoint.Ambiguous
	}
	return lost
}

func (r *report) unsent() int { return r.Sync.Unsent + r.Async.Unsent }

// missed are the objectives that were not met.
func (r *report) missed() []string {
	var missed []string
	for _, objective := range r.Objectives {
		if !objective.Met {
			missed = append(missed, objective.String())
		}
	}
	return missed
}

// verdict is one sentence.
func (r *report) verdict() string {
	finding := r.finding()
	return strings.ToUpper(finding[:1]) + finding[1:] + "."
}

func (r *report) finding() string {
	breaches, missed := r.breaches(), r.missed()
	switch {
	case len(breaches) > 0:
		return "broken: " + strings.Join(append(breaches, missed...), "; ")
	case len(missed) > 0:
		return "objectives missed: " + strings.Join(missed, "; ") + " (otherwise " + r.kept() + ")"
	case r.Async.Acked > 0:
		return "kept its word: " + r.kept()
	}
	return r.kept()
}

// kept tells what a run that isn't broken has shown.
func (r *report) kept() string {
	text := r.called()
	if r.Async.Acked > 0 && r.lost() > 0 {
		text += fmt.Sprintf("; %d of %d requests were rejected, failed or lost", r.lost(), r.sent())
	}
	return text
}

// answered tells how requests were answered of which none was acknowledged.
func (r *report) answered() string {
	if r.Sync.OK == r.sent() {
		return fmt.Sprintf("all %d requests were answered as they should be", r.sent())
	}
	text := fmt.Sprintf("of %d requests, %d were answered as they should be", r.sent(), r.Sync.OK)
	if shed := r.Sync.Shed + r.Async.Shed; shed > 0 {
		text += fmt.Sprintf(", %d were shed", shed)
	}
	if lost := r.lost(); lost > 0 {
		text += fmt.Sprintf(", %d were rejected, failed or lost", lost)
	}
	return text
}

// called tells what became of the acknowledged requests, if there are any.
func (r *report) called() string {
	switch {
	case r.Async.Acked == 0:
		return r.answered()
	case r.Async.Dead+r.Async.Pending > 0:
		return "of " + r.fates()
	}
	return fmt.Sprintf("all %d acknowledged requests were called back", r.Async.Acked)
}

// fates tells what became of the acknowledged requests where not all were
// called back, and none is missing.
func (r *report) fates() string {
	text := fmt.Sprintf("%d acknowledged requests, %d were called back", r.Async.Acked, r.Async.Delivered)
	if r.Async.Dead > 0 {
		text += fmt.Sprintf(", %d went to receivers that take nothing", r.Async.Dead)
	}
	if r.Async.Pending > 0 {
		text += fmt.Sprintf(", %d are still to come at slow or flaky ones", r.Async.Pending)
	}
	return text
}

// print writes the summary as plain text that fits 110 columns.
func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "Storm on %s, %s for %.1f s: %.1f requests/s offered, %.1f/s sent\n",
		r.Server, r.Profile, r.DurationS, r.OfferedRate, r.AchievedRate)
	r.printRequests(w)
	r.printLatency(w)
	r.printCallbacks(w)
	r.printKinds(w)
	printUndelivered(w, "Not called back", r.Async.Missing, r.Async.MissingRequests)
	r.printAuditError(w)
	printUndelivered(w, "Still to be called back, at receivers that are slow or flaky", r.Async.Pending, r.Async.PendingRequests)
	r.printNotes(w)
	r.printObjectives(w)
	color := map[int]string{exitOK: "10", exitMissed: "11", exitBroken: "9"}[r.exitStatus()]
	// Without colours where w is not a terminal.
	_, _ = lipgloss.Fprintln(w, "\n"+lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Color(color)).Inline(true).
		Render(r.verdict()))
}

// requestRow is an endpoint of the table of requests.
type requestRow struct {
	Name string
	endpointReport
}

// requestRows leaves out an endpoint that nothing was due at.
func (r *report) requestRows() []requestRow {
	rows := []requestRow{{"sync", r.Sync}, {"async", r.Async.endpointReport}}
	return slices.DeleteFunc(rows, func(row requestRow) bool { return row.Sent+row.Unsent == 0 })
}

func (r *report) printRequests(w io.Writer) {
	printHead(w, "requests", "sent", "ok", "shed", "rejected", "failed", "ambiguous", "unsent")
	for _, row := range r.requestRows() {
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
	quantiles
}

// latencyRows leaves out what did not happen.
func (r *report) latencyRows() []latencyRow {
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

func (r *report) printLatency(w io.Writer) {
	printHead(w, "ms since due", "count", "p50", "p90", "p95", "p99", "p99.9", "max")
	for _, row := range r.latencyRows() {
		printQuantiles(w, row.Name, row.quantiles)
	}
}

func (r *report) printCallbacks(w io.Writer) {
	a := r.Async
	if a.Sent == 0 {
		return
	}
	printHead(w, "callbacks", "acked", "delivered", "dead", "pending", "missing", "mismatched", "duplicates", "orphans")
	printRow(w, "of async requests", a.Acked, a.Delivered, a.Dead, a.Pending, a.Missing, a.Mismatched, a.Duplicates, a.Orphans)
}

func (r *report) printKinds(w io.Writer) {
	if len(r.Async.Kinds) == 0 {
		return
	}
	printHead(w, "receivers", "acked", "delivered", "attempts", "p50 ms", "p99 ms", "max ms")
	for kind := range kinds {
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

func printQuantiles(w io.Writer, name string, of quantiles) {
	fmt.Fprintf(w, "  %-20s%11d", name, of.Count)
	for _, value := range []float64{of.P50, of.P90, of.P95, of.P99, of.P999, of.Max} {
		fmt.Fprintf(w, "%11.1f", value)
	}
	fmt.Fprintln(w)
}

// printUndelivered explains requests that were not called back, a line each.
func printUndelivered(w io.Writer, title string, total int, explained []lostRequest) {
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
		fmt.Fprintf(w, "  and %d more (-json lists up to %d)\n", rest, maxReported)
	}
}

func (r *report) printAuditError(w io.Writer) {
	if r.Async.AuditError != "" {
		fmt.Fprintf(w, "  database: %s\n", r.Async.AuditError)
	}
}

// printNotes tells what is not in the tables.
func (r *report) printNotes(w io.Writer) {
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
	note("Unsent because no connection was free in time (-connections, -timeout)", r.unsent())
	fmt.Fprintf(w, "\n%s\n", r.generatorText())
}

func (r *report) generatorText() string {
	g := r.Generator
	text := fmt.Sprintf("Storm itself: rate off by %.2f %% (worst second %.2f %%), p99 %.1f ms late, %.0f µs CPU a request, %.0f MiB.",
		g.RateError, g.WorstRateError, g.Late.P99, g.CPUMicroseconds, g.PeakMemory)
	if r.isLate() {
		text += "\nIt fell behind schedule by itself: it has too little CPU for this rate."
	}
	return text
}

// isLate tells whether the generator, not the server, spoils the figures. A
// tenth of a second is more than scheduling jitter.
func (r *report) isLate() bool { return r.Generator.Late.P99 > 100 }

func (r *report) printObjectives(w io.Writer) {
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
