package receivers

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

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
		})
	}
	for _, entry := range Described() {
		if name, _, _ := strings.Cut(entry, " "); name == "" {
			t.Error("a behaviour has no name")
		}
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

func TestGrantingReceiverGrantsNothingWhileItSuffers(t *testing.T) {
	t.Parallel()
	r, err := Start(Granting, book(new(atomic.Int64)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	r.Suffer(Failing)
	if got := call(t, http.MethodOptions, r.URL, ""); got.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("got %d, want 405", got.StatusCode)
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
	lenient := book(new(atomic.Int64))
	lenient.Unknown = func(c *Callback) { c.SetStatusCode(http.StatusTooManyRequests) }
	r, err := Start(OK, lenient)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	if got := call(t, http.MethodPost, r.URL, "req_unknown").StatusCode; got != http.StatusTooManyRequests {
		t.Errorf("a callback of no request that the user answers: got %d, want 429", got)
	}
}
