package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestNobodyWorksIsToldOnceAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var idle bool
		var err error
		w := &idleWatch{logger: slog.New(slog.NewTextHandler(&log, nil)), nobodyWorks: func(context.Context) (bool, error) { return idle, err }}
		wantLines := func(after time.Duration, message string, want int) {
			t.Helper()
			for range after / idleInterval {
				time.Sleep(idleInterval)
				w.look(t.Context())
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
