package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
async.bad_signatures async.out_of_order async.work_failed async.unacknowledged async.verified async.unverified
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
	for name, got := range map[string]quantiles{
		"sync latency": report.Sync.Latency, "async latency": report.Async.Latency,
		"time to callback": report.Async.TimeToCallback, "left": {Count: report.Generator.Left.Count / 2},
	} {
		if got.Count != 20 {
			t.Errorf("%s: got %d values, want 20", name, got.Count)
		}
	}
	// At most 40 within 0.2 s: what was due before may be done in it.
	if report.Sync.Goodput > 200 || report.Goodput.Sync != report.Sync.Goodput {
		t.Errorf("goodput: got %v, want at most 200/s", report.Sync.Goodput)
	}
}

func TestTallyOfAWindow(t *testing.T) {
	t.Parallel()
	const second = micros(time.Second / time.Microsecond)
	config := defaults()
	config.mix = mix{sync: 1}
	ledger := newLedger(config, 5)
	ledger.entries = []entry{
		{at: 0, took: 9, outcome: ok},                       // in the warm-up
		{at: second, left: 500, took: 1500, outcome: ok},    // counts
		{at: 2 * second, took: 2000, outcome: shed},         // shed
		{at: 3*second - 1, left: 10, took: 20, outcome: ok}, // too late for goodput
		{at: 2 * second, outcome: unsent},
	}
	tally := ledger.tally(window{warmup: second, end: 3 * second})
	report := tally.sync.report(&ledger.sync, tally.window)
	if report.Sent != 4 || report.OK != 3 || report.Shed != 1 || report.Unsent != 1 {
		t.Errorf("counts: got %+v", report)
	}
	if report.Latency.Count != 2 || report.Latency.Max != 1.5 || report.Service.Max != 1 || report.Shedded.Max != 2 {
		t.Errorf("latencies: got %+v, %+v and %+v", report.Latency, report.Service, report.Shedded)
	}
	if report.Goodput != 0.5 {
		t.Errorf("goodput: got %v, want one in two seconds", report.Goodput)
	}
	if tally.lastLeft != 3*second+9 {
		t.Errorf("last departure: got %v", tally.lastLeft)
	}
}

func TestTallyOfCallbacks(t *testing.T) {
	t.Parallel()
	const second = micros(time.Second / time.Microsecond)
	config := defaults()
	config.mix = mix{async: 1}
	ledger := newLedger(config, 4)
	ledger.entries = []entry{
		{at: 0, outcome: ok}, // in the warm-up
		{at: second, outcome: ok},
		{at: second, outcome: ok},        // called back when sending had ended
		{at: second, outcome: ambiguous}, // called back, but not acknowledged
	}
	ledger.slots = []slot{
		{called: second + 1000, taken: 1}, // due in the warm-up and delivered after it
		{called: second + 1500, taken: 1, attempts: 2},
		{called: 4 * second, taken: 1},
		{called: second + 1, taken: 1},
	}
	tally := ledger.tally(window{warmup: second, end: 3 * second})
	if got := tally.async.good; got != 2 {
		t.Errorf("delivered in time: got %d, want 2", got)
	}
	if got := tally.callback.quantiles(); got.Count != 2 || got.P50 != 1.5 {
		t.Errorf("times to callback: got %+v, want 1.5 ms and 3 s", got)
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

func TestBreachesCountOfWhatWasCalledBack(t *testing.T) {
	t.Parallel()
	r := report{Sync: endpointReport{OK: 1}, Async: asyncReport{
		endpointReport: endpointReport{OK: 3}, Acked: 3, Delivered: 2, Missing: 1, Unacknowledged: 2, BadSignatures: 4,
	}}
	want := "1 of 3 acknowledged requests were not called back; 4 of 4 requests were called back without a valid signature"
	if got := strings.Join(r.breaches(), "; "); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
