package main

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"charm.land/lipgloss/v2"
)

func TestProgress(t *testing.T) {
	t.Parallel()
	now := snapshot{
		elapsed: 5 * time.Second, left: 2500 * time.Millisecond, offered: 200, achieved: 199, inFlight: 3, waiting: 4,
		answered: counts{ok: 900, shed: 7, failed: 1, rejected: 1}, syncP99: 1.5, asyncP99: 2.5, callbackP99: 30,
		acked: 450, delivered: 440, oldest: 1234 * time.Millisecond,
	}

	t.Run("as a line", func(t *testing.T) {
		t.Parallel()
		want := "   5s  offered 200/s  sent 199/s  in flight 3  waiting 4  ok 900  shed 7  failed 2  delivered 440 of 450  oldest 1.2s  left 2.5s"
		if got := now.line(); got != want {
			t.Errorf("got  %q,\nwant %q", got, want)
		}
	})

	t.Run("in place on a terminal", func(t *testing.T) {
		t.Parallel()
		panel := now.panel(defaults())
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

func TestSnapshot(t *testing.T) {
	t.Parallel()
	service := start(t, &service{onAsync: func(n int, job job, w http.ResponseWriter) {
		if n != 2 {
			job.callBack(job.id, "succeeded")
		}
		accept(job, w)
	}})
	config := defaults()
	config.target, config.length, config.drain = service.url, 200*time.Millisecond, 0
	storm, err := newStorm(config, newClient(config))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := storm.run(t.Context(), t.Output()); err != nil {
		t.Fatal(err)
	}
	got := storm.snapshot(t.Context(), snapshot{})
	if got.answered[ok] != 40 || got.acked != 20 || got.delivered != 19 || got.inFlight != 0 || got.waiting != 0 || got.left > 5*time.Millisecond { // the last one was due 5 ms before the end
		t.Errorf("got %+v, want 40 answered, 20 acknowledged and 19 delivered", got)
	}
	if most := storm.ledger.clock.now(); got.oldest <= 0 || got.oldest > most {
		t.Errorf("oldest: got %v, want how long the second request has waited, up to %v", got.oldest, most)
	}
}
