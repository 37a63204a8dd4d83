package main

import (
	"testing"
	"time"

	"ringback/cmd/internal/load"
)

func TestLineOfProgress(t *testing.T) {
	t.Parallel()
	now := load.Snapshot{
		Elapsed: 5 * time.Second, Remaining: 2500 * time.Millisecond, Offered: 200, Achieved: 199, InFlight: 3, Waiting: 4,
		OK: 900, Shed: 7, Failed: 2, Acked: 450, Delivered: 440, Oldest: 1234 * time.Millisecond,
	}
	want := "   5s  offered 200/s  sent 199/s  in flight 3  waiting 4  ok 900  shed 7  failed 2  delivered 440 of 450  oldest 1.2s  left 2.5s"
	if got := line(now); got != want {
		t.Errorf("got  %q,\nwant %q", got, want)
	}
}
