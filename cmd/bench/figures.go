package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"runtime"
	"slices"
	"time"
)

// figures are the measured values: a value per repetition for each key.
type figures map[string][]float64

func (f figures) add(key string, value float64) {
	if !math.IsNaN(value) && !math.IsInf(value, 0) { // as after a division by zero
		f[key] = append(f[key], value)
	}
}

// median is the median of values. Of an even number of values, it is the mean of the middle
// two.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// headline is a figure of the table.
type headline struct {
	key  string
	what string
	goal string // as the table shows it: ≥, ≤ or <, and a number; none when empty
}

func headlines() []headline {
	return []headline{
		{"accept_per_s_64", "accepted at 64 connections without workers, requests/s", ""},
		{"ack_p99_ms_at_1000", "acknowledged at 1,000/s, p99 ms", "≤ 15"},
		{"e2e_per_s", "accepted to delivered at saturation, requests/s", ""},
		{"e2e_ratio_before", "… ÷ commit 2e258fb, or the commit of -against", "≥ 1.6"},
		{"e2e_ratio_river", "… ÷ River alone with two empty jobs a request", "≥ 0.7"},
		{"ttc_p50_ms_at_200", "request to callback at 200/s, p50 ms", "≤ 4"},
		{"ttc_p99_ms_at_200", "… p99 ms", "≤ 10"},
		{"ttc_p50_ms_at_500", "request to callback at 500/s, p50 ms", ""},
		{"ttc_p99_ms_at_500", "… p99 ms", ""},
		{"ttc_p50_ms_at_1000", "request to callback at 1,000/s, p50 ms", "≤ 10"},
		{"ttc_p99_ms_at_1000", "… p99 ms", "≤ 40"},
		{"ttc_p50_ms", "request to callback at half of the rate at saturation, p50 ms", "≤ 25"},
		{"ttc_p99_ms", "… p99 ms", "≤ 150"},
		{"goodput_ratio_5x_sync", "sync goodput at 5 × capacity ÷ capacity", "≥ 0.9"},
		{"goodput_ratio_5x_async", "async goodput at 5 × capacity ÷ capacity", "≥ 0.9"},
		{"served_p99_ms_5x", "served at 5 × capacity, p99 ms", "≤ 100"},
		{"refused_p99_ms_5x", "refused at 5 × capacity, p99 ms", "≤ 20"},
		{"rss_mib_5x", "most memory of the server at 5 × capacity, MiB", "< 300"},
		{"sql_per_request", "SQL statements per async request", "≤ 1"},
		{"wal_bytes_per_request", "WAL per async request, bytes", "≤ 8192"},
		{"cpu_us_at_200", "CPU of server and Postgres per async request at 200/s, µs", "≤ 2200"},
		{"cpu_us_at_1000", "… at 1,000/s, µs", "≤ 1150"},
		{"cpu_us_at_saturation", "… at saturation, µs", "≤ 430"},
		{"ordered_ratio", "throughput with 1,000 ordering keys ÷ without", "≥ 0.5"},
		{"blackhole_ratio", "p99 of others' callbacks beside 10,000 to one black hole ÷ alone", "< 2"},
		{"refusing_ratio", "… beside 10,000 to a receiver that refuses connections", "< 2"},
		{"failing_ratio", "… beside 10,000 to a receiver that answers 500", "< 2"},
		{"upstream_ratio", "throughput with work by an HTTP service on the same machine ÷ in process", "≥ 0.6"},
		{"upstream_ttc_more_ms_at_200", "… request to callback at 200/s, p50 ms more", "≤ 3"},
		{"upstream_drained_ratio", "rate at which requests that waited a minute for that service are done ÷ at saturation", "≥ 0.8"},
		{"upstream_most_at_return", "… attempts at a time in its first ten seconds ÷ its limit", "≤ 1"},
		{"upstream_waiting_mib", "memory for 10,000 requests that wait for a service that said 202, MiB", "≤ 20"},
		{"ordinary_ratio", "p99 of callbacks to an ordinary receiver ÷ to an allowed one, 1,000/s", "≤ 1.2"},
		{"attack_ttc_ratio", "p99 of a client's callbacks beside the worst attack ÷ without", "≤ 2"},
		{"attack_ack_ratio", "… of its answers", "≤ 2"},
		{"snapshot_ratio", "throughput at 800/s beside a snapshot open for 5 min ÷ alone", "≥ 0.9"},
		{"snapshot_p99_ratio", "… p99 of the time to callback", "< 1.5"},
		{"grown_ratio", "throughput with 10 million finished requests ÷ with 10 thousand", "≥ 0.9"},
	}
}

// print shows the headlines, and below them all other figures.
func (f figures) print(w io.Writer) {
	rest := maps.Clone(f)
	fmt.Fprintf(w, "\n%-64s%12s%12s%12s  %-8s\n", "", "median", "min", "max", "goal")
	for _, h := range headlines() {
		fmt.Fprintf(w, "%-64s%s  %-8s%s\n", h.what, f.columns(h.key), h.goal, f.verdict(h))
		delete(rest, h.key)
	}
	fmt.Fprintln(w)
	for _, key := range slices.Sorted(maps.Keys(rest)) {
		fmt.Fprintf(w, "%-64s%s\n", key, f.columns(key))
	}
}

func (f figures) columns(key string) string {
	values := f[key]
	if len(values) == 0 {
		return fmt.Sprintf("%12s%12s%12s", "-", "", "")
	}
	return fmt.Sprintf("%12s%12s%12s", short(median(values)), short(slices.Min(values)), short(slices.Max(values)))
}

func (f figures) verdict(h headline) string {
	var relation string
	var bound float64
	if _, err := fmt.Sscan(h.goal, &relation, &bound); err != nil || len(f[h.key]) == 0 {
		return "" // no goal, or no figure
	}
	value := median(f[h.key])
	if map[string]bool{"≥": value >= bound, "≤": value <= bound, "<": value < bound}[relation] {
		return "met"
	}
	return "missed"
}

// short shows three digits or so: more would be noise.
func short(value float64) string {
	digits := 0
	if size := math.Abs(value); size < 10 {
		digits = 2
	} else if size < 100 {
		digits = 1
	}
	return fmt.Sprintf("%.*f", digits, value)
}

// write puts the figures into a file as a flat JSON object: each key with its median,
// key_min and key_max beside it, and null for a headline without a value.
func (f figures) write(path string, circumstances map[string]any) error {
	flat := maps.Clone(circumstances)
	for _, h := range headlines() {
		flat[h.key] = nil
	}
	for key, values := range f {
		flat[key] = round(median(values))
		if len(values) > 1 {
			flat[key+"_min"] = round(slices.Min(values))
			flat[key+"_max"] = round(slices.Max(values))
		}
	}
	encoded, err := json.MarshalIndent(flat, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding figures: %w", err)
	}
	if err := os.WriteFile(path, append(encoded, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing figures: %w", err)
	}
	return nil
}

func round(value float64) float64 { return math.Round(value*1000) / 1000 }

// circumstances are what figures depend on.
func (b *bench) circumstances(start time.Time) map[string]any {
	return map[string]any{
		"started_at": start.UTC().Format(time.RFC3339),
		"took_s":     round(time.Since(start).Seconds()),
		"cores":      runtime.NumCPU(),
		"go":         runtime.Version(),
		"postgres":   b.cluster.version,
		"repeat":     b.repeat,
		"short":      b.short,
	}
}
