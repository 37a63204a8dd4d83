package receivers

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
)

func TestCounterCountsRequestsOnce(t *testing.T) {
	t.Parallel()
	var told atomic.Int64
	c, err := StartCounter(OK, func() { told.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	first, second := "req_"+uuid.NewString(), "req_"+uuid.NewString()
	for id, want := range map[string]int{first: 200, "not an id": 400} {
		if got := call(t, http.MethodPost, c.URL, id).StatusCode; got != want {
			t.Errorf("%q was answered %d, want %d", id, got, want)
		}
	}
	call(t, http.MethodPost, c.URL, second)
	call(t, http.MethodPost, c.URL, first)
	if c.Delivered.Load() != 2 || c.Repeated.Load() != 1 || told.Load() != 2 {
		t.Errorf("delivered %d, repeated %d, told %d", c.Delivered.Load(), c.Repeated.Load(), told.Load())
	}
	if err := c.Await(t.Context(), 2, time.Hour); err != nil {
		t.Errorf("waiting for what has come: %v", err)
	}
	if err := c.Await(t.Context(), 3, 0); err == nil {
		t.Error("waiting for more: got no error")
	}
}

// call returns a response without a status where the connection was broken.
func call(t *testing.T, method, url, id string) *http.Response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("webhook-id", id)
	request.Header.Set("WebHook-Request-Origin", "ringback.example")
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return &http.Response{}
	}
	response.Body.Close()
	return response
}

// book knows every request, and counts its attempts.
func book(earlier *atomic.Int64) Book {
	return Book{
		Came:   func(c *Callback) (int, bool) { return int(earlier.Add(1) - 1), c.RequestID() != "unknown" },
		Answer: func(_ *Callback, status int) int { return status },
	}
}

func TestBehaviours(t *testing.T) {
	t.Parallel()
	for behaviour, want := range map[Behaviour][2]int{ // at the first attempt and the second, 0 for a broken connection
		OK: {200, 200}, Granting: {200, 200}, Flaky: {500, 200}, Shaky: {0, 200},
		Reset: {0, 0}, Failing: {500, 500}, Refusing: {0, 0}, Gone: {410, 410},
	} {
		t.Run(behaviour.String(), func(t *testing.T) {
			t.Parallel()
			r, err := Start(behaviour, book(new(atomic.Int64)))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(r.Close)
			for attempt, want := range want {
				if got := call(t, http.MethodPost, r.URL, "req_1").StatusCode; got != want {
					t.Errorf("attempt %d: got %d, want %d", attempt+1, got, want)
				}
			}
			if back, err := Parse(behaviour.String()); err != nil || back != behaviour {
				t.Errorf("%s: got %s, %v", behaviour, back, err)
			}
		})
	}
	for _, entry := range Described() {
		if name, _, _ := strings.Cut(entry, " "); name == "" {
			t.Error("a behaviour has no name")
		}
	}
	if _, err := Parse("nice"); err == nil {
		t.Error("a behaviour that there isn't: got no error")
	}
}

func TestWhatTakesLongEndsWithTheReceiver(t *testing.T) {
	t.Parallel()
	for behaviour, want := range map[Behaviour]int{Slow: 200, Hang: 0} {
		came := make(chan struct{})
		r, err := Start(behaviour, Book{
			Came:   func(*Callback) (int, bool) { close(came); return 0, true },
			Answer: func(_ *Callback, status int) int { return status },
		})
		if err != nil {
			t.Fatal(err)
		}
		context.AfterFunc(t.Context(), r.Close)
		go func() { <-came; r.Close() }()
		if got := call(t, http.MethodPost, r.URL, "req_1").StatusCode; got != want {
			t.Errorf("%s: got %d, want %d", behaviour, got, want)
		}
	}
}

func TestReceiverSuffersForAWhile(t *testing.T) {
	t.Parallel()
	r, err := Start(OK, book(new(atomic.Int64)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	for _, want := range []int{200, 500, 200} {
		if want == 500 {
			r.Suffer(Failing)
		}
		if got := call(t, http.MethodPost, r.URL, "req_1").StatusCode; got != want {
			t.Errorf("got %d, want %d", got, want)
		}
		r.Recover()
	}
}

func TestReceiverAnswersOptionsAndStrangers(t *testing.T) {
	t.Parallel()
	for behaviour, want := range map[Behaviour]struct {
		status  int
		granted string
	}{OK: {405, ""}, Granting: {200, "*"}} {
		r, err := Start(behaviour, book(new(atomic.Int64)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		got := call(t, http.MethodOptions, r.URL, "")
		if origin, rate := got.Header.Get("WebHook-Allowed-Origin"), got.Header.Get("WebHook-Allowed-Rate"); got.StatusCode != want.status || origin != want.granted || rate != want.granted {
			t.Errorf("%s: got %d, origin %q and rate %q, want %d and %q", behaviour, got.StatusCode, origin, rate, want.status, want.granted)
		}
		if got := call(t, http.MethodPost, r.URL, "req_unknown").StatusCode; got != http.StatusGone {
			t.Errorf("a callback of no request: got %d, want 410", got)
		}
	}
}
