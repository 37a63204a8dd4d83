package pacing

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"ringback/db"
	"ringback/jobs/webhook"
)

// calm is how long callbacks of a client may wait that nobody holds up.
const calm = 200 * time.Millisecond

func wantCalm(t *testing.T, what string, client string, receivers ...*simReceiver) {
	t.Helper()
	var waits []time.Duration
	for _, o := range receivers {
		for _, job := range o.jobs {
			if job.client == client {
				waits = append(waits, job.first)
			}
		}
	}
	slices.Sort(waits)
	if len(waits) == 0 || waits[0] == 0 {
		t.Fatalf("%s: some callbacks of %s never left", what, client)
	}
	if p50, p99 := waits[len(waits)/2], waits[len(waits)*99/100]; p50 > 10*time.Millisecond || p99 > calm {
		t.Errorf("%s: got waits of %v at the median and %v at the 99th, want hardly any", what, p50, p99)
	}
}

// Mallory does all that a client may within its quotas. Acme must not feel it.
func TestClientsDoNotHoldEachOtherUp(t *testing.T) {
	t.Parallel()
	acmes := func(s *simulation, answers answer) *simReceiver {
		o := &simReceiver{name: "https://acme.example.com:443", address: here, answer: answers}
		for at := time.Duration(0); at < 5*second; at += second / 5 { // known before
			s.send("acme", o, at)
		}
		s.sendEvery("acme", o, 5, 10*second, 2*time.Minute)
		return o
	}

	t.Run("BySlowReceiversThatTakeAllWorkers", func(t *testing.T) {
		t.Parallel()
		s := newSimulation(500)
		acme := acmes(s, takes(10*time.Millisecond))
		for n := range 8 {
			slow := &simReceiver{name: fmt.Sprintf("https://slow%d:443", n), address: fmt.Sprintf("198.51.100.%d:443", n), answer: takes(8 * second)}
			for range 2500 {
				s.send("mallory", slow, 6*second)
			}
		}
		s.run(3 * time.Minute)
		if taken := s.slots.Of("mallory"); taken < 250 {
			t.Errorf("got %d workers for mallory, want the attack to take many", taken)
		}
		wantCalm(t, "acme's", "acme", acme)
	})

	t.Run("ByARetryAfterAtTheSameReceiver", func(t *testing.T) {
		t.Parallel()
		for _, seconds := range []int{1, 60, 86_400} {
			s := newSimulation(500)
			acme := acmes(s, func(call simCall) (webhook.Outcome, int, time.Duration) {
				if call.client == "mallory" {
					return webhook.Throttled, seconds, time.Millisecond
				}
				return takes(10 * time.Millisecond)(call)
			})
			s.sendEvery("mallory", acme, 50, 6*second, 2*time.Minute)
			s.run(3 * time.Minute)
			wantCalm(t, fmt.Sprintf("beside a Retry-After of %d s", seconds), "acme", acme)
			if party := s.receivers[acme.name].parties["mallory"]; seconds > 180 && !party.pause.After(s.now) {
				t.Error("it isn't closed to mallory")
			}
		}
	})

	t.Run("ByFailuresAtTheSameReceiver", func(t *testing.T) {
		t.Parallel()
		for name, says := range map[string]answer{"500": fails, "no answer": hangs, "404": func(simCall) (webhook.Outcome, int, time.Duration) { return webhook.HTTPStatus, 404, time.Millisecond }, "slow": takes(9 * second)} {
			s := newSimulation(500)
			acme := acmes(s, func(call simCall) (webhook.Outcome, int, time.Duration) {
				if call.client == "mallory" {
					return says(call)
				}
				return takes(10 * time.Millisecond)(call)
			})
			s.sendEvery("mallory", acme, 50, 6*second, 2*time.Minute)
			s.run(3 * time.Minute)
			wantCalm(t, "beside "+name, "acme", acme)
			if (name == "500" || name == "no answer") && s.receivers[acme.name].parties["mallory"].breaker.trips == 0 {
				t.Error("it isn't closed to mallory")
			}
		}
	})

	t.Run("BySlowAnswersWhereTheOtherNeedsSeveralSlots", func(t *testing.T) {
		t.Parallel()
		s := newSimulation(500)
		acme := &simReceiver{name: "https://acme.example.com:443", address: here, answer: func(call simCall) (webhook.Outcome, int, time.Duration) {
			if call.client == "mallory" {
				return takes(8 * second)(call)
			}
			return takes(100 * time.Millisecond)(call)
		}}
		s.sendEvery("acme", acme, 40, 0, 2*time.Minute)
		s.sendEvery("mallory", acme, 50, 30*second, 2*time.Minute)
		s.run(3 * time.Minute)
		if p99 := quantile(acme.waitsOf("acme", time.Minute), 99); p99 > calm {
			t.Errorf("got waits of %v at the 99th percentile, want hardly any", p99)
		}
	})

	// A receiver in slow start has a limit in flight of all clients together, and a round of
	// it lasts as long as its slowest answer.
	t.Run("BySlowAnswersInSlowStart", func(t *testing.T) {
		t.Parallel()
		slowly := func(outcome webhook.Outcome, number int) answer {
			return func(simCall) (webhook.Outcome, int, time.Duration) { return outcome, number, 9 * second }
		}
		for name, says := range map[string]answer{
			"404": slowly(webhook.HTTPStatus, 404), "410": slowly(webhook.Gone, 410), "429": slowly(webhook.Throttled, 1),
			"200": takes(9 * second), "no answer": hangs, "500": fails,
		} {
			for _, rate := range []float64{5, 50} {
				answers := func(call simCall) (webhook.Outcome, int, time.Duration) {
					if call.client == "mallory" {
						return says(call)
					}
					return takes(100 * time.Millisecond)(call)
				}
				s := newSimulation(500)
				grown := &simReceiver{name: "https://grown.example.com:443", address: here, answer: answers}
				s.sendEvery("acme", grown, 40, 0, time.Minute)
				s.sendEvery("acme", grown, 300, time.Minute, 4*time.Minute)
				s.sendEvery("mallory", grown, rate, 30*second, 4*time.Minute)
				s.run(6 * time.Minute)
				if p99 := quantile(grown.waitsOf("acme", time.Minute), 99); p99 > calm {
					t.Errorf("%s, %v/s, acme sends more: got waits of %v at the 99th percentile, want hardly any", name, rate, p99)
				}
				s = newSimulation(500)
				cold := &simReceiver{name: "https://cold.example.com:443", address: here, answer: answers}
				s.sendEvery("mallory", cold, rate, 0, 2*time.Minute)
				s.sendEvery("acme", cold, 5, second, 10*second)
				s.sendEvery("acme", cold, 100, 10*second, 2*time.Minute)
				s.run(3 * time.Minute)
				if p95 := quantile(cold.waitsOf("acme", 0), 95); p95 > calm {
					t.Errorf("%s, %v/s, mallory is there first: got waits of %v at the 95th percentile, want hardly any", name, rate, p95)
				}
			}
		}
	})

	// At a receiver that has not shown that it takes two at once, callbacks of several clients
	// wait for each other. One that hangs must not keep acme's waiting for more than a moment,
	// nor more than once.
	t.Run("ByWhatHangsAtTheFirstMeeting", func(t *testing.T) {
		t.Parallel()
		paths := 0
		twoPaths := func(call simCall) (webhook.Outcome, int, time.Duration) {
			if paths++; paths%2 == 0 {
				return hangs(call)
			}
			return takes(20 * time.Millisecond)(call)
		}
		pretends := func(call simCall) (webhook.Outcome, int, time.Duration) {
			if call.underWay > 1 {
				return hangs(call)
			}
			return takes(20 * time.Millisecond)(call)
		}
		for name, says := range map[string]answer{"no answer": hangs, "slow": takes(9 * second), "no answer on one of two paths": twoPaths, "no answer beside others": pretends} {
			for _, first := range []time.Duration{0, second, second + 8*time.Millisecond, 4 * second} {
				for _, mallories := range []int{1, 3} {
					s := newSimulation(500)
					fresh := newOrdinary(0)
					fresh.answer = func(call simCall) (webhook.Outcome, int, time.Duration) {
						if call.client != "acme" {
							return says(call)
						}
						return takes(20 * time.Millisecond)(call)
					}
					s.sendEvery("acme", fresh, 5, second+3*time.Millisecond, time.Minute)
					for n := range mallories {
						s.sendEvery(fmt.Sprintf("mallory%d", n), fresh, 10, first, time.Minute)
					}
					s.run(10 * time.Minute)
					waits := fresh.waitsOf("acme", 0)
					if p95, last := quantile(waits, 95), waits[len(waits)-1]; p95 > calm || last > 2500*time.Millisecond {
						t.Errorf("%s to %d from %v on: got waits of %v at the 95th percentile and %v at the most, want hardly any", name, mallories, first, p95, last)
					}
				}
			}
		}
	})

	// Mallory's callbacks are answered alone and hang beside others, as if the receiver served one
	// connection at a time. Acme needs ten at a time.
	t.Run("ByOneThatHangsBesideOthers", func(t *testing.T) {
		t.Parallel()
		for _, first := range []time.Duration{second + 3*time.Millisecond, 4 * second, 20 * second} {
			s, fresh := newSimulation(500), newOrdinary(0)
			fresh.answer = func(call simCall) (webhook.Outcome, int, time.Duration) {
				switch {
				case call.client == "acme":
					return takes(100 * time.Millisecond)(call)
				case call.underWay > 1:
					return hangs(call)
				}
				return takes(300 * time.Millisecond)(call)
			}
			s.sendEvery("mallory", fresh, 10, 0, 3*time.Minute)
			s.sendEvery("acme", fresh, 100, first, 3*time.Minute)
			s.run(5 * time.Minute)
			if hung := len(fresh.failed); hung == 0 {
				t.Error("mallory's callbacks never hung: this attacks nothing")
			}
			waits := fresh.waitsOf("acme", first+second)
			if p95 := quantile(waits, 95); p95 > calm {
				t.Errorf("from %v on: got waits of %v at the 95th percentile, want hardly any", first, p95)
			}
		}
	})

	// Clients whose callbacks a stranger doesn't take slow down there alone.
	t.Run("ByWhatFailsAtTheFirstMeeting", func(t *testing.T) {
		t.Parallel()
		slowly := func(simCall) (webhook.Outcome, int, time.Duration) {
			return webhook.HTTPStatus, 404, 900 * time.Millisecond
		}
		later := func(simCall) (webhook.Outcome, int, time.Duration) { return webhook.Throttled, 2, time.Millisecond }
		gone := func(simCall) (webhook.Outcome, int, time.Duration) { return webhook.Gone, 410, time.Millisecond }
		for name, says := range map[string]answer{"404": slowly, "500": fails, "410": gone, "429": later, "no answer": hangs} {
			for _, after := range []time.Duration{second + 3*time.Millisecond, 3 * second, 30 * second} {
				for mallories, want := range map[int]time.Duration{1: second, 8: 17 * second} {
					s, fresh := newSimulation(500), newOrdinary(0)
					fresh.answer = func(call simCall) (webhook.Outcome, int, time.Duration) {
						if call.client != "acme" {
							return says(call)
						}
						return takes(20 * time.Millisecond)(call)
					}
					for n := range mallories {
						s.sendEvery(fmt.Sprintf("mallory%d", n), fresh, 10, 0, time.Minute)
					}
					s.sendEvery("acme", fresh, 5, after, after+20*second)
					s.run(2 * time.Minute)
					waits := fresh.waitsOf("acme", 0)
					if p90, last := quantile(waits, 90), waits[len(waits)-1]; last > want || mallories == 1 && p90 > calm {
						t.Errorf("%s to %d for %v: got waits of %v at the 90th percentile and %v at the most, want %v at the most", name, mallories, after, p90, last, want)
					}
				}
			}
		}
	})

	// What two clients see closes a receiver to all. Two that see it on purpose don't keep it
	// closed to acme, however often acme calls.
	t.Run("ByTwoClientsTogether", func(t *testing.T) {
		t.Parallel()
		later := func(simCall) (webhook.Outcome, int, time.Duration) { return webhook.Throttled, 2, time.Millisecond }
		day := func(simCall) (webhook.Outcome, int, time.Duration) {
			return webhook.Throttled, 86_400, time.Millisecond
		}
		for name, says := range map[string]answer{"500": fails, "no answer": hangs, "a Retry-After of 2 s": later, "a Retry-After of a day": day} {
			for _, rate := range []float64{30, 1.0 / 7} {
				s := newSimulation(500)
				acme := acmes(s, func(call simCall) (webhook.Outcome, int, time.Duration) {
					if call.client != "acme" {
						return says(call)
					}
					return takes(10 * time.Millisecond)(call)
				})
				s.sendEvery("acme", acme, rate, 10*second, 10*time.Minute)
				s.sendEvery("mallory", acme, 25, 6*second, 10*time.Minute)
				s.sendEvery("malvina", acme, 25, 6*second, 10*time.Minute)
				s.run(12 * time.Minute)
				wantCalm(t, fmt.Sprintf("beside %s to two, at %.2g/s", name, rate), "acme", acme)
			}
		}
	})

	// Acme calls so rarely that its answers don't interrupt mallory's failures.
	t.Run("ByFailuresAtAReceiverThatTheOtherRarelyCalls", func(t *testing.T) {
		t.Parallel()
		for name, says := range map[string]answer{"500": fails, "no answer": hangs} {
			s := newSimulation(500)
			acme := &simReceiver{name: "https://acme.example.com:443", address: here, answer: func(call simCall) (webhook.Outcome, int, time.Duration) {
				if call.client == "mallory" {
					return says(call)
				}
				return takes(10 * time.Millisecond)(call)
			}}
			s.sendEvery("acme", acme, 5, 0, 5*second) // known before
			s.sendEvery("acme", acme, 1.0/97, 100*second, 58*time.Minute)
			s.sendEvery("mallory", acme, 1, 6*second, 58*time.Minute)
			s.run(time.Hour)
			wantCalm(t, "beside "+name, "acme", acme)
		}
	})

	// Their reservations stand, and nobody comes for the slots.
	t.Run("ByCallbacksThatAreCancelledWhileTheyWait", func(t *testing.T) {
		t.Parallel()
		s := newSimulation(500)
		s.rate = 5
		shared := &simReceiver{name: "https://shared:443", address: here, answer: takes(20 * time.Millisecond)}
		s.sendEvery("acme", shared, 0.5, 130*time.Millisecond, 10*time.Minute)
		for at := 15 * second; at < 10*time.Minute; at += second / 20 {
			s.at(morning.Add(at), func() {
				pass, _ := s.decide(s.receivers[shared.name], Callback{Client: "mallory"}, s.now)
				if pass != nil {
					s.conclude(pass, attempted(webhook.Delivered, 204, s.now, s.now), s.now)
				}
			})
		}
		s.run(15 * time.Minute)
		wantCalm(t, "acme's", "acme", shared)
	})

	t.Run("ByTenThousandMadeUpNames", func(t *testing.T) {
		t.Parallel()
		for name, says := range map[string]answer{"that take callbacks": takes(10 * time.Millisecond), "that hang": hangs} {
			s := newSimulation(500)
			for n := range 10_000 {
				madeUp := &simReceiver{name: fmt.Sprintf("https://%d.evil.example:443", n), address: fmt.Sprintf("198.51.%d.%d:443", n/250, n%250), answer: says}
				s.send("mallory", madeUp, 0)
			}
			var fresh []*simReceiver
			for n := range 20 {
				o := &simReceiver{name: fmt.Sprintf("https://fresh%d:443", n), address: fmt.Sprintf("192.0.2.%d:443", n), answer: takes(10 * time.Millisecond)}
				s.send("acme", o, 30*second)
				fresh = append(fresh, o)
			}
			s.run(time.Minute)
			wantCalm(t, "beside names "+name, "acme", fresh...)
		}
	})

	t.Run("ByAFullQueueAtTheSameReceiver", func(t *testing.T) {
		t.Parallel()
		for name, test := range map[string]struct {
			says     answer
			ceiling  float64
			interval time.Duration // of its rate
			want     time.Duration
		}{
			"that serves one at a time":  {servesAtATime(1, 50*time.Millisecond), 0, 50 * time.Millisecond, 2 * second},
			"that takes long for each":   {servesAtATime(1, 2*second), 0, 2 * second, 8 * second},
			"that gets one in 2 seconds": {takes(2 * time.Millisecond), 0.5, 2 * second, 6 * second},
		} {
			s := newSimulation(500)
			s.rate = test.ceiling
			shared := &simReceiver{name: "https://shared:443", address: here, answer: test.says}
			for range 2000 {
				s.send("mallory", shared, 0)
			}
			s.sendEvery("acme", shared, 0.1/test.interval.Seconds(), 20*second+test.interval/4, 80*test.interval+20*second)
			s.run(160*test.interval + 20*second)
			waits := []time.Duration{}
			for _, job := range shared.jobs {
				if job.client == "acme" {
					waits = append(waits, job.first)
				}
			}
			slices.Sort(waits)
			if last := waits[len(waits)-1]; waits[0] == 0 || last > test.want {
				t.Errorf("%s: got waits of %v, want acme's turn to come within %v", name, waits, test.want)
			}
			if len(shared.failed) > 0 {
				t.Errorf("%s: got %d failed, want none", name, len(shared.failed))
			}
			if postponed := postponedAJob(shared); postponed > 10 {
				t.Errorf("%s: got %.2f postponements a callback, want few", name, postponed)
			}
		}
	})

	// The operator's limit in flight holds at any time, so no part of it may exceed it.
	t.Run("BySlowAnswersWhereTheOperatorAllowsSoManyAtATime", func(t *testing.T) {
		t.Parallel()
		for most, test := range map[int]struct {
			mallories int
			rate      float64
		}{3: {1, 20}, 10: {2, 40}, 11: {1, 60}, 0: {2, 300}} {
			for name, says := range map[string]answer{"200": takes(9 * second), "404": func(simCall) (webhook.Outcome, int, time.Duration) {
				return webhook.HTTPStatus, 404, 9 * second
			}, "no answer": hangs} {
				s := newSimulation(500)
				allowed := &simReceiver{name: "https://allowed.example.com:443", address: here, answer: func(call simCall) (webhook.Outcome, int, time.Duration) {
					if call.client != "acme" {
						return says(call)
					}
					return takes(20 * time.Millisecond)(call)
				}}
				target := RulingTarget("allowed.example.com", "")
				s.rulings[target] = ruling{db.Ruling{Target: target, Effect: db.ReceiverAllowed, Concurrency: most}}
				s.sendEvery("acme", allowed, test.rate, 0, 2*time.Minute)
				for n := range test.mallories {
					s.sendEvery(fmt.Sprintf("mallory%d", n), allowed, 50, 10*second, 2*time.Minute)
				}
				s.run(4 * time.Minute)
				if p95 := quantile(allowed.waitsOf("acme", 10*second), 95); p95 > calm || allowed.mostEver > cmp.Or(most, s.mostPerReceiver) {
					t.Errorf("%s to %d, %d allowed: got waits of %v at the 95th percentile and %d at a time, want hardly any", name, test.mallories, most, p95, allowed.mostEver)
				}
			}
		}
	})

	t.Run("ByAStrangerThatFailsForOne", func(t *testing.T) {
		t.Parallel()
		s := newSimulation(500)
		shared := &simReceiver{name: "https://shared:443", address: here, answer: func(call simCall) (webhook.Outcome, int, time.Duration) {
			if call.client == "mallory" {
				return webhook.HTTPStatus, 404, time.Millisecond
			}
			return takes(10 * time.Millisecond)(call)
		}}
		for range 1000 {
			s.send("mallory", shared, 0)
		}
		first := s.send("acme", shared, 30*second)
		s.sendEvery("acme", shared, 5, 90*second, 2*time.Minute)
		s.run(2 * time.Minute)
		if first.first == 0 || first.first > calm {
			t.Errorf("acme's first: got a wait of %v, want hardly any", first.first)
		}
		later := &simReceiver{jobs: slices.DeleteFunc(slices.Clone(shared.jobs), func(job *simJob) bool { return job.arrived.Before(morning.Add(80 * second)) })}
		wantCalm(t, "acme's once one was taken", "acme", later)
	})
}

