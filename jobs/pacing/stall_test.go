package pacing

import (
	"testing"
	"time"

	"ringback/jobs/webhook"
)

// A receiver, or the machine, that stood still for a while leaves callbacks that wait. They
// leave soon after it goes on, and new callbacks overtake them for no longer.
func TestCallbacksThatWaitedThroughAStallLeaveSoon(t *testing.T) {
	t.Parallel()
	const from = 20 * second
	for _, test := range []struct {
		name  string
		rate  float64
		stall time.Duration
	}{
		{"OfASecond", 300, second},
		{"OfFourSeconds", 300, 4 * second},
		{"OfFourSecondsAtALowRate", 30, 4 * second},
		{"OfEightSecondsAtAHighRate", 600, 8 * second},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			until := from + test.stall
			s, o := newSimulation(1000), newOrdinary(0)
			o.answer = func(call simCall) (webhook.Outcome, int, time.Duration) {
				if call.at >= from && call.at < until {
					return webhook.Delivered, 204, until - call.at
				}
				return webhook.Delivered, 204, time.Millisecond
			}
			s.sendEvery("acme", o, test.rate, 0, 2*until)
			s.run(4 * until)
			var left time.Duration // when the last of them left
			runs := 0
			for _, job := range o.jobs {
				if job.first == 0 {
					t.Fatal("a callback never left")
				}
				if arrived := job.arrived.Sub(morning); arrived < until {
					left, runs = max(left, arrived+job.first), max(runs, job.runs)
				}
			}
			if most := test.stall + second; left > until+most || runs > 15 {
				t.Errorf("the last callback of the stall left %v after it, in %d runs, want %v at most, in few runs", left-until, runs, most)
			}
		})
	}
}
