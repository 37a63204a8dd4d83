package main

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"
	"unsafe"
)

// Not in parallel: other tests would add to the latencies that it measures.
func TestAFreezeShowsInFull(t *testing.T) {
	const length = 6 * time.Second
	report, freeze := measureFreeze(t, time.Second, length)
	// A sixth of the requests come in the freeze, at any time of it: the
	// slowest hundredth of all are those that waited for 94 % of it or more.
	truth := 1000 * freeze.Seconds() * (1 - 0.01*length.Seconds()/freeze.Seconds())
	// What a busy machine takes comes on top.
	if got := report.Sync.Latency.P99; got < 0.9*truth {
		t.Errorf("p99: got %.0f ms, want %.0f or a tenth less at least", got, truth)
	}
	// The service time alone is what a closed loop would report: it knows of
	// no request but the 16 that were under way.
	if got := report.Sync.Service.P99; got >= report.Sync.Latency.P99 {
		t.Errorf("p99 of the service time: got %.0f ms, want less than %.0f", got, report.Sync.Latency.P99)
	}
}

// measureFreeze sends to a server that freezes, and returns for how long it did: no
// less than it is told.
func measureFreeze(t *testing.T, freeze, length time.Duration) (report, time.Duration) {
	t.Helper()
	frozen := make(chan time.Duration, 1)
	service := start(t, frozenWithin(2*time.Second, freeze, frozen))
	// With 16 connections only 16 requests wait at the server, and hundreds here:
	// they wait all the same.
	output := runStorm(t, "-target", service.url, "-mix", "sync=1,async=0", "-connections", "16",
		"-rate", "500", "-duration", length.String(), "-timeout", "1m")
	output.want(t, exitOK)
	return output.report, <-frozen
}

// frozenWithin answers nothing for a while, which begins some time after its
// first request.
func frozenWithin(after, duration time.Duration, took chan<- time.Duration) *service {
	var frozen sync.RWMutex
	begin := sync.OnceFunc(func() {
		time.AfterFunc(after, func() {
			frozen.Lock()
			began := time.Now()
			time.AfterFunc(duration, func() {
				took <- time.Since(began)
				frozen.Unlock()
			})
		})
	})
	return &service{onSync: func(n int, w http.ResponseWriter) {
		begin()
		frozen.RLock()
		defer frozen.RUnlock()
		answerSync(n, w)
	}}
}

func TestNothingIsSentTwice(t *testing.T) {
	t.Parallel()
	service := start(t, &service{
		onSync: func(n int, w http.ResponseWriter) {
			if n%2 == 0 {
				panic(http.ErrAbortHandler)
			}
			answerSync(n, w)
		},
		onAsync: func(n int, job job, w http.ResponseWriter) {
			if n%2 == 0 {
				panic(http.ErrAbortHandler)
			}
			job.callBack(job.id, "succeeded")
			accept(job, w)
		},
	})
	output := runStorm(t, against(service)...)
	output.wantSync(t, requests{ok: 10, ambiguous: 10})
	output.wantAsync(t, requests{ok: 10, ambiguous: 10})
	if sync, async := service.syncCount.Load(), service.asyncCount.Load(); sync != 20 || async != 20 {
		t.Errorf("requests that came: got %d and %d, want 20 and 20", sync, async)
	}
}

func TestEngine(t *testing.T) {
	t.Parallel()

	t.Run("keeps to the schedule", func(t *testing.T) {
		t.Parallel()
		engine := runEngine(t, t.Context(), func(config *config) {}, func(arrival) answer { return answer{outcome: ok} })
		tally := engine.ledger.tally(window{end: toMicros(engine.ended)})
		if got, want := tally.sync.sent(), 2000; got != want {
			t.Errorf("sent: got %d, want %d", got, want)
		}
		// The median, since the machine that tests run on may be busy.
		if got := engine.lateness.millis(50); got > 20 {
			t.Errorf("median lateness: got %v ms, want less than a millisecond or so", got)
		}
		if engine.ended != time.Second {
			t.Errorf("length: got %v, want 1s", engine.ended)
		}
	})

	t.Run("does not wait for answers", func(t *testing.T) {
		t.Parallel()
		var left sync.WaitGroup
		left.Add(100)
		runEngine(t, t.Context(), func(config *config) {
			config.rate, config.connections = 100, 100
		}, func(arrival) answer {
			left.Done()
			left.Wait() // until all have left
			return answer{outcome: ok}
		})
	})

	t.Run("counts what it can't send as unsent", func(t *testing.T) {
		t.Parallel()
		// The first request holds the only worker until a tenth of the others
		// are due, which then have waited for longer than a millisecond.
		engine := runEngine(t, t.Context(), func(config *config) {
			config.connections, config.timeout = 1, time.Millisecond
		}, func(arrival arrival) answer {
			if arrival.number == 0 {
				<-time.After(100 * time.Millisecond)
			}
			return answer{outcome: ok}
		})
		counts, _ := engine.ledger.sync.progress()
		if counts[unsent] < 100 || counts[unsent]+counts[ok] != 2000 {
			t.Errorf("got %d unsent and %d ok, want at least 100 unsent and 2000 in all", counts[unsent], counts[ok])
		}
	})

	t.Run("stops when interrupted", func(t *testing.T) {
		t.Parallel()
		ctx, interrupt := context.WithCancel(t.Context())
		engine := runEngine(t, ctx, func(config *config) { config.length = time.Hour / 2 }, func(arrival arrival) answer {
			if arrival.number == 100 {
				interrupt()
			}
			return answer{outcome: ok}
		})
		if engine.ended > time.Minute {
			t.Errorf("sending took %v, want it to end soon", engine.ended)
		}
		// Seven other workers may have been about to send an earlier one.
		if got := engine.ledger.tally(window{}).sync; got.sent() < 94 || got.counts[unsent] > 0 {
			t.Errorf("got %d sent and %d unsent, want 100 or so, and none unsent", got.sent(), got.counts[unsent])
		}
	})
}

// runEngine runs 2000 sync requests within a second, unless adjust asks for
// something else.
func runEngine(t *testing.T, ctx context.Context, adjust func(*config), send sender) *engine {
	t.Helper()
	config := defaults()
	config.mix, config.rate, config.length, config.connections = mix{sync: 1}, 2000, time.Second, 8
	adjust(&config)
	schedule := newSchedule(config)
	ledger := newLedger(config, schedule.total())
	engine := newEngine(config, schedule, ledger)
	ledger.clock = clock{time.Now()}
	if err := engine.run(ctx, send); err != nil {
		t.Fatal(err)
	}
	return engine
}

// A run keeps every request, so their size bounds how long it may be.
func TestLedgerIsSmall(t *testing.T) {
	t.Parallel()
	if got := unsafe.Sizeof(entry{}); got > 16 {
		t.Errorf("entry: got %d bytes, want at most 16", got)
	}
	if got := unsafe.Sizeof(slot{}); got > 40 {
		t.Errorf("slot: got %d bytes, want at most 40", got)
	}
}