// waitsOf are the waits of a client's callbacks that came after a time, the longest last. A
// callback that never left waited forever.
func (o *simReceiver) waitsOf(client string, after time.Duration) (waits []time.Duration) {
	for _, job := range o.jobs {
		if job.client != client || job.arrived.Sub(morning) <= after {
			continue
		}
		if job.first == 0 {
			job.first = math.MaxInt64
		}
		waits = append(waits, job.first)
	}
	slices.Sort(waits)
	return waits
}

// quantile is a percentile of sorted waits.
func quantile(waits []time.Duration, percent int) time.Duration { return waits[len(waits)*percent/100] }

// Three clients on paths of their own do what they can to a receiver that acme calls now and
// then, so that for most of the time they alone show how it is.
func TestThreeClientsTogetherDoNotHoldUpAFourth(t *testing.T) {
	t.Parallel()
	later := func(simCall) (webhook.Outcome, int, time.Duration) {
		return webhook.Throttled, 1, time.Millisecond
	}
	claims := func(then answer) answer {
		return func(call simCall) (webhook.Outcome, int, time.Duration) {
			if call.client == "mallory" {
				return later(call)
			}
			return then(call)
		}
	}
	for name, test := range map[string]struct {
		says  answer
		every time.Duration
		burst int
	}{
		"ARetryAfterOfASecond":                  {later, 67 * second, 1},
		"ARetryAfterAndNoAnswer":                {claims(hangs), 67 * second, 1},
		"ARetryAfterAndSlowAnswers":             {claims(takes(9900 * time.Millisecond)), 2 * second, 1},
		"NoAnswer":                              {hangs, 15 * second, 1},
		"NoAnswerBesideBursts":                  {hangs, 2 * second, 50},
		"SlowAnswersBesideBursts":               {takes(9 * second), 15 * second, 50},
		"ARetryAfterAndSlowAnswersBesideBursts": {claims(takes(9 * second)), 67 * second, 50},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSimulation(100)
			shared := &simReceiver{name: "https://shared:443", address: here, answer: func(call simCall) (webhook.Outcome, int, time.Duration) {
				if call.client != "acme" {
					return test.says(call)
				}
				return takes(20 * time.Millisecond)(call)
			}}
			s.sendEvery("acme", shared, 100, 0, 10*second) // known before
			for _, client := range []string{"mallory", "malvina", "trudy"} {
				s.sendEvery(client, shared, 5, 15*second, 20*time.Minute)
			}
			var waits []time.Duration
			var acmes []*simJob
			for at := 20 * second; at < 20*time.Minute; at += test.every {
				for range test.burst {
					acmes = append(acmes, s.send("acme", shared, at))
				}
			}
			s.run(25 * time.Minute)
			for _, job := range acmes {
				waits = append(waits, job.first)
			}
			slices.Sort(waits)
			if longest := waits[len(waits)-1]; waits[0] == 0 || longest > time.Second/2 {
				t.Errorf("got waits of %v at the median and %v at the most, some never: %v; want hardly any", waits[len(waits)/2], longest, waits[0] == 0)
			}
		})
	}
}

