package load

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"ringback/cmd/internal/receivers"
)

func TestClosedCountsEveryAnswer(t *testing.T) {
	t.Parallel()
	var calls, accepted atomic.Int64
	statuses := []int{http.StatusAccepted, http.StatusServiceUnavailable, http.StatusInternalServerError}
	url := answering(t, func(w http.ResponseWriter) {
		status := statuses[calls.Add(1)%3]
		if status == http.StatusAccepted {
			accepted.Add(1)
		}
		w.WriteHeader(status)
	})
	l := newClosed(t, 0)
	stop := l.Start(t.Context(), url, []byte(`{}`))
	waitFor(t, func() bool { return calls.Load() > 100 })
	stop()
	if got := l.Accepted.Load(); got != accepted.Load() || got == 0 {
		t.Errorf("accepted: got %d, want %d", got, accepted.Load())
	}
	if l.Check() == nil {
		t.Error("failures are no error")
	}
}

func TestClosedKeepsToTheWindow(t *testing.T) {
	t.Parallel()
	url := answering(t, func(w http.ResponseWriter) { w.WriteHeader(http.StatusAccepted) })
	l := newClosed(t, 10)
	stop := l.Start(t.Context(), url, []byte(`{}`))
	waitFor(t, func() bool { return l.Accepted.Load() == 10 })
	first, second := "req_"+uuid.NewString(), "req_"+uuid.NewString()
	for _, called := range []struct {
		id        string
		want      int
		delivered int64
	}{{first, 200, 1}, {first, 200, 1}, {"not an id", 400, 1}, {second, 200, 2}} {
		if got := callBack(t, l.URL, called.id); got != called.want || l.Delivered.Load() != called.delivered {
			t.Errorf("%q: got status %d and %d delivered, want %+v", called.id, got, l.Delivered.Load(), called)
		}
	}
	waitFor(t, func() bool { return l.Accepted.Load() == 12 })
	stop()
	if got := l.Accepted.Load(); got != 12 {
		t.Errorf("%d requests were accepted, 12 had room", got)
	}
	if l.Await(t.Context(), 0) == nil {
		t.Error("waiting for callbacks that don't come: got no error")
	}
}

func TestClosedAccepts(t *testing.T) {
	t.Parallel()
	url := answering(t, func(w http.ResponseWriter) { w.WriteHeader(http.StatusAccepted) })
	l := newClosed(t, 3)
	if err := l.Accept(t.Context(), 3, time.Hour, url, nil); err != nil || l.Accepted.Load() != 3 {
		t.Errorf("got %d accepted, %v, want 3", l.Accepted.Load(), err)
	}
	for range 3 {
		callBack(t, l.URL, uuid.NewString())
	}
	if err := l.Await(t.Context(), time.Hour); err != nil {
		t.Errorf("waiting for callbacks that have come: %v", err)
	}
	if err := l.Accept(t.Context(), 7, 0, url, nil); err == nil {
		t.Error("too few: got no error")
	}
	failing := answering(t, func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) })
	if err := newClosed(t, 0).Accept(t.Context(), 1, time.Hour, failing, nil); err == nil {
		t.Error("a failure: got no error")
	}
}

func newClosed(t *testing.T, window int) *Closed {
	t.Helper()
	l, err := NewClosed(receivers.OK, 4, window)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func answering(t *testing.T, answer func(http.ResponseWriter)) (url string) {
	t.Helper()
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w) }))
	t.Cleanup(target.Close)
	return target.URL + "/async"
}

func callBack(t *testing.T, url, id string) (status int) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("webhook-id", id)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for !done() {
		if !Pause(t.Context(), time.Millisecond) {
			t.Fatal(t.Context().Err())
		}
	}
}
