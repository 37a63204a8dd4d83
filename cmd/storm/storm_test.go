package main

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"ringback/cmd/internal/load"
	"ringback/db/dbtest"
)

func TestEverythingIsCalledBack(t *testing.T) {
	t.Parallel()

	t.Run("everything delivered", func(t *testing.T) {
		t.Parallel()
		service := start(t, &service{})
		output := runStorm(t, against(service, "-api-key", "secret", "-work", "text=77")...)
		output.want(t, exitOK, "all 20 acknowledged requests were called back", "200.0 requests/s offered")
		output.wantSync(t, requests{ok: 20})
		output.wantAsync(t, requests{ok: 20})
		output.wantCallbacks(t, callbacks{delivered: 20})
		checkFigures(t, output.report)
		if strings.ContainsAny(output.stdout+output.stderr, "\x1b\r\b") {
			t.Errorf("a terminal may not know what moves its cursor, got\n%q\n%q", output.stdout, output.stderr)
		}
		for line := range strings.Lines(output.stdout) {
			if utf8.RuneCountInString(line) > 111 {
				t.Errorf("line of %d columns, want at most 110: %s", len(line)-1, line)
			}
		}
		if got := service.lastRequest.Load().Header.Get("Authorization"); got != "Bearer secret" {
			t.Errorf("Authorization: got %q, want %q", got, "Bearer secret")
		}
		input, _ := (*service.lastBody.Load())["input"].(map[string]any)
		if text, _ := input["text"].(string); len(text) != 77 {
			t.Errorf("text: got %q, want 77 bytes", text)
		}
	})

	t.Run("callback before the acknowledgement", func(t *testing.T) {
		t.Parallel()
		service := start(t, &service{onAsync: func(_ int, job job, w http.ResponseWriter) {
			job.callBack(job.id, "succeeded")
			accept(job, w)
		}})
		output := runStorm(t, against(service)...)
		output.want(t, exitOK)
		output.wantCallbacks(t, callbacks{delivered: 20})
	})

	t.Run("callbacks long after the last answer", func(t *testing.T) {
		t.Parallel()
		service := &service{}
		service.onAsync = service.callBackLate
		output := runStorm(t, against(start(t, service))...)
		output.want(t, exitOK)
		output.wantCallbacks(t, callbacks{delivered: 20})
	})

	t.Run("failed work is delivered", func(t *testing.T) {
		t.Parallel()
		service := start(t, &service{onAsync: func(n int, job job, w http.ResponseWriter) {
			status := "succeeded"
			if n == 3 {
				status = "failed"
			}
			job.callBack(job.id, status)
			accept(job, w)
		}})
		output := runStorm(t, against(service)...)
		output.want(t, exitOK, "Called back to say that the work failed: 1")
		output.wantCallbacks(t, callbacks{delivered: 20})
	})
}

// checkFigures is about 40 requests within 200 ms.
func checkFigures(t *testing.T, report load.Report) {
	t.Helper()
	for name, got := range map[string]load.Quantiles{
		"sync latency":     report.Sync.Latency,
		"sync service":     report.Sync.Service,
		"async latency":    report.Async.Latency,
		"time to callback": report.Async.TimeToCallback,
	} {
		if got.Count != 20 || got.P50 <= 0 || got.Max < got.P99 || got.P99 < got.P50 {
			t.Errorf("%s: got %+v, want 20 values in order", name, got)
		}
	}
	// The rate is lower where the machine is so busy that the last request left late.
	if report.OfferedRate != 200 || report.AchievedRate <= 0 || report.AchievedRate > 200 {
		t.Errorf("rates: got %v offered and %v achieved, want 200 of both", report.OfferedRate, report.AchievedRate)
	}
	if report.Async.Verified != 20 {
		t.Errorf("results computed anew: got %d, want 20", report.Async.Verified)
	}
}

