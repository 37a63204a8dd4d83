package pacing

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ringback/jobs/webhook"
)

func TestStrangers(t *testing.T) {
	t.Parallel()
	for name, says := range map[string]answer{
		"404":       func(simCall) (webhook.Outcome, int, time.Duration) { return webhook.HTTPStatus, 404, time.Millisecond },
		"410":       func(simCall) (webhook.Outcome, int, time.Duration) { return webhook.Gone, 410, time.Millisecond },
		"500":       fails,
		"429":       func(simCall) (webhook.Outcome, int, time.Duration) { return webhook.Throttled, 1, time.Millisecond },
		"no answer": hangs,
		"no connection": func(simCall) (webhook.Outcome, int, time.Duration) {
			return webhook.ConnectionFailed, 0, time.Millisecond
		},
	} {
		t.Run("ThatGive "+name+" GetTwentyInTenSecondsAndThenLess", func(t *testing.T) {
			t.Parallel()
			s, stranger := newSimulation(500), newOrdinary(0)
			stranger.answer = says
			for n := range 10_000 {
				s.send([]string{"acme", "mallory"}[n%2], stranger, 0)
			}
			s.run(10 * time.Minute)
			first, next := countWithin(stranger.sent, 0, 10*second), countWithin(stranger.sent, 10*second, 10*second)
			if first > 20 || next > first || mostWithin(stranger.sent[first:], 10*second) > 12 {
				t.Errorf("got %d in the first ten seconds and %d in the next, want at most 20, and less later", first, next)
			}
			if len(stranger.sent) == first {
				t.Error("got none afterwards, want one now and then")
			}
			s, many := newSimulation(500), newOrdinary(0)
			many.answer = says
			for n := range 1000 {
				s.send(fmt.Sprintf("client%d", n%50), many, 0)
			}
			s.run(10 * time.Minute)
			if most := mostWithin(many.sent, 10*second); most > 20 {
				t.Errorf("from fifty clients: got %d within ten seconds, want at most 20", most)
			}
			for at := time.Minute; at < 10*time.Minute; at += second {
				if got := countWithin(many.sent, at, 10*second); got > 10 {
					t.Errorf("from fifty clients that all failed: got %d in the ten seconds from %v on, want at most 10", got, at)
					break
				}
			}
			sent := map[string]int{}
			for _, job := range many.jobs {
				sent[job.client] += job.attempts
			}
			if len(sent) < 50 || slices.Min(slices.Collect(maps.Values(sent))) == 0 {
				t.Errorf("from fifty clients: got attempts of each %v, want some of each", sent)
			}
			if got := postponedAJob(stranger); got > 8 {
				t.Errorf("got %.2f postponements a callback within ten minutes, want few", got)
			}
		})
	}

	t.Run("ThatAnswerSlowlyGetNoMoreThanTheyAnswer", func(t *testing.T) {
		t.Parallel()
		s, slow := newSimulation(500), newOrdinary(3*second)
		for range 1000 {
			s.send("acme", slow, 0)
		}
		s.run(20 * second)
		if got := countWithin(slow.sent, 0, 10*second); got > 20 || slow.mostEver > 64 {
			t.Errorf("got %d in ten seconds and %d at a time, want it not pushed", got, slow.mostEver)
		}
		if got := postponedAJob(slow); got > 4 {
			t.Errorf("got %.2f postponements a callback, want few", got)
		}
		s, pair := newSimulation(500), newOrdinary(0)
		pair.answer = servesAtATime(2, 3*second)
		for range 1000 {
			s.send("acme", pair, 0)
		}
		s.run(2 * time.Minute)
		if pair.mostEver > 4 || len(pair.failed) > 0 {
			t.Errorf("serving two at a time: got %d at a time and %d failures, want it not pushed", pair.mostEver, len(pair.failed))
		}
	})
}

