package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ringback/cmd/internal/load"
)

// The contract of -json. Others read these fields: add, but take none away.
const reportFields = `

server started_at duration_s drain_s warmup_s interrupted
profile rate arrivals mix work receivers connections seed
offered_rate achieved_rate goodput.sync_per_s goodput.async_per_s
sync.sent sync.ok sync.shed sync.rejected sync.failed sync.ambiguous sync.unsent sync.goodput_per_s
sync.latency_ms.count sync.latency_ms.p50 sync.latency_ms.p90 sync.latency_ms.p95 sync.latency_ms.p99
sync.latency_ms.p999 sync.latency_ms.max sync.latency_ms.mean sync.service_ms.p99 sync.shed_ms.p99
async.sent async.ok async.shed async.rejected async.failed async.ambiguous async.unsent async.goodput_per_s
async.latency_ms.p99 async.service_ms.p99 async.shed_ms.p99 async.time_to_callback_ms.p99
async.acked async.delivered async.dead async.pending async.missing async.duplicates async.orphans async.mismatched
async.attempts async.signatures_read async.bad_signatures async.out_of_order async.work_failed async.unacknowledged async.verified async.unverified
generator.late_ms.p99 generator.left_ms.p99 generator.rate_error_percent
generator.worst_second_rate_error_percent generator.cpu_us_per_request generator.peak_memory_mib`

func TestReportKeepsItsContract(t *testing.T) {
	t.Parallel()
	service := start(t, &service{})
	file := filepath.Join(t.TempDir(), "report.json")
	runStormPlainly(t, against(service, "-json", file)...).want(t, exitOK)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var report map[string]any
	if err := json.Unmarshal(text, &report); err != nil {
		t.Fatal(err)
	}
	for _, field := range strings.Fields(reportFields) {
		var value any = report
		for name := range strings.SplitSeq(field, ".") {
			object, _ := value.(map[string]any)
			value = object[name]
		}
		if value == nil {
			t.Errorf("%s is missing", field)
		}
	}
}

func TestReportLeavesTheWarmUpOut(t *testing.T) {
	t.Parallel()
	service := start(t, &service{})
	output := runStorm(t, "-target", service.url, "-rate", "200", "-duration", "400ms", "-warmup", "200ms")
	output.want(t, exitOK)
	report := output.report
	if report.Sync.OK != 40 || report.Async.Delivered != 40 {
		t.Errorf("counts: got %d ok and %d delivered, want all 40 of both", report.Sync.OK, report.Async.Delivered)
	}
	for name, got := range map[string]load.Quantiles{
		"sync latency": report.Sync.Latency, "async latency": report.Async.Latency,
		"time to callback": report.Async.TimeToCallback, "left": {Count: report.Generator.SendDelay.Count / 2},
	} {
		if got.Count != 20 {
			t.Errorf("%s: got %d values, want 20", name, got.Count)
		}
	}
	// At most 40 within 0.2 s: requests that were due before may end in it.
	if report.Sync.Goodput > 200 || report.Goodput.Sync != report.Sync.Goodput {
		t.Errorf("goodput: got %v, want at most 200/s", report.Sync.Goodput)
	}
}

func TestReportThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	service := start(t, &service{})
	for _, flag := range []string{"-json", "-html"} {
		output := runStormPlainly(t, against(service, flag, filepath.Join(t.TempDir(), "none", "report"))...)
		output.want(t, exitUsage, "opening the report")
	}
	if got := service.syncCount.Load(); got != 0 {
		t.Errorf("requests: got %d, want none before the files are open", got)
	}
}

func TestVerdictThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	closed, err := os.CreateTemp(t.TempDir(), "stdout")
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	found := &load.Findings{}
	if got := finish(found, config{}, closed, &stderr); got != exitUsage || !strings.Contains(stderr.String(), "file already closed") {
		t.Errorf("got status %d and %q, want %d and why nobody saw it", got, stderr.String(), exitUsage)
	}
}
