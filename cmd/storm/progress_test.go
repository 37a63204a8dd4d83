package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"charm.land/lipgloss/v2"

	"ringback/cmd/internal/load"
)

func TestProgress(t *testing.T) {
	t.Parallel()
	now := load.Snapshot{
		Elapsed: 5 * time.Second, Left: 2500 * time.Millisecond, Offered: 200, Achieved: 199, InFlight: 3, Waiting: 4,
		OK: 900, Shed: 7, Failed: 2, SyncP99: 1.5, AsyncP99: 2.5, CallbackP99: 30,
		Acked: 450, Delivered: 440, Oldest: 1234 * time.Millisecond,
	}

	t.Run("as a line", func(t *testing.T) {
		t.Parallel()
		want := "   5s  offered 200/s  sent 199/s  in flight 3  waiting 4  ok 900  shed 7  failed 2  delivered 440 of 450  oldest 1.2s  left 2.5s"
		if got := line(now); got != want {
			t.Errorf("got  %q,\nwant %q", got, want)
		}
	})

	t.Run("in place on a terminal", func(t *testing.T) {
		t.Parallel()
		panel := panel(now, load.Defaults())
		for _, want := range []string{"2.5s left", "200/s offered", "3 in flight", "7 shed", "30.0 ms to callback", "440 of 450", "1.2s"} {
			if !strings.Contains(panel, want) {
				t.Errorf("%q is missing in\n%s", want, panel)
			}
		}
		if got := strings.Count(panel, "\n") + 1; got != panelHeight {
			t.Errorf("height: got %d, want %d", got, panelHeight)
		}
		for line := range strings.Lines(panel) {
			if got := lipgloss.Width(strings.TrimSuffix(line, "\n")); got != 78 {
				t.Errorf("width: got %d, want 78: %s", got, line)
			}
		}
		var written bytes.Buffer
		screen := screen{w: &written, fits: func() bool { return true }}
		screen.draw("one\ntwo")
		screen.draw("three")
		screen.clear()
		if got, want := written.String(), "one\ntwo\n\x1b[2A\r\x1b[Jthree\n\x1b[1A\r\x1b[J"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
