package load

import (
	"strings"
	"testing"
	"time"
)

func TestTallyOfAWindow(t *testing.T) {
	t.Parallel()
	const second, micro = time.Second, time.Microsecond
	config := Defaults()
	config.Mix = Mix{Sync: 1}
	ledger := newLedger(config, 5)
	ledger.requests = []request{
		{at: 0, took: 9 * micro, outcome: ok},                                        // in the warm-up
		{at: second, sendDelay: 500 * micro, took: 1500 * micro, outcome: ok},        // counts
		{at: 2 * second, took: 2000 * micro, outcome: shed},                          // shed
		{at: 3*second - micro, sendDelay: 10 * micro, took: 20 * micro, outcome: ok}, // too late for goodput
		{at: 2 * second, outcome: unsent},
	}
	tally := ledger.tally(measured{warmup: second, end: 3 * second})
	report := tally.Sync
	if report.Latency.Count != 2 || report.Latency.Max != 1.5 || report.Service.Max != 1 || report.Shedded.Max != 2 {
		t.Errorf("latencies: got %+v, %+v and %+v", report.Latency, report.Service, report.Shedded)
	}
	if report.Goodput != 0.5 {
		t.Errorf("goodput: got %v, want one in two seconds", report.Goodput)
	}
	if tally.lastSent != 3*second+9*micro {
		t.Errorf("last departure: got %v", tally.lastSent)
	}
}

func TestTallyOfCallbacks(t *testing.T) {
	t.Parallel()
	const second, micro = time.Second, time.Microsecond
	config := Defaults()
	config.Mix = Mix{Async: 1}
	ledger := newLedger(config, 4)
	ledger.requests = []request{
		{at: 0, outcome: ok, called: second + 1000*micro, taken: 1}, // due in the warm-up and delivered after it
		{at: second, outcome: ok, called: 1500 * micro, taken: 1, attempts: 2},
		{at: second, outcome: ok, called: 3 * second, taken: 1},   // when sending had ended
		{at: second, outcome: ambiguous, called: micro, taken: 1}, // but not acknowledged
	}
	for i := range ledger.requests {
		ledger.requests[i].isAsync = true
	}
	tally := ledger.tally(measured{warmup: second, end: 3 * second})
	if got := tally.Async.Goodput; got != 1 {
		t.Errorf("delivered in time: got %v a second, want 1", got)
	}
	if got := tally.Async.TimeToCallback; got.Count != 2 || got.P50 != 1.5 {
		t.Errorf("times to callback: got %+v, want 1.5 ms and 3 s", got)
	}
}

func TestBreachesCountOfWhatWasCalledBack(t *testing.T) {
	t.Parallel()
	r := Report{Sync: Endpoint{OK: 1}, Async: Async{
		Endpoint: Endpoint{OK: 3}, Acked: 3, Delivered: 2, Missing: 1, Unacknowledged: 2, BadSignatures: 4,
	}}
	want := "1 of 3 acknowledged requests were not called back; 4 of 4 requests were called back without a valid signature"
	if got := strings.Join(r.Breaches(), "; "); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
