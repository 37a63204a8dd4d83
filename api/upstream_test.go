package api_test

import (
	"context"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/prometheus/client_golang/prometheus"

	"ringback/api"
	"ringback/jobs"
	"ringback/work"
)

// failing is work that ends as its caller says.
func failing(t *testing.T, paced bool, do work.Plain) func(*api.Config) {
	t.Helper()
	adjust := offer(t, "w", work.Set{"w": {Do: do.Do, Paced: paced}})
	return func(c *api.Config) {
		adjust(c)
		queue, err := jobs.New(jobs.Config{Pool: c.Pool, RiverPool: c.Pool, Logger: discard, AsyncLimit: 100, Retention: time.Hour, Catalog: c.Catalog})
		if err != nil {
			t.Fatal(err)
		}
		c.Queue = queue
	}
}

func TestSyncWorkThatIsNotDone(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name       string
		err        error
		status     int
		problem    string
		code       string
		retryAfter string // "" for any or none
		freesKey   bool
	}{
		{"LaterIsA503", work.Retry(&work.Error{Code: "busy", Message: "m"}, 7*time.Second), 503, "unavailable", work.CodeNotDone, "7", true},
		{"AgainIsA503", work.Retry(&work.Error{Code: "busy", Message: "m"}, 0), 503, "unavailable", work.CodeNotDone, "", true},
		{"TooLateIsA504", work.Retry(&work.Error{Code: work.CodeDeadline, Message: "m"}, 0), 504, "work-deadline-exceeded", work.CodeDeadline, "", false},
		{"RefusedIsA422", &work.Error{Code: work.CodeRefused, Message: "No such page."}, 422, "work-refused", work.CodeRefused, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var done atomic.Bool
			s := newService(t, failing(t, true, func(context.Context, jsontext.Value) (jsontext.Value, error) {
				if done.Load() {
					return jsontext.Value(`1`), nil
				}
				return nil, test.err
			}))
			answer := s.call(t, "POST", "/sync", syncBody, "Idempotency-Key", "k")
			s.wantProblem(t, answer, test.status, test.problem)
			after := answer.header.Get("Retry-After")
			if test.retryAfter != "" && after != test.retryAfter || test.status == 503 && after == "" {
				t.Errorf("Retry-After: got %q, want %q", after, test.retryAfter)
			}
			row := s.located(t, answer)
			var recorded work.Error
			if err := json.Unmarshal(row.Error, &recorded); err != nil || recorded.Code != test.code {
				t.Errorf("recorded: got %s, want %s", row.Error, test.code)
			}
			done.Store(true)
			if test.name == "LaterIsA503" {
				return // it is still paused
			}
			again := s.call(t, "POST", "/sync", syncBody, "Idempotency-Key", "k")
			if freed := again.status == http.StatusOK; freed != test.freesKey {
				t.Errorf("again with the key: got %d, want it done anew: %v", again.status, test.freesKey)
			}
		})
	}
}

// A call beyond the limit of its work waits for its turn.
func TestSyncCallsBeyondTheLimitOfTheirWork(t *testing.T) {
	t.Parallel()
	finish, registry := make(chan struct{}), prometheus.NewRegistry()
	s := newService(t, func(c *api.Config) {
		offer(t, "w", work.Set{"w": {Limit: 1, Do: func(context.Context, work.Call) (jsontext.Value, error) {
			<-finish
			return jsontext.Value(`1`), nil
		}}})(c)
		queue, err := jobs.New(jobs.Config{Pool: c.Pool, RiverPool: c.Pool, Logger: discard, AsyncLimit: 100, Retention: time.Hour, Catalog: c.Catalog, Metrics: registry})
		if err != nil {
			t.Fatal(err)
		}
		c.Queue = queue
	})
	answers := make(chan answer)
	for range 2 {
		go func() { answers <- s.call(t, "POST", "/sync", syncBody) }()
	}
	for gauge(t, registry, "ringback_work_sync_waiting") == 0 {
		runtime.Gosched()
	}
	close(finish)
	for range 2 {
		if got := <-answers; got.status != http.StatusOK {
			t.Errorf("got %d, %s, want 200", got.status, got.body)
		}
	}
}

func TestDeadWorkIsTheWorksAlone(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	s := newService(t, failing(t, true, func(context.Context, jsontext.Value) (jsontext.Value, error) {
		calls.Add(1)
		return nil, work.Retry(&work.Error{Code: "away", Message: "m"}, 0)
	}))
	// It takes five failures to open for a second, and each probe that fails doubles
	// that: however slow this machine is, some call is refused at once.
	var answer answer
	for refused := false; !refused; refused = strings.Contains(string(answer.body), "is down") {
		answer = s.call(t, "POST", "/sync", syncBody)
		s.wantProblem(t, answer, http.StatusServiceUnavailable, "unavailable")
	}
	if after, err := strconv.Atoi(answer.header.Get("Retry-After")); err != nil || after < 1 {
		t.Errorf("Retry-After: got %q, want seconds", answer.header.Get("Retry-After"))
	}
	if got := s.stored(t); got != int(calls.Load()) {
		t.Errorf("stored: got %d of %d calls of the work, want nothing of refused calls", got, calls.Load())
	}
	if got := s.call(t, "POST", "/async", asyncBody); got.status != http.StatusAccepted {
		t.Errorf("async: got %d, want it accepted", got.status)
	}
	if got := s.call(t, "GET", "/healthz", ""); got.status != http.StatusOK {
		t.Errorf("health: got %d, want 200", got.status)
	}
}
