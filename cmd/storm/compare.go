package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ringback/cmd/internal/load"
)

const compareUsage = "usage: storm compare A.json B.json"

// compare prints two reports side by side, with the ratio of the second to the
// first.
func compare(args []string, stdout, stderr io.Writer) int {
	if len(args) == 1 && (args[0] == "-h" || args[0] == "-help" || args[0] == "--help") {
		fmt.Fprintln(stdout, compareUsage)
		return exitOK
	}
	if len(args) != 2 {
		fmt.Fprintln(stderr, compareUsage)
		return exitUsage
	}
	first, errFirst := readReport(args[0])
	second, errSecond := readReport(args[1])
	if err := errors.Join(errFirst, errSecond); err != nil {
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	printComparison(stdout, first, second, args)
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

// printComparison leaves out numbers that are zero in both, and of the quantiles all but
// two.
func printComparison(w io.Writer, first, second *load.Report, paths []string) {
	fmt.Fprintf(w, "%-48s%16s%16s%10s\n", "", shorten(paths[0]), shorten(paths[1]), "B/A")
	one, other := first.Numbers(), second.Numbers()
	maps.DeleteFunc(one, func(name string, a float64) bool {
		last := name[strings.LastIndex(name, ".")+1:]
		return a == 0 && other[name] == 0 || slices.Contains([]string{"seed", "count", "p90", "p95", "p999", "max", "mean"}, last)
	})
	for _, name := range slices.Sorted(maps.Keys(one)) {
		ratio := "-"
		if one[name] != 0 {
			ratio = fmt.Sprintf("%.2f", other[name]/one[name])
		}
		fmt.Fprintf(w, "%-48s%16.2f%16.2f%10s\n", name, one[name], other[name], ratio)
	}
	for _, difference := range differences(first, second) {
		fmt.Fprintf(w, "\nNot alike: %s", difference)
	}
	fmt.Fprintln(w)
}

// shorten leaves the end of a path, which tells most.
func shorten(path string) string {
	name := []rune(strings.TrimSuffix(filepath.Base(path), ".json"))
	return string(name[max(0, len(name)-15):])
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
