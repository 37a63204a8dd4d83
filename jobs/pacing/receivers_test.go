package pacing

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"ringback/db"
	"ringback/jobs/webhook"
)

const second = time.Second

func newOrdinary(took time.Duration) *simReceiver {
	return &simReceiver{name: "https://hooks.example.com:443", address: here, answer: takes(took)}
}

// Callbacks that wait for receivers which take seconds must not ask again and again
// meanwhile: each time costs the database two statements, and other callbacks their place in
// the queue.
func TestSlowReceiversAreAskedForSeldom(t *testing.T) {
	t.Parallel()
	// A receiver may be quick until it is trusted.
	quickAtFirst := func() answer {
		answered := 0
		return func(simCall) (webhook.Outcome, int, time.Duration) {
			if answered++; answered == 1 {
				return webhook.Delivered, 204, time.Millisecond
			}
			return webhook.Delivered, 204, 9 * second
		}
	}
	slowAlways := func() answer { return takes(8 * second) }
	for name, test := range map[string]struct {
		slots  int
		answer func() answer
	}{
		"ForEachReceiver": {1000, slowAlways}, "ForWorkers": {100, slowAlways},
		"QuickAtFirst": {1000, quickAtFirst}, "QuickAtFirstForWorkers": {100, quickAtFirst},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSimulation(test.slots)
			var slow []*simReceiver
			for n := range 100 {
				o := &simReceiver{name: fmt.Sprintf("https://slow%d:443", n), address: fmt.Sprintf("198.51.100.%d:443", n), answer: test.answer()}
				s.sendEvery("mallory", o, 0.5, time.Duration(n)*second/50, 40*second)
				slow = append(slow, o)
			}
			s.run(40 * second)
			if got := postponedAJob(slow...); got == 0 || got > 3 {
				t.Errorf("got %.2f postponements a callback within 40 s, want some, and no more than 3", got)
			}
		})
	}
}

// A receiver, or the machine, that was slow for a while leaves reservations up to a minute
// ahead. New callbacks needn't queue behind them.
func TestCallbacksAfterASlowSpellDoNotWait(t *testing.T) {
	t.Parallel()
	const from, until = 20 * second, 40 * second
	for _, slow := range []time.Duration{second / 2, 2 * second, 5 * second} {
		t.Run(slow.String(), func(t *testing.T) {
			t.Parallel()
			s := newSimulation(1000)
			o := newOrdinary(0)
			o.answer = func(call simCall) (webhook.Outcome, int, time.Duration) {
				if call.at >= from && call.at < until {
					return webhook.Delivered, 204, slow
				}
				return webhook.Delivered, 204, time.Millisecond
			}
			s.sendEvery("acme", o, 40, 0, 60*second)
			s.run(3 * time.Minute)
			var worst time.Duration
			for _, job := range o.jobs {
				if job.first == 0 {
					t.Fatal("a callback never left")
				}
				if job.arrived.Sub(morning) >= until+slow+second {
					worst = max(worst, job.first)
				}
			}
			if worst > second {
				t.Errorf("got a wait of %v for a callback that came after the spell, want hardly any", worst)
			}
		})
	}
}

