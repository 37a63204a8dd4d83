package main

import (
	"testing"
	"time"

	"ringback/db/dbtest"
)

func TestVacuumIsAddedUpByTable(t *testing.T) {
	t.Parallel()
	cpu := map[int]time.Duration{}
	w := &vacuumWatch{cpu: func(pid int) time.Duration { return cpu[pid] }, took: map[string]time.Duration{}}
	cpu[1] = 7 * time.Second // before the watch began
	w.note([]vacuuming{{1, "requests"}}, true)
	cpu[1], cpu[2] = 8*time.Second, 3*time.Second
	w.note([]vacuuming{{1, "requests"}, {2, "river_job"}}, false)
	cpu[2] = 5 * time.Second
	w.note([]vacuuming{{2, "river_job"}}, false)
	w.note(nil, false)
	cpu[2] = time.Second / 2 // another process with the same number
	w.note([]vacuuming{{2, "clients"}}, false)
	if got, want := w.String(), "river_job 5.0 s, requests 1.0 s, clients 0.5 s"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := w.total(), 6500*time.Millisecond; got != want {
		t.Errorf("in all: got %v, want %v", got, want)
	}
}

func TestVacuumIsWatchedWhileSomethingRuns(t *testing.T) {
	t.Parallel()
	d := database{"test", dbtest.NewEmpty(t)}
	ran := false
	if _, err := (&cluster{}).watchVacuum(t.Context(), d, func() error { ran = true; return nil }); err != nil || !ran {
		t.Errorf("got %v, and ran: %v", err, ran)
	}
}
