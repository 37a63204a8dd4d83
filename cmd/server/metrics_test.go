package main

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"ringback/db/dbtest"
	"ringback/work/fingerprint"
)

func TestMetricsTellWhatCallersDoNotSee(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), nil, fingerprint.Do)
	r := newReceiver(t, nil)
	gone := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) })
	refusing := newReceiver(t, nil)
	refusing.Close()
	delivered := p.accept(t, `{"text":"x"}`, r.URL)
	dead := p.accept(t, `{"text":"x"}`, gone.URL)
	failed := p.accept(t, `{"text":"x"}`, refusing.URL)
	p.waitFor(t, delivered, "delivered", func(r request) bool { return r.CallbackState == "delivered" })
	p.waitFor(t, dead, "dead", func(r request) bool { return r.CallbackState == "dead" })
	p.waitFor(t, failed, "an attempt", func(r request) bool { return len(r.Attempts) > 0 })
	if status, _, err := p.post("/sync", `{"input":{"text":""}}`); err != nil || status != http.StatusUnprocessableEntity {
		t.Fatalf("got %d, %v, want 422", status, err)
	}

	var metrics string
	for _, want := range []string{
		`ringback_http_request_duration_seconds_count{route="POST /async",status="202"} 3`,
		`ringback_http_request_duration_seconds_count{route="POST /sync",status="422"} 1`,
		`ringback_http_problems_total{problem="invalid-input"} 1`,
		`ringback_http_refusals_total{reason="connections"} 0`,
		`ringback_http_refusals_total{reason="queue_patience"} 0`,
		`ringback_work_duration_seconds_count{status="succeeded",work="fingerprint"} 3`,
		`ringback_callback_attempt_duration_seconds_count{outcome="delivered"} 1`,
		`ringback_callback_attempt_duration_seconds_count{outcome="gone"} 1`,
		`ringback_callback_attempt_causes_total{cause="connection refused",outcome="connection_failed"} `,
		`ringback_callbacks_ended_total{state="delivered"} 1`,
		`ringback_callbacks_ended_total{state="dead"} 1`,
		`ringback_time_to_callback_seconds_count 1`,
		`ringback_callback_origins 3`,
		`ringback_database_away 0`,
		`ringback_database_connections{pool="river",state="max"} `,
		`ringback_unfinished_requests `,
		`ringback_sync_works_waiting 0`,
		`ringback_build_info{version=`,
		`go_goroutines `,
		`process_resident_memory_bytes `,
	} {
		until(t, func() bool { metrics = p.readMetrics(t); return strings.Contains(metrics, "\n"+want) },
			func() string { return want + ", got:\n" + metrics })
	}
	for _, secret := range []string{strings.TrimPrefix(refusing.URL, "http://"), `"local"`, delivered} {
		if strings.Contains(metrics, secret) {
			t.Errorf("the metrics hold %s, which callers chose", secret)
		}
	}
}

func (p *program) readMetrics(t *testing.T) string {
	t.Helper()
	response, err := http.Get(p.adminURL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("GET /metrics: got %s, %v", response.Status, err)
	}
	return string(body)
}
