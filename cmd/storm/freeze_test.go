package main

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"ringback/cmd/internal/load"
)

// Not in parallel: other tests would add to the latencies that it measures.
func TestAFreezeShowsInFull(t *testing.T) {
	const length = 6 * time.Second
	report, freeze := measureFreeze(t, time.Second, length)
	// A sixth of the requests come in the freeze, evenly spread: the slowest hundredth of
	// all waited for 94 % of it or more.
	truth := 1000 * freeze.Seconds() * (1 - 0.01*length.Seconds()/freeze.Seconds())
	// A busy machine's delay comes on top.
	if got := report.Sync.Latency.P99; got < 0.9*truth {
		t.Errorf("p99: got %.0f ms, want %.0f or a tenth less at least", got, truth)
	}
	// The service time alone is the figure of a closed loop: it covers only the 16 requests
	// that were under way.
	if got := report.Sync.Service.P99; got >= report.Sync.Latency.P99 {
		t.Errorf("p99 of the service time: got %.0f ms, want less than %.0f", got, report.Sync.Latency.P99)
	}
}

// measureFreeze sends to a server that freezes, and returns for how long it did: no
// less than it is told.
func measureFreeze(t *testing.T, freeze, length time.Duration) (load.Report, time.Duration) {
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
