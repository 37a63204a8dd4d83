package pacing

import (
	"fmt"
	"math"
	"testing"
	"time"

	"ringback/db"
)

// A callback that has to wait comes back with a poll of the queue, up to a tenth of a second after
// its time. It delays no later callback, so a receiver gets the rate that it may have.
func TestLowRatesAreUsed(t *testing.T) {
	t.Parallel()
	const until = 30 * second
	from := map[string]func(s *simulation, rate float64){
		"Operator": func(s *simulation, rate float64) {
			target := RulingTarget("a.example.com", "")
			s.rulings[target] = ruling{db.Ruling{Target: target, Effect: db.ReceiverAllowed, Rate: rate}}
		},
		"Setting": func(s *simulation, rate float64) {
			s.rate = rate
			s.meets("https://a.example.com:443", known)
		},
		"Learnt": func(s *simulation, rate float64) {
			s.held(s.meets("https://a.example.com:443", known), rate, until)
		},
	}
	for who, allow := range from {
		for _, rate := range []float64{0.5, 1, 2, 2.5, 3, 4, 6, 6.5} {
			for clients := range 2 {
				t.Run(fmt.Sprintf("%s/%v/%d", who, rate, 1+clients), func(t *testing.T) {
					t.Parallel()
					s, o := newSimulation(500), &simReceiver{name: "https://a.example.com:443", address: here, answer: takes(20 * time.Millisecond)}
					s.lag = 40 * time.Millisecond
					allow(s, rate)
					for client := range 1 + clients {
						s.sendEvery(fmt.Sprint(client), o, 2*rate, 0, until)
					}
					s.run(until)
					if got, want := float64(len(o.sent)), rate*until.Seconds(); got < 0.9*want || float64(mostWithin(o.sent, second)) > math.Ceil(rate)+1 {
						t.Errorf("got %v in %v and up to %d in a second, want %v and %v at most", got, until, mostWithin(o.sent, second), want, math.Ceil(rate)+1)
					}
				})
			}
		}
	}
}

// held keeps the pace of a receiver at a rate, which a pace that has been learnt leaves slowly.
func (s *simulation) held(r *receiver, rate float64, until time.Duration) {
	for at := time.Duration(0); at < until; at += 10 * time.Millisecond {
		s.at(morning.Add(at), func() { r.pace.rate, r.pace.steady = rate, true })
	}
}
