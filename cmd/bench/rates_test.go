package main

import (
	"io"
	"maps"
	"slices"
	"testing"
	"time"

	"ringback/cmd/internal/load"
)

func TestFiguresOfARate(t *testing.T) {
	t.Parallel()
	b := &bench{figures: figures{}, cluster: &cluster{postmaster: 1}, out: io.Discard}
	told := new(load.Report)
	told.Async.Latency = load.Quantiles{P50: 1, P99: 2}
	told.Async.TimeToCallback = load.Quantiles{P50: 3, P99: 4}
	b.reportRate(200, told, spent{accepted: 400, usage: usage{server: 200 * time.Millisecond, postgres: 600 * time.Millisecond}})
	want := figures{
		"ack_p50_ms_at_200": {1}, "ack_p99_ms_at_200": {2}, "ttc_p50_ms_at_200": {3}, "ttc_p99_ms_at_200": {4},
		"cpu_us_at_200": {2000},
	}
	if !maps.EqualFunc(b.figures, want, slices.Equal) {
		t.Errorf("got %v, want %v", b.figures, want)
	}
	b = &bench{figures: figures{}, cluster: &cluster{}, out: io.Discard}
	if b.reportRate(200, told, spent{accepted: 400, usage: usage{server: time.Second}}); b.figures["cpu_us_at_200"] != nil {
		t.Error("the CPU time of a Postgres elsewhere is told")
	}
}
