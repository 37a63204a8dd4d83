package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"ringback/internal/bubble"
)

func TestThatNobodyMayCallIsToldAtOnceAndOnceAMinute(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		empty := true
		w := watchCallers(func() bool { return empty }, slog.New(slog.NewTextHandler(&log, nil)))
		want := func(message string, times int) {
			t.Helper()
			if got := strings.Count(log.String(), "msg="+message+" ") + strings.Count(log.String(), "msg="+message+"\n"); got != times {
				t.Errorf("%s: got %d, want %d:\n%s", message, got, times, log.String())
			}
			log.Reset()
		}
		w.tell(t.Context())
		want("no_clients", 1)
		for range 10 * time.Minute / idleInterval {
			time.Sleep(idleInterval)
			w.tell(t.Context())
		}
		want("no_clients", 10)
		empty = false
		w.tell(t.Context())
		want("no_clients_over", 1)
		w.tell(t.Context())
		want("no_clients", 0)
	})
}

func TestNobodyWorksIsToldOnceAMinute(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var idle bool
		var err error
		w := watchWorkers(nil, slog.New(slog.NewTextHandler(&log, nil)))
		w.look = func(context.Context) (remedy string, _ error) {
			if idle {
				remedy = "start one"
			}
			return remedy, err
		}
		wantLines := func(after time.Duration, message string, want int) {
			t.Helper()
			for range after / idleInterval {
				time.Sleep(idleInterval)
				w.tell(t.Context())
			}
			if got := strings.Count(log.String(), "msg="+message+" ") + strings.Count(log.String(), "msg="+message+"\n"); got != want {
				t.Errorf("%s after %s: got %d, want %d:\n%s", message, after, got, want, log.String())
			}
			log.Reset()
		}
		wantLines(time.Hour, "nobody_works", 0)
		idle = true
		wantLines(idleInterval, "nobody_works", 0) // for a moment
		idle = false
		wantLines(idleInterval, "nobody_works_over", 0)
		idle = true
		wantLines(10*time.Minute, "nobody_works", 10)
		err = errors.New("away")
		wantLines(10*time.Minute, "nobody_works", 0)
		err, idle = nil, false
		wantLines(time.Hour, "nobody_works_over", 1)
	})
}
