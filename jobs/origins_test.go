package jobs

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// Names are free: *.evil.example may all be one victim. And so are addresses, nearly.
func TestManyNames(t *testing.T) {
	t.Parallel()

	t.Run("AtOneAddressShareItsBudget", func(t *testing.T) {
		t.Parallel()
		s, victims := newSimulation(400), make([]*simOrigin, 1000)
		for n := range victims {
			victims[n] = &simOrigin{name: fmt.Sprintf("%d.evil.example:443", n), address: here, answer: takes(10 * time.Millisecond)}
			for range 5 {
				s.send(victims[n], morning)
			}
		}
		s.run(morning.Add(time.Minute))
		var sent []time.Duration
		for _, victim := range victims {
			sent = append(sent, victim.sent...)
		}
		slices.Sort(sent)
		most := int(mostEarned.rate) + mostEarned.most
		if got := mostWithin(sent, time.Second); got > most || len(sent) < 500 {
			t.Errorf("got %d callbacks within a second, %d in all, want at most %d a second and steadily so", got, len(sent), most)
		}
	})

	t.Run("ThatHangLeaveHalfOfTheWorkersToOthers", func(t *testing.T) {
		t.Parallel()
		s := newSimulation(200)
		good := &simOrigin{name: "good:443", address: here, answer: takes(10 * time.Millisecond)}
		s.send(good, morning)
		for n := range 2000 {
			hanging := &simOrigin{name: fmt.Sprintf("%d.evil.example:443", n), address: fmt.Sprintf("198.51.%d.%d:443", n/250, n%250), answer: hangs}
			s.send(hanging, morning.Add(time.Second))
		}
		for second := range 60 {
			s.send(good, morning.Add(time.Duration(second+2)*time.Second))
		}
		s.run(morning.Add(2 * time.Minute))
		if waits := waitsOf([]*simOrigin{good}); len(waits) != 61 || waits[60] > 200*time.Millisecond {
			t.Errorf("the good one: got %d sent, after %v at worst, want 61 after 200ms at worst", len(waits), waits[len(waits)-1])
		}
	})

	t.Run("AreForgottenButForThoseUnderWay", func(t *testing.T) {
		t.Parallel()
		s := newSimulation(400)
		busy := s.meet("busy:443")
		busy.budget.take(morning, busy.limit(morning, 1))
		for n := range 3 * maxOrigins {
			s.meet(fmt.Sprintf("%d.evil.example:443", n)).budget.used = morning.Add(time.Duration(n))
		}
		if len(s.known) > maxOrigins || s.known["busy:443"] != busy {
			t.Errorf("got %d kept, want at most %d with the busy one", len(s.known), maxOrigins)
		}
		if s.known[fmt.Sprintf("%d.evil.example:443", 3*maxOrigins-1)] == nil {
			t.Error("the latest was forgotten")
		}
	})
}