// A name that took callbacks at one address may be pointed at a victim.
func TestNamesThatMove(t *testing.T) {
	t.Parallel()
	const victim = "198.51.100.1:443"
	refuses := func(simCall) (webhook.Outcome, int, time.Duration) { return webhook.HTTPStatus, 404, time.Millisecond }
	for name, test := range map[string]struct {
		scheme string
		says   answer
	}{
		"AndFail": {"https", fails}, "AndHang": {"https", hangs}, "AndRefuseByHTTP": {"http", refuses},
	} {
		t.Run(name+"AreStrangersThere", func(t *testing.T) {
			t.Parallel()
			s, moves := newSimulation(500), newOrdinary(20*time.Millisecond)
			moves.name = test.scheme + "://hooks.example.com:443"
			s.sendEvery("mallory", moves, 300, 0, 40*second)
			s.run(10 * second)
			moves.address, moves.answer = victim, test.says
			s.run(10*second + 50*time.Millisecond) // which were under way
			before := len(moves.sent)
			moves.mostEver = 0
			s.run(40 * second)
			if got := mostWithin(moves.sent[before:], 10*second); got > 20 || len(moves.sent) == before {
				t.Errorf("got %d in ten seconds at the other address, want a stranger's few", got)
			}
			if moves.mostEver > 1 || s.strangerSlots.Taken() > 1 {
				t.Errorf("got %d at a time there, want one", moves.mostEver)
			}
			if r := s.receivers[moves.name]; r.isProvenAt(prefixes(victim)[0]) {
				t.Error("the other address counts as proven")
			}
			if got := postponedAJob(moves); got > 6 {
				t.Errorf("got %.2f postponements a callback, want few", got)
			}
		})
	}

	// The first attempts of all names go elsewhere, and the next attempts to one victim.
	t.Run("WhileTheyAreStrangersCountWhereTheyGo", func(t *testing.T) {
		t.Parallel()
		s := newSimulation(400)
		var there []time.Duration
		for n := range 400 {
			o := &simReceiver{name: fmt.Sprintf("https://%d.evil.example:443", n), address: fmt.Sprintf("203.0.113.%d:443", n%250)}
			o.answer = func(call simCall) (webhook.Outcome, int, time.Duration) {
				if o.address == victim {
					there = append(there, call.at)
				}
				o.address = victim
				return fails(call)
			}
			s.send("mallory", o, 0)
		}
		s.run(time.Minute)
		if got := mostWithin(there, second); got > addressRate || len(there) < 400 {
			t.Errorf("got %d callbacks within a second, %d in all, want at most %d a second and steadily so", got, len(there), addressRate)
		}
	})

	t.Run("KeepTheirPaceWhereTheyAnswer", func(t *testing.T) {
		t.Parallel()
		random := rand.New(rand.NewPCG(3, 4))
		everyMinute := func(at time.Duration) int { return int(at / time.Minute) }
		ofMany := func(time.Duration) int { return random.IntN(2 * maxPrefixes / 3) }
		for name, address := range map[string]func(time.Duration) int{"every minute": everyMinute, "of many": ofMany} {
			s, moves := newSimulation(500), newOrdinary(20*time.Millisecond)
			s.sendEvery("acme", moves, 300, 0, 150*second)
			for at := time.Duration(0); at < 150*second; at += 20 * time.Millisecond {
				s.at(morning.Add(at), func() { moves.address = fmt.Sprintf("198.51.100.%d:443", address(at)) })
			}
			s.run(4 * time.Minute)
			later := waitsFrom(20*second, "acme", moves)
			if p99, last := later[len(later)*99/100], later[len(later)-1]; later[0] == 0 || p99 > calm || last > second {
				t.Errorf("%s: got waits of %v at the 99th percentile and %v at the most, want hardly any", name, p99, last)
			}
			if got := postponedAJob(moves); got > 0.1 {
				t.Errorf("%s: got %.2f postponements a callback, want hardly any", name, got)
			}
		}
	})

	// Mallory has a path that fails just after each move. Its first callback at each new address
	// comes before acme's.
	t.Run("AreNoStrangersToOthersWhereTheyFailForOne", func(t *testing.T) {
		t.Parallel()
		const stays = 10 * second
		for name, says := range map[string]answer{"500": fails, "no answer": hangs} {
			s, moves := newSimulation(500), newOrdinary(0)
			moves.answer = func(call simCall) (webhook.Outcome, int, time.Duration) {
				if call.client == "mallory" && call.at%stays < second/2 {
					return says(call)
				}
				return takes(20 * time.Millisecond)(call)
			}
			for at := time.Duration(0); at < 2*time.Minute; at += stays {
				s.at(morning.Add(at), func() { moves.address = fmt.Sprintf("198.51.100.%d:443", at/stays) })
				s.sendEvery("mallory", moves, 50, at+stays, at+stays+second/4)
				s.sendEvery("mallory", moves, 5, at+stays+second, at+2*stays)
			}
			s.sendEvery("acme", moves, 100, 5*time.Millisecond, 2*time.Minute)
			s.run(3 * time.Minute)
			waits := waitsFrom(5*second, "acme", moves)
			if p99, last := waits[len(waits)*99/100], waits[len(waits)-1]; waits[0] == 0 || p99 > calm || last > second {
				t.Errorf("beside %s at each new address: got waits of %v at the 99th percentile and %v at the most, want hardly any", name, p99, last)
			}
		}
	})
}

