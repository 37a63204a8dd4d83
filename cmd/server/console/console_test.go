package console

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"ringback/db"
	"ringback/jobs"
)

func TestQuantile(t *testing.T) {
	t.Parallel()
	none := []bucket{{0.001, 0}, {0.01, 0}, {math.Inf(1), 0}}
	for name, test := range map[string]struct {
		now, before []bucket
		share       float64
		want        float64 // ms; 0 for none
	}{
		"nothing was counted":            {none, none, 0.5, 0},
		"nothing is known before":        {none, nil, 0.5, 0},
		"half of a bucket is its middle": {[]bucket{{0.001, 0}, {0.01, 10}, {math.Inf(1), 10}}, none, 0.5, 5.5},
		"beyond all is the last bound":   {[]bucket{{0.001, 0}, {0.01, 0}, {math.Inf(1), 4}}, none, 0.99, 10},
		"only new observations count":    {[]bucket{{0.001, 100}, {0.01, 110}, {math.Inf(1), 110}}, []bucket{{0.001, 100}, {0.01, 100}, {math.Inf(1), 100}}, 1, 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := 0.0
			if value := quantile(test.now, test.before, test.share); value != nil {
				got = *value
			}
			if math.Abs(got-test.want) > 1e-9 {
				t.Errorf("got %v ms, want %v", got, test.want)
			}
		})
	}
}

