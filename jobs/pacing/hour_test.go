package pacing

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

func allSent(receivers []*simReceiver) (sent []time.Duration) {
	for _, o := range receivers {
		sent = append(sent, o.sent...)
	}
	slices.Sort(sent)
	return sent
}

func TestAnHourOfAThousandReceivers(t *testing.T) {
	t.Parallel()
	s := newSimulation(200)
	group := func(count int, name string, says answer) (made []*simReceiver) {
		for n := range count {
			made = append(made, &simReceiver{
				name: fmt.Sprintf("https://%s%d:443", name, n), address: fmt.Sprintf("198.51.%d.%d:443", len(name), n%250), answer: says,
			})
		}
		return made
	}
	good := group(700, "good", takes(20*time.Millisecond))
	slow := group(100, "slow..", takes(2*time.Second))
	hanging := group(100, "hanging.", hangs)
	failing := group(50, "failing..", fails)
	flapping := group(50, "flapping..", flaps)
	all := slices.Concat(good, slow, hanging, failing, flapping)
	for n, o := range all { // a callback every 40 s
		for at := time.Duration(s.random.Int64N(int64(40 * time.Second))); at < time.Hour; at += 40 * time.Second {
			s.send(fmt.Sprintf("client%d", n%10), o, at)
		}
	}
	floods := []*simReceiver{
		{name: "https://flooded-dead:443", address: "203.0.113.1:443", answer: hangs},
		{name: "https://flooded-failing:443", address: "203.0.113.2:443", answer: fails},
		{name: "https://flooded:443", address: "203.0.113.3:443", answer: takes(20 * time.Millisecond)},
	}
	for n, o := range floods {
		for range 5000 {
			s.send(fmt.Sprintf("client%d", n), o, 10*time.Minute)
		}
	}
	s.run(time.Hour)

	t.Run("TheGoodAreNotHeldUp", func(t *testing.T) {
		waits := waitsOf(good...)
		if p50, p99 := waits[len(waits)/2], waits[len(waits)*99/100]; p50 > 50*time.Millisecond || p99 > time.Second {
			t.Errorf("waits: got %v at the median, %v at the 99th, want at most 50ms, 1s", p50, p99)
		}
	})

	t.Run("NobodyGetsMoreThanTheShareOfTheWorkers", func(t *testing.T) {
		for _, o := range slices.Concat(all, floods) {
			if o.mostEver > s.mostPerReceiver {
				t.Errorf("%s: got %d at a time, want at most %d", o.name, o.mostEver, s.mostPerReceiver)
			}
		}
	})

	t.Run("TheDeadAreLeftAlone", func(t *testing.T) {
		for _, o := range slices.Concat(hanging, failing, floods[:2]) {
			// Ten to open, and a probe each 30 s, 1, 2, 4, 8 and 15 minutes after.
			if len(o.sent) > failuresToTrip+20 {
				t.Errorf("%s: got %d attempts within the hour, want about a dozen", o.name, len(o.sent))
			}
		}
	})

	t.Run("TheOthersAreDeliveredTo", func(t *testing.T) {
		for _, o := range slices.Concat(good, slow, floods[2:]) {
			for _, job := range o.jobs {
				if job.delivered == 0 && morning.Add(time.Hour).Sub(job.arrived) > time.Minute {
					t.Fatalf("%s: a callback of %v was not delivered within the hour: %+v", o.name, job.arrived.Sub(morning), job)
				}
			}
		}
	})

	t.Run("EachJobIsTouchedAFewTimes", func(t *testing.T) {
		for _, test := range []struct {
			of   []*simReceiver
			most float64 // postponements a job
		}{{good, 0.01}, {slow, 0.1}, {flapping, 4}, {floods[2:], 2}, {floods[:1], 14}, {floods[1:2], 14}} {
			got := postponedAJob(test.of...)
			t.Logf("%s: postponed %.2f times a job, %d sent for %d jobs", test.of[0].name, got, len(test.of[0].sent), len(test.of[0].jobs))
			if got > test.most {
				t.Errorf("%s and the like: got %.2f postponements a job, want at most %.2f", test.of[0].name, got, test.most)
			}
		}
	})
}