// Rate of an ordinary receiver, which answers and knows no handshake.
func TestRamp(t *testing.T) {
	t.Parallel()

	t.Run("IsOverFiveSecondsAfterTheFirstCallback", func(t *testing.T) {
		t.Parallel()
		s, busy := newSimulation(500), newOrdinary(2*time.Millisecond)
		s.sendEvery("acme", busy, 1000, 0, 30*second)
		s.run(40 * second)
		if got := countWithin(busy.sent, 4*second, second); got < 1000 {
			t.Errorf("got %d sent in the fifth second, want 1000 a second or more", got)
		}
		if got := busy.waitingAt(12 * second); got > 100 {
			t.Errorf("got %d waiting after 12 s, want the backlog of the ramp to be worked off", got)
		}
		if got := postponedAJob(busy); got > 0.2 {
			t.Errorf("got %.2f postponements a callback, want few of them to be touched twice", got)
		}
	})

	t.Run("IsOverBeforeManyHaveToWait", func(t *testing.T) {
		t.Parallel()
		s, busy := newSimulation(1000), newOrdinary(2*time.Millisecond)
		s.sendEvery("acme", busy, 4000, 0, 10*second)
		s.run(20 * second)
		if got := countWithin(busy.sent, second, second); got < 4000 {
			t.Errorf("got %d sent in the second second, want 4,000 a second or more", got)
		}
		waited := 0
		for _, job := range busy.jobs {
			waited += min(1, job.postponed)
		}
		if waited > 4000 {
			t.Errorf("got %d callbacks of 40,000 that waited in the queue, want those of the first second at most", waited)
		}
	})

	t.Run("IsGoneThroughAgainAfterFailures", func(t *testing.T) {
		t.Parallel()
		for name, test := range map[string]struct {
			failing func(call simCall) bool
			within  time.Duration // of the end of the failures
		}{
			"all fail for two seconds":                {func(call simCall) bool { return call.at < 12*second }, 10 * second},
			"every other one fails for three seconds": {func(call simCall) bool { return call.at < 13*second && call.at.Microseconds()/10%2 == 0 }, 15 * second},
			"all fail for a minute":                   {func(call simCall) bool { return call.at < 70*second }, 65 * second}, // its breaker is open for the last minute
		} {
			s, busy := newSimulation(500), newOrdinary(0)
			well := time.Duration(0)
			busy.answer = func(call simCall) (webhook.Outcome, int, time.Duration) {
				if call.at > 10*second && test.failing(call) {
					well = call.at
					return webhook.HTTPStatus, 503, 2 * time.Millisecond
				}
				return takes(2 * time.Millisecond)(call)
			}
			s.sendEvery("acme", busy, 1000, 0, 120*second)
			s.run(130 * second)
			if got := countWithin(busy.sent, well+test.within, second); got < 1000 {
				t.Errorf("%s: got %d a second %v after the last failure, want all 1000", name, got, test.within)
			}
		}
	})

	t.Run("LeavesABacklogThatGoesAsFastAsTheReceiverAnswers", func(t *testing.T) {
		t.Parallel()
		s, busy := newSimulation(1000), newOrdinary(5*time.Millisecond)
		for range 20_000 {
			s.send("acme", busy, 0)
		}
		s.run(40 * second)
		if got := busy.waitingAt(15 * second); got > 0 {
			t.Errorf("got %d of 20,000 waiting after 15 s, want the rest to go by the limit in flight from 1,000 a second on", got)
		}
	})

	t.Run("GoesOnAfterAReceiverWasSlowForAWhile", func(t *testing.T) {
		t.Parallel()
		s, busy := newSimulation(500), newOrdinary(0)
		busy.answer = func(call simCall) (webhook.Outcome, int, time.Duration) {
			if call.at > 6*second && call.at < 16*second {
				return takes(800 * time.Millisecond)(call)
			}
			return takes(5 * time.Millisecond)(call)
		}
		s.sendEvery("acme", busy, 300, 0, 60*second)
		s.run(60 * second)
		if got := busy.waitingAt(40 * second); got > 100 {
			t.Errorf("got %d waiting 24 s after the receiver was well again, want the backlog to be worked off", got)
		}
	})

	t.Run("IsSkippedByAReceiverThatIsRemembered", func(t *testing.T) {
		t.Parallel()
		first, busy := newSimulation(500), newOrdinary(2*time.Millisecond)
		first.sendEvery("acme", busy, 1000, 0, 10*second)
		first.run(20 * second)
		row := first.receivers[busy.name].row(first.now)

		second, again := newSimulation(500), newOrdinary(2*time.Millisecond)
		second.meets(again.name, row)
		second.sendEvery("acme", again, 1000, 0, 10*time.Second)
		second.run(20 * time.Second)
		waits := waitsOf(again)
		if got := waits[len(waits)*99/100]; got > 5*time.Millisecond || postponedAJob(again) > 0 {
			t.Errorf("got a wait of %v at the 99th, %.2f postponements, want hardly any", got, postponedAJob(again))
		}
	})

	t.Run("DoesNotKeepTheSlotsOfItsFirstSecond", func(t *testing.T) {
		t.Parallel()
		for took, want := range map[time.Duration]time.Duration{2 * time.Millisecond: 4 * second, 100 * time.Millisecond: 4 * second, second: 15 * second} {
			s, fresh := newSimulation(500), newOrdinary(took)
			for range 200 {
				s.send("acme", fresh, 0)
			}
			s.run(time.Minute)
			waits := waitsOf(fresh)
			if last := waits[len(waits)-1]; len(waits) != 200 || last > want || postponedAJob(fresh) > 4 {
				t.Errorf("answers of %v: got %d sent, the last after %v, %.2f postponements each, want all after %v",
					took, len(waits), last, postponedAJob(fresh), want)
			}
		}
	})

	t.Run("EndsWhereTheReceiverIsAtItsLimit", func(t *testing.T) {
		t.Parallel()
		s, slow := newSimulation(500), newOrdinary(0)
		slow.answer = servesAtATime(50, 200*time.Millisecond)
		s.sendEvery("acme", slow, 400, 0, time.Minute)
		s.run(time.Minute)
		if got := countWithin(slow.sent, 10*second, 50*second); got < 50*225 || len(slow.failed) > 0 {
			t.Errorf("got %d a second and %d failed, want 225 of the 250 that it can, and none", got/50, len(slow.failed))
		}
	})

	// The queue hands out what has become due in polls, and the only slot is free long before
	// the next one.
	t.Run("KeepsAServerOfOneAtATimeBusyBetweenPolls", func(t *testing.T) {
		t.Parallel()
		s, one := newSimulation(500), newOrdinary(0)
		one.answer = servesAtATime(1, 20*time.Millisecond)
		s.meets(one.name, db.Receiver{Rate: 100, InFlight: 10}).party("acme", morning).oneByOne = morning.Add(oneByOneFor)
		s.sendEvery("acme", one, 200, 0, 3*second) // and then nobody
		s.run(18 * second)
		if got := len(one.sent); got < 600 || one.mostEver > 1 {
			t.Errorf("got %d sent in 18 s, %d at a time, want all 600, which take 12 s at full speed, one at a time", got, one.mostEver)
		}
		if postponed := postponedAJob(one); postponed > 3 {
			t.Errorf("got %.1f postponements each, want few", postponed)
		}
	})

	t.Run("SettlesBelowTheRateAtWhichItSays503", func(t *testing.T) {
		t.Parallel()
		for name, limited := range map[string]func() answer{
			"a leaky bucket":      func() answer { return leakyBucket(300) },
			"a count each second": func() answer { return countsEachSecond(300) },
			"a sliding window":    func() answer { return slidingWindow(300) },
		} {
			for _, clients := range []int{1, 5, 20, 40} {
				s, limits := newSimulation(500), newOrdinary(0)
				limits.answer = limited()
				for n := range clients {
					s.sendEvery(fmt.Sprintf("client%d", n), limits, 600/float64(clients), time.Duration(n)*time.Millisecond, 90*second)
				}
				s.run(90 * second)
				sent := countWithin(limits.sent, 20*second, 70*second)
				failed := countWithin(limits.failed, 20*second, 70*second)
				if taken := (sent - failed) / 70; taken < 240 || failed*20 > sent {
					t.Errorf("%s, %d clients: got %d taken a second, and %d of %d failed, want at least 240 and less than 5 %%", name, clients, taken, failed, sent)
				}
				if all := len(limits.sent); clients <= 20 && len(limits.failed)*20 > all {
					t.Errorf("%s, %d clients: got %d of %d failed from the start, want less than 5 %%", name, clients, len(limits.failed), all)
				}
			}
		}
	})

	t.Run("IsNotEndedByAFewFailuresThatNoLoadCauses", func(t *testing.T) {
		t.Parallel()
		random := rand.New(rand.NewPCG(1, 2))
		for name, own := range map[string]struct {
			share  float64
			status int
		}{"one in a hundred is 500": {0.01, 500}, "one in five is 404": {0.2, 404}} {
			s, flawed := newSimulation(500), newOrdinary(0)
			flawed.answer = func(call simCall) (webhook.Outcome, int, time.Duration) {
				if random.Float64() < own.share {
					return webhook.HTTPStatus, own.status, 2 * time.Millisecond
				}
				return takes(2 * time.Millisecond)(call)
			}
			s.sendEvery("acme", flawed, 1000, 0, 30*second)
			s.run(30 * second)
			if got := countWithin(flawed.sent, 10*second, 20*second); got < 20*1000 {
				t.Errorf("%s: got %d a second, want all 1000", name, got/20)
			}
		}
	})

	t.Run("GivesNoMoreThanTheOperatorsCeiling", func(t *testing.T) {
		t.Parallel()
		s, busy := newSimulation(500), newOrdinary(2*time.Millisecond)
		s.rate = 100
		s.sendEvery("acme", busy, 300, 0, 30*second)
		s.run(30 * second)
		if most := mostWithin(busy.sent, second); most > 100+int(burst(100)) || len(busy.sent) < 25*100 {
			t.Errorf("got %d within a second, %d in all, want 100 a second", most, len(busy.sent))
		}
	})
}

