package main

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{7}, 7},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		if got := median(test.values); got != test.want {
			t.Errorf("median(%v) = %v, want %v", test.values, got, test.want)
		}
	}
}

func TestFiguresAsJSON(t *testing.T) {
	t.Parallel()
	f := figures{}
	for _, value := range []float64{5, 7.12345, 6} {
		f.add("ordered_ratio", value)
	}
	f.add("rss_mib_5x", 80)
	f.add("e2e_ratio_river", math.Inf(1)) // nothing to divide by
	path := filepath.Join(t.TempDir(), "bench.json")
	if err := f.write(path, map[string]any{"cores": 2}); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(content, &got); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{
		"cores": 2.0, "ordered_ratio": 6.0, "ordered_ratio_min": 5.0, "ordered_ratio_max": 7.123,
		"rss_mib_5x": 80.0, "e2e_ratio_river": nil, "grown_ratio": nil,
	} {
		if value, there := got[key]; !there || value != want {
			t.Errorf("%s = %v (there: %v), want %v", key, value, there, want)
		}
	}
	if _, there := got["rss_mib_5x_min"]; there {
		t.Error("a figure that was measured once has a minimum")
	}
}

func TestFiguresAsTable(t *testing.T) {
	t.Parallel()
	f := figures{"ordered_ratio": {6, 4, 5}, "e2e_ratio_before": {1.5}, "accept_per_s_1": {5123}}
	var table strings.Builder
	f.print(&table)
	for what, words := range map[string][]string{
		"throughput with": {"5.00", "4.00", "6.00", "≥ 0.5", "met"},
		"… ÷ commit":      {"1.50", "≥ 1.6", "missed"},
		"accept_per_s_1":  {"5123"},
	} {
		line := lineOf(table.String(), what)
		for _, word := range words {
			if !strings.Contains(line, word) {
				t.Errorf("the line of %q is %q, want %q in it", what, line, word)
			}
		}
	}
}

func lineOf(table, prefix string) string {
	for line := range strings.Lines(table) {
		if strings.HasPrefix(line, prefix) {
			return line
		}
	}
	return ""
}

// TestGoalsCanBeJudged holds that each goal is a relation and a bound.
func TestGoalsCanBeJudged(t *testing.T) {
	t.Parallel()
	for _, h := range headlines() {
		if h.goal != "" && (figures{h.key: {1}}).verdict(h) == "" {
			t.Errorf("%s: nothing can be told of the goal %q", h.key, h.goal)
		}
	}
	for value, want := range map[float64]string{4: "met", 4.1: "missed"} {
		if got := (figures{"x": {value}}).verdict(headline{"x", "", "≤ 4"}); got != want {
			t.Errorf("%v: got %q, want %q", value, got, want)
		}
	}
}

// TestHeadlinesAreWritten holds that the names which others read stay.
func TestHeadlinesAreWritten(t *testing.T) {
	t.Parallel()
	var got []string
	for _, h := range headlines() {
		got = append(got, h.key)
	}
	want := strings.Fields(`accept_per_s_64 ack_p99_ms_at_1000 e2e_per_s e2e_ratio_before e2e_ratio_river
		ttc_p50_ms_at_200 ttc_p99_ms_at_200 ttc_p50_ms_at_500 ttc_p99_ms_at_500 ttc_p50_ms_at_1000 ttc_p99_ms_at_1000
		ttc_p50_ms ttc_p99_ms goodput_ratio_5x_sync goodput_ratio_5x_async served_p99_ms_5x refused_p99_ms_5x
		rss_mib_5x sql_per_request wal_bytes_per_request cpu_us_at_200 cpu_us_at_1000 cpu_us_at_saturation
		ordered_ratio blackhole_ratio refusing_ratio failing_ratio
		upstream_ratio upstream_ttc_more_ms_at_200 upstream_drained_ratio upstream_most_at_return upstream_waiting_mib
		ordinary_ratio attack_ttc_ratio attack_ack_ratio
		snapshot_ratio snapshot_p99_ratio grown_ratio`)
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestReadmeHasEveryHeadline compares README's table with bench's headlines.
func TestReadmeHasEveryHeadline(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headlines() {
		if !strings.Contains(string(readme), "| `"+h.key+"` |") {
			t.Errorf("README has no line for %s: %s", h.key, h.what)
		}
	}
}
