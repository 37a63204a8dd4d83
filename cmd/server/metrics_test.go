package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"ringback/db"
	"ringback/db/dbtest"
	"ringback/internal/bubble"
	"ringback/work/fingerprint"
)

func TestMetricsTellWhatCallersDoNotSee(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": newCollector(t).URL, "WORKS": writeTemp(t, `{"away": {"url": "http://127.0.0.1:9/path?key=secret"}}`),
	}, fingerprint.Do)
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
	until(t, func() bool {
		status, _, err := p.postOnce("/async/away", asyncBody(`{}`, r.URL), "away")
		return err == nil && status == http.StatusAccepted
	}, func() string { return "202" })
	if status, _, err := p.post("/sync", `{"input":{"text":""}}`); err != nil || status != http.StatusUnprocessableEntity {
		t.Fatalf("got %d, %v, want 422", status, err)
	}

	p.served(t, "/sync", `{"input":{"text":"x"}}`, http.StatusOK)
	for range 5 { // in a row: it is down
		if status, _, err := p.postOnce("/sync/away", `{"input":{}}`, ""); err != nil || status != http.StatusServiceUnavailable {
			t.Fatalf("got %d, %v, want 503", status, err)
		}
	}

	var metrics string
	for _, want := range []string{
		`ringback_http_request_duration_seconds_count{route="POST /async",status="202"} 3`,
		`ringback_http_request_duration_seconds_count{route="POST /sync",status="422"} 1`,
		`ringback_http_problems_total{problem="invalid-input"} 1`,
		`ringback_http_refusals_total{reason="connections"} 0`,
		`ringback_http_refusals_total{reason="queue_patience"} 0`,
		`ringback_work_duration_seconds_count{mode="async",status="succeeded",work="fingerprint"} 3`,
		`ringback_work_duration_seconds_count{mode="sync",status="succeeded",work="fingerprint"} 1`,
		`ringback_works_down{state="down",work="away"} 1`,
		`ringback_works_down{state="paused",work="away"} 0`,
		`ringback_work_sync_waiting{work="away"} 0`,
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
		`ringback_database_unwritable 0`,
		`ringback_database_fault{fault="read_only"} 0`,
		`ringback_database_faults_total{fault="disk_full"} 0`,
		`ringback_jobs{state="available"} `,
		`ringback_oldest_unfinished_request_age_seconds `,
		`ringback_oldest_due_callback_age_seconds `,
		`ringback_dead_letters `,
		`ringback_retention_behind_seconds 0`,
		`ringback_sample_timestamp_seconds 1`,
		`ringback_log_lines_dropped_total 0`,
		`ringback_log_buffer_ratio `,
		`ringback_spans_exported_total `,
		`ringback_spans_lost_total 0`,
		`ringback_work_attempts_not_done_total{work="away"} `,
		`ringback_build_info{version=`,
		`go_goroutines `,
		`process_resident_memory_bytes `,
	} {
		until(t, func() bool { metrics = p.readMetrics(t); return strings.Contains(metrics, "\n"+want) },
			func() string { return want + ", got:\n" + metrics })
	}
	p.awaitLine(t, `level=ERROR msg=work_down work=away service=http://127.0.0.1:9/path cause="upstream_unreachable: The service that does the work can't be reached: connection refused" remedy=`)
	if strings.Contains(p.log.String(), "key=secret") {
		t.Error("the log holds the query of a service's URL")
	}
	for _, secret := range []string{strings.TrimPrefix(refusing.URL, "http://"), `"local"`, delivered} {
		if strings.Contains(metrics, secret) {
			t.Errorf("the metrics hold %s, which callers chose", secret)
		}
	}
	checkNames(t, metrics)
}

// checkNames checks metrics as promtool check metrics does.
func checkNames(t *testing.T, metrics string) {
	t.Helper()
	problems, err := promlint.New(strings.NewReader(metrics)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems {
		t.Errorf("%s: %s", problem.Metric, problem.Text)
	}
}

func TestSampler(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		var failing atomic.Bool
		var taken atomic.Int64
		s := &sampler{retention: time.Hour, take: func(context.Context) (db.Sample, error) {
			taken.Add(1)
			time.Sleep(time.Second)
			if failing.Load() {
				return db.Sample{}, errors.New("away")
			}
			return db.Sample{DeadLetters: taken.Load()}, nil
		}}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		start := time.Now().Unix()
		go s.run(ctx)
		time.Sleep(2 * time.Second)
		if got := s.latest.Load().DeadLetters; got != 1 || s.taken.Load() != start {
			t.Errorf("got sample %d of %d, want the first of %d", got, s.taken.Load(), start)
		}
		time.Sleep(sampleShare*time.Second - 2*time.Second)
		if taken.Load() != 1 {
			t.Errorf("got %d samples within the pause after a slow one, want one", taken.Load())
		}
		failing.Store(true)
		time.Sleep(sampleShare * time.Second)
		if got := s.latest.Load().DeadLetters; taken.Load() < 2 || got != 1 || s.taken.Load() != start {
			t.Errorf("after %d, got sample %d of %d, want the first, which stands", taken.Load(), got, s.taken.Load())
		}
	})
}

func TestRetentionThatIsBehindIsToldAgain(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := &sampler{retention: time.Hour, logger: slog.New(slog.NewTextHandler(&log, nil))}
		told := func(overdue, lasts time.Duration) (lines int) {
			log.Reset()
			for end := time.Now().Add(lasts); time.Now().Before(end); time.Sleep(sampleInterval) {
				s.tellRetention(t.Context(), db.Sample{Ended: s.retention + overdue})
			}
			return strings.Count(log.String(), "level=WARN msg=retention_behind behind_seconds=")
		}
		if got := told(retentionSlack, time.Hour); got != 0 {
			t.Errorf("at what is usual: got %d lines, want none", got)
		}
		if got := told(retentionSlack+time.Second, retentionPatience); got != 0 {
			t.Errorf("behind for %s: got %d lines, want none", retentionPatience, got)
		}
		if got := told(retentionSlack+time.Second, 10*time.Minute); got != 10 || !strings.Contains(log.String(), "remedy=") {
			t.Errorf("then in ten minutes: got %d lines, want one a minute with a remedy:\n%s", got, log.String())
		}
		told(0, time.Hour)
		if got := strings.Count(log.String(), "msg=retention_caught_up"); got != 1 {
			t.Errorf("afterwards: got %d lines that it caught up, want one", got)
		}
		if s.retention = 0; told(time.Hour*1000, time.Hour) != 0 {
			t.Errorf("kept forever: got %q, want no line", log.String())
		}
	})
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
