package main

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"
)

func TestLoadCountsEveryAnswer(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	statuses := []int{http.StatusAccepted, http.StatusServiceUnavailable, http.StatusInternalServerError}
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(statuses[calls.Add(1)%3])
	}))
	t.Cleanup(target.Close)
	l := &load{target: target.URL, path: "/async", connections: 4, body: asyncBody("http://127.0.0.1:9/")}
	l.measuring.Store(true)
	stop := l.start(t.Context())
	waitFor(t, func() bool { return calls.Load() > 100 })
	stop()
	accepted, refused, failed := l.accepted.Load(), l.refused.Load(), l.failed.Load()
	if accepted+refused+failed != calls.Load() || accepted == 0 || refused == 0 || failed == 0 {
		t.Errorf("accepted %d, refused %d, failed %d of %d", accepted, refused, failed, calls.Load())
	}
	if l.latency.TotalCount() != accepted {
		t.Errorf("%d latencies of %d accepted requests", l.latency.TotalCount(), accepted)
	}
	if l.check() == nil {
		t.Error("failures are no error")
	}
}

func TestLoadKeepsToTheWindow(t *testing.T) {
	t.Parallel()
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(target.Close)
	window, release := newWindow(10)
	l := &load{target: target.URL, path: "/async", connections: 4, window: window, body: asyncBody("http://127.0.0.1:9/")}
	stop := l.start(t.Context())
	waitFor(t, func() bool { return l.accepted.Load() == 10 })
	release()
	waitFor(t, func() bool { return l.accepted.Load() == 11 })
	stop()
	if got := l.accepted.Load(); got != 11 {
		t.Errorf("%d requests were accepted, 11 had a place", got)
	}
}

func TestReceiverCountsRequestsOnce(t *testing.T) {
	t.Parallel()
	var told atomic.Int64
	r, err := startReceiver(defaultReceiver, func() { told.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	first, second := "req_"+uuid.NewString(), "req_"+uuid.NewString()
	for id, want := range map[string]int{first: 200, "not an id": 400} {
		if got := deliver(t, r.url, id); got != want {
			t.Errorf("%q was answered %d, want %d", id, got, want)
		}
	}
	deliver(t, r.url, second)
	deliver(t, r.url, first)
	if r.delivered.Load() != 2 || r.repeated.Load() != 1 || told.Load() != 2 {
		t.Errorf("delivered %d, repeated %d, told %d", r.delivered.Load(), r.repeated.Load(), told.Load())
	}
}

func deliver(t *testing.T, url, id string) int {
	t.Helper()
	request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	request.Header.SetMethod(fasthttp.MethodPost)
	request.Header.Set("Webhook-Id", id)
	request.SetRequestURI(url)
	if err := fasthttp.DoTimeout(request, response, 2*time.Minute); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode()
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !done(); {
		if time.Now().After(deadline) {
			t.Fatal("waited for two minutes")
		}
		time.Sleep(time.Millisecond)
	}
}
