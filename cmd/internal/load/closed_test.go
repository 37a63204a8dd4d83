package load

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

func TestClosedCountsEveryAnswer(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	statuses := []int{http.StatusAccepted, http.StatusServiceUnavailable, http.StatusInternalServerError}
	l := newClosed(t, func(w http.ResponseWriter) { w.WriteHeader(statuses[calls.Add(1)%3]) })
	l.Measuring.Store(true)
	stop := l.Start(t.Context())
	waitFor(t, func() bool { return calls.Load() > 100 })
	stop()
	accepted, refused, failed := l.Accepted.Load(), l.Refused.Load(), l.Failed.Load()
	if accepted+refused+failed != calls.Load() || accepted == 0 || refused == 0 || failed == 0 {
		t.Errorf("accepted %d, refused %d, failed %d of %d", accepted, refused, failed, calls.Load())
	}
	if got := l.Latency().Count; got != accepted {
		t.Errorf("%d latencies of %d accepted requests", got, accepted)
	}
	if l.Check() == nil {
		t.Error("failures are no error")
	}
}

func TestClosedKeepsToTheWindow(t *testing.T) {
	t.Parallel()
	l := newClosed(t, func(w http.ResponseWriter) { w.WriteHeader(http.StatusAccepted) })
	var release func()
	l.Window, release = NewWindow(10)
	stop := l.Start(t.Context())
	waitFor(t, func() bool { return l.Accepted.Load() == 10 })
	release()
	waitFor(t, func() bool { return l.Accepted.Load() == 11 })
	stop()
	if got := l.Accepted.Load(); got != 11 {
		t.Errorf("%d requests were accepted, 11 had room", got)
	}
}

func TestClosedAccepts(t *testing.T) {
	t.Parallel()
	l := newClosed(t, func(w http.ResponseWriter) { w.WriteHeader(http.StatusAccepted) })
	l.Window, _ = NewWindow(3)
	if err := l.Accept(t.Context(), 3, time.Hour); err != nil || l.Accepted.Load() != 3 {
		t.Errorf("got %d accepted, %v, want 3", l.Accepted.Load(), err)
	}
	if err := l.Accept(t.Context(), 4, 0); err == nil {
		t.Error("too few: got no error")
	}
	failing := newClosed(t, func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) })
	if err := failing.Accept(t.Context(), 1, time.Hour); err == nil {
		t.Error("a failure: got no error")
	}
}

func newClosed(t *testing.T, answer func(http.ResponseWriter)) *Closed {
	t.Helper()
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w) }))
	t.Cleanup(target.Close)
	return &Closed{URL: target.URL + "/async", Connections: 4, Bodies: [][]byte{[]byte(`{}`)}}
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for !done() {
		if !Pause(t.Context(), time.Millisecond) {
			t.Fatal(t.Context().Err())
		}
	}
}
