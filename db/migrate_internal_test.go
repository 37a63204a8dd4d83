package db

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"ringback/internal/bubble"
)

// A line without a name helps nobody, and one each second is too many.
func TestWaitsAreToldOnceTheirBlockersAreSeen(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		w := waits{logger: slog.New(slog.NewTextHandler(&log, nil))}
		for _, step := range []struct {
			blockers string
			lines    int // in all
		}{{"", 0}, {"", 0}, {"pid 7", 1}, {"pid 7", 1}, {"", 1}} {
			w.tell(t.Context(), step.blockers, 19)
			if got := strings.Count(log.String(), "migration_waits"); got != step.lines {
				t.Errorf("got %d lines, want %d:\n%s", got, step.lines, &log)
			}
			_ = pause(t.Context(), migrationPause)
		}
		_ = pause(t.Context(), waitingInterval)
		w.tell(t.Context(), "", 19)
		if got := strings.Count(log.String(), "migration_waits"); got != 2 {
			t.Errorf("got %d lines after %v, want another one:\n%s", got, waitingInterval, &log)
		}
	})
}