func TestSamplesAreDifferences(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	auto := promauto.With(registry)
	accepted := auto.NewCounterVec(prometheus.CounterOpts{Name: "ringback_requests_accepted_total"}, []string{"mode"})
	worked := auto.NewHistogramVec(prometheus.HistogramOpts{Name: "ringback_work_duration_seconds"}, []string{"mode"})
	refused := auto.NewCounterVec(prometheus.CounterOpts{Name: "ringback_http_refusals_total"}, []string{"reason"})
	h, now := &history{}, time.Unix(1000, 0)
	for second := range kept + 5 {
		accepted.WithLabelValues("async").Add(float64(second))
		accepted.WithLabelValues("sync").Add(float64(second))
		worked.WithLabelValues("sync").Observe(1)
		worked.WithLabelValues("async").Observe(1)
		refused.WithLabelValues("backlog").Add(2)
		s, err := takeSample(registry, now.Add(time.Duration(second)*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		h.add(s)
	}
	samples, _ := h.since(0)
	last := samples[len(samples)-1]
	if len(samples) != kept || last.Accepted != 2*(kept+4) || last.Done != 2 || last.Refused != 2 || last.Reasons["backlog"] != 20 {
		t.Errorf("got %d samples, the last %+v, want the last ten minutes and the differences", len(samples), last)
	}
	if later, _ := h.since(last.At); len(later) != 0 {
		t.Errorf("got %d samples after the last", len(later))
	}
}

// The alarms follow from the metrics whose alerts have the same cause.
func TestAlarms(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	auto := promauto.With(registry)
	gauge := func(name string) prometheus.Gauge { return auto.NewGauge(prometheus.GaugeOpts{Name: name}) }
	down := auto.NewGaugeVec(prometheus.GaugeOpts{Name: "ringback_works_down"}, []string{"work", "state"})
	skew, full := gauge("ringback_clock_skew_seconds"), gauge("ringback_log_buffer_ratio")
	dropped := auto.NewCounter(prometheus.CounterOpts{Name: "ringback_log_lines_dropped_total"})
	problems := auto.NewCounterVec(prometheus.CounterOpts{Name: "ringback_http_problems_total"}, []string{"problem"})
	postponed := auto.NewCounterVec(prometheus.CounterOpts{Name: "ringback_jobs_postponed_total"}, []string{"reason"})
	calls := auto.NewHistogramVec(prometheus.HistogramOpts{Name: "ringback_http_request_duration_seconds"}, []string{"route", "status"})
	call := func(route, status string, times int) {
		for range times {
			calls.WithLabelValues(route, status).Observe(1)
		}
	}
	h, second := &history{}, int64(1000)
	want := func(after int, what string, parts ...string) {
		t.Helper()
		for range after {
			s, err := takeSample(registry, time.Unix(second, 0))
			if err != nil {
				t.Fatal(err)
			}
			h.add(s)
			second++
		}
		before, latest := h.span(alarmSpan)
		got := latest.readings.alarms(before.readings)
		if len(got) != len(parts) {
			t.Errorf("%s: got %q, want %q", what, got, parts)
			return
		}
		for i, part := range parts {
			if !strings.Contains(got[i], part) {
				t.Errorf("%s: got %q, want %q", what, got[i], part)
			}
		}
	}
	down.WithLabelValues("a", "down").Set(0)
	skew.Set(0.9)
	full.Set(unreadRatio)
	want(30, "all is well")

	down.WithLabelValues("a", "down").Set(1)
	down.WithLabelValues("b", "paused").Set(1)
	want(1, "services", "work a is down", "work b asked for a pause")
	down.Reset()

	postponed.WithLabelValues("work_slots").Inc()
	want(1, "a job that waits for a slot")
	postponed.WithLabelValues("work_unknown").Inc()
	want(1, "a job of work that nobody offers", "put it back into WORKS")
	want(alarmSpan, "work that was offered again")

	skew.Set(62)
	want(1, "a clock ahead", "differ by 62 s (the process is ahead)")
	skew.Set(-600)
	want(1, "a clock behind", "differ by 600 s (the process is behind)")
	skew.Set(0)

	full.Set(0.4)
	want(unreadAfter-1, "a log that waits for a moment")
	want(1, "a log that nobody reads", "40 % of its buffer is full. Nothing is dropped yet")
	dropped.Add(3)
	want(1, "a log that nobody reads for long", "3 of its lines were dropped")
	full.Set(0)
	want(alarmSpan, "lines that were dropped long ago")

	problems.WithLabelValues("unauthorized").Add(fewUnauthorized - 1)
	call("POST /async", "401", fewUnauthorized-1)
	call("GET /readyz", "200", 100)
	want(1, "few 401s")
	problems.WithLabelValues("unauthorized").Inc()
	call("POST /async", "401", 1)
	want(1, "all calls refused", "6 of 6 calls")
	call("POST /async", "202", fewUnauthorized)
	want(1, "half of the calls refused")
}

func TestEachFaultHasItsWords(t *testing.T) {
	t.Parallel()
	for fault, remedy := range db.Faults {
		if got := faultAlarms(map[db.Fault]db.Lasting{fault: {Remedy: remedy}}); len(got) != 1 || faultWords[fault] == "" || got[0] != faultWords[fault]+": "+remedy+"." {
			t.Errorf("%s: got %q, want its words and its remedy", fault, got)
		}
	}
}

func TestEachStateOfJobsIsExplained(t *testing.T) {
	t.Parallel()
	var states []string
	for _, state := range jobStates {
		if states = append(states, state.Name); state.Means == "" {
			t.Errorf("%s has no meaning", state.Name)
		}
	}
	slices.Sort(states)
	if !slices.Equal(states, slices.Sorted(slices.Values(db.LiveStates))) {
		t.Errorf("got %q, want %q", states, db.LiveStates)
	}
}

func TestPicture(t *testing.T) {
	t.Parallel()
	at := func(seconds float64) time.Time { return time.Unix(0, int64(seconds*1e9)) }
	whole := inspected{
		Request: db.Request{
			Status: db.Succeeded, CallbackState: db.CallbackPending, AcceptedAt: at(0), StartedAt: at(10), FinishedAt: at(20),
		},
		Wait:     jobs.Wait{Reason: "retry", Until: at(110)},
		Attempts: []db.Attempt{{Attempt: 1, StartedAt: at(20), EndedAt: at(30), Outcome: "http_status", HTTPStatus: 500, Cause: "no", Connect: 2 * time.Millisecond}},
	}
	p := draw(whole, at(100))
	var names []string
	for _, row := range p.Rows {
		names = append(names, row.Name+" "+row.Says)
	}
	if got := strings.Join(names, ", "); got != "work succeeded, attempt 1 http_status (500), next waits for retry until 1970-01-01 00:01:50.000" {
		t.Errorf("got rows %q", got)
	}
	if work := p.Rows[0].Bars; len(work) != 2 || work[0].Width != 100 || work[1].X != 100 || work[1].Says != "worked, 10.0 s" {
		t.Errorf("got %+v, want a tenth of waiting and a tenth of work", work)
	}
	if next := p.Rows[2].Bars; next[0].X != 300 || next[0].Width != 700 || !p.Open {
		t.Errorf("got %+v, want the wait to go on until now", next)
	}
	if got := phases(whole.Attempts[0]); got != "connect 2.0 ms · in all 10.0 s" {
		t.Errorf("got %q", got)
	}
	attempt := db.Attempt{StartedAt: at(0), EndedAt: at(10), DNS: time.Second, Connect: 2 * time.Second, FirstByte: 5 * time.Second}
	var parts []string
	for _, b := range phaseBars(attempt, bar{X: 100, Width: 200}) {
		parts = append(parts, fmt.Sprintf("%s at %d, %d wide", b.Says, b.X, b.Width))
	}
	if got := strings.Join(parts, "; "); got != "DNS, 1.0 s at 100, 20 wide; connect, 2.0 s at 120, 40 wide; first byte, 5.0 s at 160, 100 wide" {
		t.Errorf("got %q, want the phases one after the other", got)
	}
	elsewhere := inspected{Request: db.Request{Status: db.Accepted, AcceptedAt: at(0)}, Lease: db.Lease{Run: 1, StartedAt: at(50)}}
	if row := draw(elsewhere, at(100)).Rows[0]; row.Says != "goes on elsewhere" || len(row.Bars) != 2 || row.Bars[1].X != 500 || row.Bars[1].Width != 500 {
		t.Errorf("got %+v, want half of it work", row)
	}
	never := inspected{Request: db.Request{Status: db.Accepted, AcceptedAt: at(0)}}
	if bars := draw(never, at(0)).Rows[0].Bars; len(bars) != 1 || bars[0].Width < 2 {
		t.Errorf("got %+v, want a wait that can be seen", bars)
	}
}

func TestTook(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0 s", 300 * time.Microsecond: "300 µs", 2500 * time.Microsecond: "2.5 ms", 250 * time.Millisecond: "250 ms",
		90 * time.Second: "1m30s", 10 * time.Minute: "10m", 70 * time.Second: "1m10s", 2 * time.Hour: "2h0m", 72 * time.Hour: "3 days",
	} {
		if got := took(d); got != want {
			t.Errorf("%d: got %q, want %q", d, got, want)
		}
	}
	half := 0.5 // of anything
	if got := figure(&half) + " " + figure(nil); got != "0.5 –" {
		t.Errorf("got %q", got)
	}
	if got := count(-1234567); got != "-1\u202f234\u202f567" {
		t.Errorf("got %q", got)
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	for bytes, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1 MiB", 10 << 30: "10 GiB", 1288490189: "1.2 GiB", 3 << 40: "3 TiB", 1 << 60: "1024 PiB",
	} {
		if got := Size(bytes); got != want {
			t.Errorf("%d: got %s, want %s", bytes, got, want)
		}
	}
}

func TestASilentProcessIsMarked(t *testing.T) {
	t.Parallel()
	for silent, want := range map[time.Duration]string{2 * time.Second: "2.0 s ago", 3 * time.Minute: "silent for 3m: its jobs go to other processes"} {
		if got := beat(db.WorkingProcess{Silent: silent}); got != want {
			t.Errorf("%s: got %q, want %q", silent, got, want)
		}
	}
}