// servesAtATime answers in the order in which callbacks come, so many at a time.
func servesAtATime(count int, took time.Duration) answer {
	free := make([]time.Duration, count)
	return func(call simCall) (webhook.Outcome, int, time.Duration) {
		next := 0
		for n := range free {
			if free[n] < free[next] {
				next = n
			}
		}
		free[next] = max(call.at, free[next]) + took
		if wait := free[next] - call.at; wait < 10*second {
			return webhook.Delivered, 200, wait
		}
		return hangs(call)
	}
}

// oneConnection serves a callback, and takes no connection meanwhile.
func oneConnection(took time.Duration) answer {
	var servedUntil time.Duration
	return func(call simCall) (webhook.Outcome, int, time.Duration) {
		if call.at < servedUntil {
			return webhook.Timeout, inHandshake, 10 * second
		}
		servedUntil = call.at + took
		return takes(took)(call)
	}
}

func leakyBucket(rate float64) answer {
	level, last := 0.0, time.Duration(0)
	return func(call simCall) (webhook.Outcome, int, time.Duration) {
		level, last = max(0, level-rate*(call.at-last).Seconds()), call.at
		if level > rate/10 {
			return webhook.HTTPStatus, 503, 2 * time.Millisecond
		}
		level++
		return takes(5 * time.Millisecond)(call)
	}
}