// Thirty clients fail on paths of their own while a receiver has trouble with acme for two
// seconds. Acme's pace is back afterwards as soon as without them, nearly.
func TestClientsThatFailDoNotSlowTheRegrowthOfAnother(t *testing.T) {
	t.Parallel()
	late := func(says answer) (late int) {
		s, shared := newSimulation(500), newOrdinary(0)
		shared.answer = func(call simCall) (webhook.Outcome, int, time.Duration) {
			switch {
			case call.client != "acme":
				return says(call)
			case call.at > 30*second && call.at < 32*second:
				return webhook.HTTPStatus, 503, 2 * time.Millisecond
			}
			return takes(10 * time.Millisecond)(call)
		}
		s.sendEvery("acme", shared, 300, 0, 2*time.Minute)
		if says != nil {
			for n := range 30 {
				s.sendEvery(fmt.Sprintf("mallory%d", n), shared, 10, 10*second, 2*time.Minute)
			}
		}
		s.run(4 * time.Minute)
		for _, wait := range shared.waitsOf("acme", 30*second) {
			if wait > calm {
				late++
			}
		}
		return late
	}
	every := func(nth int) answer {
		calls := 0
		return func(call simCall) (webhook.Outcome, int, time.Duration) {
			if calls++; calls%nth == 0 {
				return fails(call)
			}
			return takes(10 * time.Millisecond)(call)
		}
	}
	notFound := func(simCall) (webhook.Outcome, int, time.Duration) {
		return webhook.HTTPStatus, 404, 20 * time.Millisecond
	}
	alone := late(nil)
	for name, says := range map[string]answer{"404": notFound, "500": fails, "500 to every other": every(2), "500 to one in five": every(5), "no answer": hangs} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := late(says); got > 2*alone {
				t.Errorf("got %d of acme's callbacks late, want at most twice the %d without the others", got, alone)
			}
		})
	}
}
