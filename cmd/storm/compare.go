package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"ringback/cmd/internal/load"
)

const compareUsage = "usage: storm compare A.json B.json"

// compare prints two reports side by side, with the ratio of the second to the
// first.
func compare(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("storm compare", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(stdout, compareUsage)
		return exitOK
	}
	if err != nil || flags.NArg() != 2 {
		fmt.Fprintln(stderr, compareUsage)
		return exitUsage
	}
	first, errFirst := readReport(flags.Arg(0))
	second, errSecond := readReport(flags.Arg(1))
	if err := errors.Join(errFirst, errSecond); err != nil {
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	printComparison(stdout, first, second, flags.Args())
	return exitOK
}

// readReport reads a report that -json wrote.
func readReport(path string) (*load.Report, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading a report: %w", err)
	}
	report, err := load.ReadReport(text)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return report, nil
}

// comparison is a line: a figure of both reports.
type comparison struct {
	name   string
	format string
	value  func(*load.Report) float64
}

func comparisons() []comparison {
	lines := []comparison{
		{"offered, requests/s", "%.1f", func(r *load.Report) float64 { return r.OfferedRate }},
		{"achieved, requests/s", "%.1f", func(r *load.Report) float64 { return r.AchievedRate }},
		{"sync ok, /s", "%.1f", func(r *load.Report) float64 { return r.Sync.Goodput }},
		{"async delivered, /s", "%.1f", func(r *load.Report) float64 { return r.Async.Goodput }},
	}
	for _, endpoint := range []string{"sync", "async"} {
		for _, count := range []string{"shed", "rejected", "failed", "ambiguous", "unsent"} {
			lines = append(lines, comparison{endpoint + " " + count + ", %", "%.2f", metric(endpoint + "." + count)})
		}
	}
	for _, count := range []string{"missing", "pending", "duplicates", "orphans", "mismatched"} {
		lines = append(lines, comparison{count, "%.0f", metric(count)})
	}
	for _, series := range []string{
		"sync.latency", "sync.service", "sync.shed", "async.latency", "async.service",
		"async.shed", "async.time_to_callback",
	} {
		for _, quantile := range []string{"p50", "p99", "p999", "max"} {
			name := strings.ReplaceAll(strings.ReplaceAll(series, ".", " "), "_", " ")
			lines = append(lines, comparison{name + " " + quantile + ", ms", "%.1f", metric(series + "." + quantile)})
		}
	}
	return append(lines,
		comparison{"storm's CPU, µs a request", "%.0f", func(r *load.Report) float64 { return r.Generator.CPUMicroseconds }})
}

// metric is the metric of that name in -slo, too.
func metric(name string) func(*load.Report) float64 {
	measure, _, _ := findMetric(name)
	return func(r *load.Report) float64 {
		value, _ := measure(r) // 0 where nothing was measured
		return value
	}
}

func printComparison(w io.Writer, first, second *load.Report, paths []string) {
	fmt.Fprintf(w, "%-32s%16s%16s%10s\n", "", shorten(paths[0]), shorten(paths[1]), "B/A")
	for _, line := range comparisons() {
		a, b := line.value(first), line.value(second)
		if a == 0 && b == 0 {
			continue
		}
		fmt.Fprintf(w, "%-32s%16s%16s%10s\n", line.name, fmt.Sprintf(line.format, a), fmt.Sprintf(line.format, b), ratio(a, b))
	}
	for _, difference := range differences(first, second) {
		fmt.Fprintf(w, "\nNot alike: %s", difference)
	}
	if len(differences(first, second)) > 0 {
		fmt.Fprintln(w)
	}
}

// shorten leaves the end of a path, which tells most.
func shorten(path string) string {
	name := []rune(strings.TrimSuffix(filepath.Base(path), ".json"))
	return string(name[max(0, len(name)-15):])
}

func ratio(a, b float64) string {
	if a == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", b/a)
}

// differences are the settings that the two runs don't share.
func differences(first, second *load.Report) []string {
	var lines []string
	add := func(name string, a, b any) {
		if a != b {
			lines = append(lines, fmt.Sprintf("%s %v and %v", name, a, b))
		}
	}
	add("profile", first.Profile, second.Profile)
	add("rate", first.Rate, second.Rate)
	add("duration", first.DurationS, second.DurationS)
	add("warm-up", first.WarmupS, second.WarmupS)
	add("arrivals", first.Arrivals, second.Arrivals)
	add("mix", first.Mix, second.Mix)
	add("work", first.Work, second.Work)
	add("receivers", first.Receivers, second.Receivers)
	add("connections", first.Connections, second.Connections)
	return lines
}