func TestCallbacksGoWrong(t *testing.T) {
	t.Parallel()

	t.Run("missing callback", func(t *testing.T) {
		t.Parallel()
		service := start(t, &service{onAsync: func(n int, job job, w http.ResponseWriter) {
			if n != 7 {
				job.callBack(job.id, "succeeded")
			}
			accept(job, w)
		}})
		output := runStorm(t, against(service, "-drain", "50ms")...)
		output.want(t, exitBroken, jobID(7)+": the server answers status 404\n", "1 of 20 acknowledged requests")
		output.wantCallbacks(t, callbacks{delivered: 19, missing: 1})
	})

	t.Run("many missing callbacks", func(t *testing.T) {
		t.Parallel()
		service := start(t, &service{onAsync: func(_ int, job job, w http.ResponseWriter) { accept(job, w) }})
		output := runStorm(t, against(service, "-drain", "0s")...)
		output.want(t, exitBroken, "and 10 more")
		if got := strings.Count(output.stdout, ": the server answers status 404"); got != maxListed {
			t.Errorf("ids listed: got %d, want %d", got, maxListed)
		}
	})

	t.Run("wrong id", func(t *testing.T) {
		t.Parallel()
		service := start(t, &service{onAsync: func(n int, job job, w http.ResponseWriter) {
			switch n {
			case 2: // before the acknowledgement
				job.callBack(jobID(99), "succeeded")
			case 3: // the second time only
				job.callBack(job.id, "succeeded")
				job.callBack(jobID(99), "succeeded")
			case 4:
				job.post(job.url, "not JSON")
			default:
				job.callBack(job.id, "succeeded")
			}
			accept(job, w)
		}})
		output := runStorm(t, against(service)...)
		output.want(t, exitBroken, "3 of 20 requests were called back wrongly")
		output.wantCallbacks(t, callbacks{delivered: 20, mismatched: 3, duplicates: 1})
	})

	t.Run("duplicates and orphans", func(t *testing.T) {
		t.Parallel()
		service := start(t, &service{onAsync: func(n int, job job, w http.ResponseWriter) {
			job.callBack(job.id, "succeeded")
			switch n {
			case 4, 5:
				job.callBack(job.id, "succeeded")
			case 6: // as a service does that still has callbacks of an earlier run
				url := regexp.MustCompile(`/callbacks/\w+/`).ReplaceAllString(job.url, "/callbacks/EARLIER/")
				if got := job.post(url, "{}"); got != http.StatusGone {
					t.Errorf("answer to a callback of another run: got %d, want 410", got)
				}
			case 7:
				job.post(job.url+"0000", "{}")
			case 8: // refused and yet called back: nobody asked for that
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			accept(job, w)
		}})
		output := runStorm(t, against(service)...)
		output.want(t, exitOK)
		output.wantAsync(t, requests{ok: 19, shed: 1})
		output.wantCallbacks(t, callbacks{delivered: 19, duplicates: 2, orphans: 3})
	})
}

func TestServerGoesDown(t *testing.T) {
	t.Parallel()
	var arrived atomic.Int32
	var early []job // accepted before the fall, called back after it
	var mu sync.Mutex
	service := &service{}
	service.onSync = func(n int, w http.ResponseWriter) {
		if arrived := arrived.Add(1); arrived > 10 && arrived <= 30 {
			panic(http.ErrAbortHandler)
		}
		answerSync(n, w)
	}
	service.onAsync = func(_ int, job job, w http.ResponseWriter) {
		arrived := arrived.Add(1)
		if arrived > 10 && arrived <= 30 {
			panic(http.ErrAbortHandler)
		}
		accept(job, w)
		mu.Lock()
		defer mu.Unlock()
		if arrived <= 10 {
			early = append(early, job)
			return
		}
		for _, job := range append(early, job) {
			service.later(func() { job.callBack(job.id, "succeeded") })
		}
		early = nil
	}
	output := runStorm(t, against(start(t, service))...)
	output.want(t, exitOK, "sync: connection lost", "async: connection lost")
	if !strings.Contains(output.stdout, "ept its word") {
		t.Errorf("want every acknowledged request called back, got\n%s", output.stdout)
	}
}

func TestStormIsAnOpenLoop(t *testing.T) {
	t.Parallel()

	t.Run("requests leave while none is answered", func(t *testing.T) {
		t.Parallel()
		var arrivals sync.WaitGroup
		arrivals.Add(40)
		service := start(t, &service{
			onSync: func(n int, w http.ResponseWriter) {
				arrivals.Done()
				arrivals.Wait()
				answerSync(n, w)
			},
			onAsync: func(_ int, job job, w http.ResponseWriter) {
				arrivals.Done()
				arrivals.Wait()
				job.callBack(job.id, "succeeded")
				accept(job, w)
			},
		})
		output := runStorm(t, against(service)...)
		output.want(t, exitOK)
		// The first request waits for the last request, which leaves 195 ms later.
		if got := output.report.Sync.Latency.Max; got < 195 {
			t.Errorf("longest sync latency: got %v ms, want at least 195", got)
		}
		if got := output.report.Async.TimeToCallback.P50; got < 80 {
			t.Errorf("median time to callback: got %v ms, want at least 80", got)
		}
	})

	t.Run("a freeze shows in the median", func(t *testing.T) {
		t.Parallel()
		// 20 requests leave in 200 ms; the server answers none for 200 ms and
		// then all at once, so that half of them wait for 100 ms and more.
		open := start(t, freezing(200*time.Millisecond))
		output := runStorm(t, against(open)...)
		output.want(t, exitOK)
		if got := output.report.Sync.Latency.P50; got < 90 {
			t.Errorf("median of the open loop: got %v ms, want at least 90", got)
		}
		// A closed loop sends its second request when the first is answered
		// and doesn't notice, unless the machine is as slow as that.
		closedLoop := func() time.Duration { return medianOfClosedLoop(t, start(t, freezing(200*time.Millisecond)).url, 20) }
		median := closedLoop()
		for tries := 1; median > 80*time.Millisecond && tries < 20; tries++ {
			median = closedLoop()
		}
		if median > 80*time.Millisecond {
			t.Errorf("median of a closed loop: got %v, want almost nothing", median)
		}
	})
}

func TestWhatCannotBeSentInTimeFailsTheRun(t *testing.T) {
	t.Parallel()
	asWanted := func(got load.Endpoint) bool {
		return got.OK == 1 && got.Ambiguous <= 2 && got.Sent+got.Unsent == 20 && got.Unsent >= 17
	}
	output := runStuck(t, 250*time.Millisecond)
	for timeout := 500 * time.Millisecond; !asWanted(output.report.Sync) && timeout < dbtest.Patience; timeout *= 2 { // on a busy machine
		output = runStuck(t, timeout)
	}
	if got := output.report.Sync; !asWanted(got) {
		t.Errorf("got %+v, want 20 due, one answered, one or two timed out, the others unsent", got)
	}
	output.want(t, exitBroken, "could not be sent in time")
}

// runStuck sends 20 requests to a server that answers the first request alone.
func runStuck(t *testing.T, timeout time.Duration) output {
	t.Helper()
	// A request holds the only connection until it times out, and then another holds it:
	// requests due meanwhile wait beyond their timeout.
	stuck := make(chan struct{})
	service := start(t, &service{onSync: func(n int, w http.ResponseWriter) {
		if n > 1 {
			<-stuck
		}
		answerSync(n, w)
	}})
	t.Cleanup(func() { close(stuck) })
	return runStorm(t, "-target", service.url, "-mix", "sync=1,async=0", "-connections", "1",
		"-rate", "1000", "-duration", "20ms", "-timeout", timeout.String())
}

// freezing answers nothing for a while after its first request.
func freezing(duration time.Duration) *service {
	thaw := sync.OnceValue(func() <-chan struct{} {
		thawed := make(chan struct{})
		time.AfterFunc(duration, func() { close(thawed) })
		return thawed
	})
	return &service{
		onSync: func(n int, w http.ResponseWriter) { <-thaw(); answerSync(n, w) },
		onAsync: func(_ int, job job, w http.ResponseWriter) {
			<-thaw()
			job.callBack(job.id, "succeeded")
			accept(job, w)
		},
	}
}

func medianOfClosedLoop(t *testing.T, url string, requests int) time.Duration {
	var latencies []time.Duration
	for range requests {
		left := time.Now()
		response, err := http.Post(url+"/sync", "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		latencies = append(latencies, time.Since(left))
	}
	slices.Sort(latencies)
	return latencies[requests/2]
}
