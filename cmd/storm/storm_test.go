package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestEverythingIsCalledBack(t *testing.T) {
	t.Parallel()

	t.Run("everything delivered", func(t *testing.T) {
		t.Parallel()
		service := start(t, &service{})
		output := runStorm(t, against(service, "-api-key", "secret", "-text-bytes", "77")...)
		output.want(t, exitOK, "all 20 acknowledged requests were called back", "200.0 requests/s offered")
		output.wantRow(t, "sync", 20, 20, 0, 0, 0)
		output.wantRow(t, "async", 20, 20, 0, 0, 0)
		output.wantRow(t, "to acknowledged requests", 20, 0, 0, 0, 0)
		for _, row := range []string{"sync answered", "async acknowledged", "called back"} {
			if got := output.millis(t, row, 0); got != 20 {
				t.Errorf("count of %s: got %v, want 20", row, got)
			}
		}
		for line := range strings.Lines(output.stdout) {
			if len(line) > 101 {
				t.Errorf("line of %d columns, want at most 100: %s", len(line)-1, line)
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
		output.wantRow(t, "to acknowledged requests", 20, 0, 0, 0, 0)
	})

	t.Run("callbacks long after the last answer", func(t *testing.T) {
		t.Parallel()
		service := &service{}
		service.onAsync = func(_ int, job job, w http.ResponseWriter) {
			accept(job, w)
			called := make(chan struct{})
			time.AfterFunc(300*time.Millisecond, func() {
				defer close(called)
				job.callBack(job.id, "succeeded")
			})
			service.later(func() { <-called })
		}
		output := runStorm(t, against(start(t, service))...)
		output.want(t, exitOK)
		output.wantRow(t, "to acknowledged requests", 20, 0, 0, 0, 0)
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
		output.wantRow(t, "to acknowledged requests", 20, 0, 0, 0, 0)
	})
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
		output.want(t, exitBroken, "GET /requests/"+jobID(7)+"\n", "1 of 20 acknowledged requests")
		output.wantRow(t, "to acknowledged requests", 19, 1, 0, 0, 0)
	})

	t.Run("many missing callbacks", func(t *testing.T) {
		t.Parallel()
		service := start(t, &service{onAsync: func(_ int, job job, w http.ResponseWriter) { accept(job, w) }})
		output := runStorm(t, against(service, "-drain", "0s")...)
		output.want(t, exitBroken, "and 10 more")
		if got := strings.Count(output.stdout, "GET /requests/"); got != maxListed {
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
		output.want(t, exitBroken, "3 of 20 acknowledged requests were called back with a wrong id")
		output.wantRow(t, "to acknowledged requests", 17, 0, 3, 1, 0)
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
		output.wantRow(t, "async", 20, 19, 1, 0, 0)
		output.wantRow(t, "to acknowledged requests", 19, 0, 0, 2, 3)
	})
}

func TestAnswersGoWrong(t *testing.T) {
	t.Parallel()

	t.Run("shed and failed", func(t *testing.T) {
		t.Parallel()
		service := start(t, &service{onSync: func(n int, w http.ResponseWriter) {
			switch n {
			case 1:
				w.WriteHeader(http.StatusServiceUnavailable)
			case 2:
				w.WriteHeader(http.StatusTooManyRequests)
			case 3, 4:
				w.WriteHeader(http.StatusInternalServerError)
			case 5:
				panic(http.ErrAbortHandler)
			case 6:
				fmt.Fprint(w, "{}")
			case 7:
				fmt.Fprintf(w, `{"id":%q,"status":"failed"}`, jobID(n))
			default:
				answerSync(n, w)
			}
		}})
		output := runStorm(t, against(service)...)
		output.want(t, exitOK,
			"sync failed: connection lost 1, status 500 2, unreadable answer 1, work not succeeded 1")
		output.wantRow(t, "sync", 20, 13, 2, 5, 0)
		output.wantRow(t, "async", 20, 20, 0, 0, 0)
	})

	t.Run("not one ok", func(t *testing.T) {
		t.Parallel()
		service := start(t, &service{
			onSync:  func(_ int, w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) },
			onAsync: func(_ int, _ job, w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) },
		})
		output := runStorm(t, against(service)...)
		output.want(t, exitBroken, "not one request was answered ok")
		output.wantRow(t, "async", 20, 0, 20, 0, 0)
	})

	t.Run("lost acknowledgement", func(t *testing.T) {
		t.Parallel()
		service := start(t, &service{onAsync: func(n int, job job, w http.ResponseWriter) {
			job.callBack(job.id, "succeeded")
			if n == 5 {
				panic(http.ErrAbortHandler)
			}
			accept(job, w)
		}})
		output := runStorm(t, against(service)...)
		output.want(t, exitOK, "without an acknowledgement, which got lost: 1")
		output.wantRow(t, "async", 20, 19, 0, 1, 0)
		output.wantRow(t, "to acknowledged requests", 19, 0, 0, 0, 0)
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
	output.want(t, exitOK, "sync failed: connection lost", "async failed: connection lost")
	if !strings.Contains(output.stdout, "kept its word") {
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
		// The first request waits for the last one, which leaves 195 ms later.
		if got := output.millis(t, "sync answered", slowest); got < 195 {
			t.Errorf("longest sync latency: got %v ms, want at least 195", got)
		}
		if got := output.millis(t, "called back", median); got < 80 {
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
		if got := output.millis(t, "sync answered", median); got < 90 {
			t.Errorf("median of the open loop: got %v ms, want at least 90", got)
		}
		// A closed loop sends its second request when the first is answered
		// and doesn't notice.
		closed := start(t, freezing(200*time.Millisecond))
		if got := medianOfClosedLoop(t, closed.url, 20); got > 80*time.Millisecond {
			t.Errorf("median of a closed loop: got %v, want almost nothing", got)
		}
	})
}

func TestLatencyCountsFromTheIntendedSendTime(t *testing.T) {
	t.Parallel()
	service := start(t, &service{})
	config := defaults()
	config.target, config.rate, config.duration = service.url, 10, time.Second
	storm := newStorm(config, newSender(config))
	if err := storm.receiver.listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(storm.receiver.close)
	for n := range 2 {
		storm.send(t.Context(), n, time.Now().Add(-3*time.Second))
	}
	storm.drain()
	summary := storm.summarize(time.Second, time.Second)
	for name, got := range map[string]time.Duration{
		"sync answer":     summary.sync.latency.quantile(100),
		"acknowledgement": summary.async.latency.quantile(100),
		"callback":        summary.callbacks.after.quantile(100),
		"departure":       summary.lateness().quantile(50),
	} {
		if got < 3*time.Second || got > 6*time.Second {
			t.Errorf("%s: got %v after the intended send time, want 3 s and little more", name, got)
		}
	}
	if !summary.isLate() {
		t.Error("a generator that is 3 s behind doesn't say so")
	}
}

func TestWhatCannotBeSentIsCounted(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{})
	release := make(chan struct{})
	service := start(t, &service{
		onSync: func(n int, w http.ResponseWriter) { close(arrived); <-release; answerSync(n, w) },
	})
	config := defaults()
	config.target, config.maxInFlight, config.duration = service.url, 1, 200*time.Millisecond
	storm := newStorm(config, newSender(config))
	ended := make(chan summary)
	go func() {
		summary, err := storm.run(t.Context(), t.Output())
		if err != nil {
			t.Error(err)
		}
		ended <- summary
	}()
	<-arrived
	waitFor(t, func() bool {
		storm.lanes[1].mu.Lock()
		defer storm.lanes[1].mu.Unlock()
		return storm.lanes[1].tally.unsent == 20
	})
	close(release)
	summary := <-ended
	if got := summary.sync.unsent; summary.sync.sent != 1 || got != 19 {
		t.Errorf("sync: got %d sent and %d unsent, want 1 and 19", summary.sync.sent, got)
	}
	if status := summary.exitStatus(); status != exitOK {
		t.Errorf("exit status: got %d, want %d", status, exitOK)
	}
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
	latencies := newHistogram()
	for range requests {
		left := time.Now()
		response, err := http.Post(url+"/sync", "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		latencies.record(time.Since(left))
	}
	return latencies.quantile(50)
}

// waitFor polls what gives no signal.
func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal("the test ended first")
		}
	}
}

func TestPostTellsHowItFailed(t *testing.T) {
	t.Parallel()
	stuck := make(chan struct{})
	slow := start(t, &service{onSync: func(int, http.ResponseWriter) { <-stuck }})
	t.Cleanup(func() { close(stuck) })
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for target, want := range map[string]answer{
		slow.url: {failure: "timeout", unsure: true},
		gone.URL: {failure: "connection refused"},
	} {
		config := defaults()
		config.target, config.timeout = target, 50*time.Millisecond
		if got := newSender(config).post(t.Context(), sync200(), 0, ""); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}
