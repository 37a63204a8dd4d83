package load

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"ringback/cmd/internal/receivers"
	"ringback/db/dbtest"
)

func newClosed(t *testing.T, url string, adjust func(*Config)) *Run {
	t.Helper()
	config := Defaults()
	config.Input, config.Target, config.Mix, config.Connections = aText(t), url, Mix{Async: 1}, 4
	config.Unread, config.Drain = true, 0
	adjust(&config)
	run, err := New(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(run.Close)
	return run
}

func TestClosedLoopKeepsToTheWindow(t *testing.T) {
	t.Parallel()
	url := startAccepting(t, http.StatusAccepted)
	run := newClosed(t, url, func(config *Config) {
		config.Requests, config.Window, config.Work = 1000, 10, "some"
	})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan *Findings)
	go func() {
		found, err := run.Do(ctx)
		if err != nil {
			t.Error(err)
		}
		ended <- found
	}()
	<-run.Started()
	acked := func() int { return run.Snapshot(ctx, Snapshot{}).Acked }
	waitFor(t, func() bool { return acked() == 10 })
	for _, number := range []int{3, 3, 7, 7} { // a callback that comes again makes no room
		callBack(t, run, number)
	}
	waitFor(t, func() bool { return acked() == 12 })
	stop()
	if found := <-ended; found.Async.Acked != 12 || found.Async.Delivered != 2 || found.Async.Duplicates != 2 || found.Async.Missing != 10 {
		t.Errorf("got %+v, want 12 acknowledged, of which two were delivered, twice each", found.Async)
	}
	if response, err := http.Get(run.crowd.receivers[0].URL); err != nil {
		t.Errorf("a receiver after the run: got %v", err)
	} else {
		response.Body.Close()
	}
}

func TestClosedLoopEndsWithItsRequests(t *testing.T) {
	t.Parallel()
	run := newClosed(t, startService(t, 0), func(config *Config) { config.Requests, config.Drain = 25, time.Hour })
	found, err := run.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if found.Async.Sent != 25 || found.Async.Delivered != 25 || found.Async.Verified+found.Async.Unverified != 0 || found.Async.Mismatched != 0 {
		t.Errorf("got %+v, want all of 25 delivered, and none read", found.Async)
	}
}

// A worker that waits for room ends when others have made the last request.
func TestClosedLoopEndsWithAFullWindow(t *testing.T) {
	t.Parallel()
	run := newClosed(t, startAccepting(t, http.StatusAccepted), func(config *Config) { config.Requests, config.Window = 3, 3 })
	found, err := run.Do(t.Context())
	if err != nil || found.Async.Acked != 3 {
		t.Errorf("got %+v, %v, want 3 acknowledged", found, err)
	}
}

func TestClosedLoopGoesOnAfterRefusals(t *testing.T) {
	t.Parallel()
	run := newClosed(t, startAccepting(t, http.StatusServiceUnavailable), func(config *Config) { config.Requests, config.Window = 20, 2 })
	found, err := run.Do(t.Context())
	if err != nil || found.Async.Shed != 20 {
		t.Errorf("got %+v, %v, want 20 shed", found, err)
	}
}

func TestClosedLoopGoesOnAfterRequestsThatAreNotCalledBack(t *testing.T) {
	t.Parallel()
	for name, adjust := range map[string]func(*Config){
		"sync":               func(config *Config) { config.Mix = Mix{Sync: 1} },
		"taken by no one":    func(config *Config) { config.Receivers = AllOf(receivers.Gone) },
		"async, called back": func(*Config) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := newClosed(t, startService(t, 0), func(config *Config) {
				config.Requests, config.Window = 20, 2
				adjust(config)
			})
			ctx, cancel := context.WithTimeout(t.Context(), dbtest.Patience)
			defer cancel()
			found, err := run.Do(ctx)
			if err != nil || found.Sync.OK+found.Async.OK != 20 {
				t.Errorf("got %+v, %v, want 20 answered ok", found, err)
			}
		})
	}
}

// The callback comes before the answer, which then gets lost.
func TestRequestReturnsItsTokenOnce(t *testing.T) {
	t.Parallel()
	config := Defaults()
	config.Mix, config.Window = Mix{Async: 1}, 3
	ledger := newLedger(config, 3)
	for number := range 3 {
		if !ledger.takeToken(t.Context()) {
			t.Fatal(t.Context().Err())
		}
		ledger.expect(arrival{number: number})
	}
	ledger.deliver(0, 0, delivery{})
	ledger.record(arrival{number: 0}, 0, answer{outcome: ambiguous})
	ledger.record(arrival{number: 1}, 0, answer{outcome: ambiguous})
	ledger.deliver(1, 0, delivery{})
	if got := len(ledger.tokens); got != 1 {
		t.Errorf("got %d tokens, want that of the request under way", got)
	}
}

// startAccepting gives every request for the work called some, or for none, one answer,
// and calls nobody back.
func startAccepting(t *testing.T, status int) (url string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	answer := func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"id":%q,"status":"accepted"}`, uuid.New())
	}
	mux.HandleFunc("POST /async", answer)
	mux.HandleFunc("POST /async/some", answer)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

func callBack(t *testing.T, run *Run, number int) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, run.crowd.url(number), strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	run.ledger.mu.Lock()
	request.Header.Set("webhook-id", "req_"+run.ledger.requests[number].id.String())
	run.ledger.mu.Unlock()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("callback of request %d: got status %d", number, response.StatusCode)
	}
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for !done() {
		if !Pause(t.Context(), time.Millisecond) {
			t.Fatal(t.Context().Err())
		}
	}
}