func countsEachSecond(rate int) answer {
	count, last := 0, time.Duration(0)
	return func(call simCall) (webhook.Outcome, int, time.Duration) {
		if call.at/second != last {
			count, last = 0, call.at/second
		}
		if count++; count > rate {
			return webhook.HTTPStatus, 503, 2 * time.Millisecond
		}
		return takes(5 * time.Millisecond)(call)
	}
}

// slidingWindow counts refused callbacks, too.
func slidingWindow(rate int) answer {
	var times []time.Duration
	return func(call simCall) (webhook.Outcome, int, time.Duration) {
		for len(times) > 0 && times[0] <= call.at-second {
			times = times[1:]
		}
		if times = append(times, call.at); len(times) > rate {
			return webhook.HTTPStatus, 503, 2 * time.Millisecond
		}
		return takes(5 * time.Millisecond)(call)
	}
}

func TestAReceiverOfManyClientsForgetsNoneThatItMustNotCall(t *testing.T) {
	t.Parallel()
	r := newReceiver("https://hooks.example.com:443", morning)
	for name, change := range map[string]func(c *party){
		"down":      func(c *party) { c.breaker.until = morning.Add(second) },
		"paused":    func(c *party) { c.pause = morning.Add(second) },
		"one":       func(c *party) { c.oneByOne = morning.Add(oneByOneFor) },
		"refused":   func(c *party) { c.refusal = refusal{stands: true, askAt: morning} },
		"unheard":   func(c *party) { c.refusal = refusal{askAt: morning.Add(second)} },
		"under way": func(c *party) { c.inFlight = 1 },
		"waiting":   func(c *party) { c.line.Hold(morning.Add(second)) },
	} {
		change(r.party(name, morning))
	}
	want := len(r.parties)
	for n := range maxParties - want {
		r.party(fmt.Sprint("idle ", n), morning)
	}
	r.party("new", morning)
	for _, name := range []string{"down", "paused", "one", "refused", "unheard", "under way", "waiting", "new"} {
		if r.parties[name] == nil {
			t.Errorf("the client %q is forgotten", name)
		}
	}
	if got := len(r.parties); got != want+1 {
		t.Errorf("got %d parties, want %d: the idle are to be forgotten", got, want+1)
	}
}
