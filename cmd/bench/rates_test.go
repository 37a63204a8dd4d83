package main

import (
	"io"
	"maps"
	"slices"
	"testing"

	"ringback/cmd/internal/load"
)

func TestFiguresOfARate(t *testing.T) {
	t.Parallel()
	b := &bench{figures: figures{}, out: io.Discard}
	told := new(load.Report)
	told.Async.Latency = load.Quantiles{P50: 1, P99: 2}
	told.Async.TimeToCallback = load.Quantiles{P50: 3, P99: 4}
	b.addRate(200, told, usage{accepted: 400, server: 200_000, postgres: 600_000})
	want := figures{
		"ack_p50_ms_at_200": {1}, "ack_p99_ms_at_200": {2}, "ttc_p50_ms_at_200": {3}, "ttc_p99_ms_at_200": {4},
		"cpu_us_at_200": {2000},
	}
	if !maps.EqualFunc(b.figures, want, slices.Equal) {
		t.Errorf("got %v, want %v", b.figures, want)
	}
	b = &bench{figures: figures{}, out: io.Discard}
	if b.addRate(200, told, usage{accepted: 400, server: 1_000_000}); b.figures["cpu_us_at_200"] != nil {
		t.Error("the CPU time of a Postgres elsewhere is told")
	}
}