// Names are free: *.evil.example may all be one victim. Addresses are nearly free, too.
func TestManyNames(t *testing.T) {
	t.Parallel()

	t.Run("AtOneAddressShareItsBudget", func(t *testing.T) {
		t.Parallel()
		s := newSimulation(400)
		var victims []*simReceiver
		for n := range 1000 {
			victims = append(victims, &simReceiver{name: fmt.Sprintf("https://%d.evil.example:443", n), address: here, answer: fails})
			for range 5 {
				s.send("mallory", victims[n], 0)
			}
		}
		s.run(time.Minute)
		sent := allSent(victims)
		if got := mostWithin(sent, time.Second); got > addressRate || len(sent) < 500 {
			t.Errorf("got %d callbacks within a second, %d in all, want at most %d a second and steadily so", got, len(sent), addressRate)
		}
	})

	t.Run("TogetherAreLimited", func(t *testing.T) {
		t.Parallel()
		s := newSimulation(400)
		var victims []*simReceiver
		for n := range 3000 {
			victims = append(victims, &simReceiver{name: fmt.Sprintf("https://%d.evil.example:443", n), address: fmt.Sprintf("198.51.%d.%d:443", n/250, n%250), answer: fails})
			s.send([]string{"mallory", "trudy", "eve"}[n%3], victims[n], 0)
		}
		s.run(20 * second)
		sent := allSent(victims)
		if got := mostWithin(sent, time.Second); got > strangersRate || len(sent) < 1000 {
			t.Errorf("got %d callbacks within a second, %d in all, want at most %d a second and steadily so", got, len(sent), strangersRate)
		}
	})

	t.Run("ThatHangLeaveHalfOfTheWorkersToOthers", func(t *testing.T) {
		t.Parallel()
		s := newSimulation(200)
		s.shared = false
		for n := range 2000 {
			hanging := &simReceiver{name: fmt.Sprintf("https://%d.evil.example:443", n), address: fmt.Sprintf("198.51.%d.%d:443", n/250, n%250), answer: hangs}
			s.send("mallory", hanging, second)
		}
		s.run(30 * second)
		if s.free < 100 {
			t.Errorf("got %d workers free, want half of 200", s.free)
		}
	})

	t.Run("AreForgottenButForThoseUnderWay", func(t *testing.T) {
		t.Parallel()
		s := newSimulation(400)
		busy := s.meets("https://busy:443", emptyRow)
		busy.inFlight++
		for n := range 3 * maxReceivers {
			s.meets(fmt.Sprintf("https://%d.evil.example:443", n), emptyRow).used = morning.Add(time.Duration(n))
		}
		if len(s.receivers) > maxReceivers || s.receivers["https://busy:443"] != busy {
			t.Errorf("got %d kept, want at most %d with the busy one", len(s.receivers), maxReceivers)
		}
		if s.receivers[fmt.Sprintf("https://%d.evil.example:443", 3*maxReceivers-1)] == nil {
			t.Error("the latest was forgotten")
		}
	})
}
