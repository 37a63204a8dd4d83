package load

import (
	"runtime"
	"slices"
	"testing"
)

func TestCrew(t *testing.T) {
	t.Parallel()

	t.Run("needs as many as are busy", func(t *testing.T) {
		t.Parallel()
		done := make(chan int, 1)
		crew := newCrew(100, make(chan arrival), func(arrival arrival) { done <- arrival.number })
		for number := range 50 {
			if !crew.take(arrival{number: number}) {
				t.Fatalf("arrival %d: not taken", number)
			}
			if got := <-done; got != number {
				t.Errorf("got arrival %d, want %d", got, number)
			}
			for crew.resting() < crew.hired { // it is done, and about to rest
				runtime.Gosched()
			}
		}
		crew.finish()
		if crew.hired != 1 {
			t.Errorf("hired: got %d, want one for one at a time", crew.hired)
		}
	})

	t.Run("queues what comes while all are busy and refuses more", func(t *testing.T) {
		t.Parallel()
		gate := make(chan struct{})
		var worked []int
		crew := newCrew(1, make(chan arrival, 2), func(arrival arrival) {
			<-gate
			worked = append(worked, arrival.number)
		})
		for number := range 4 {
			if got, want := crew.take(arrival{number: number}), number < 3; got != want {
				t.Errorf("arrival %d: got taken %v, want %v", number, got, want)
			}
		}
		close(gate)
		crew.finish()
		if want := []int{0, 1, 2}; !slices.Equal(worked, want) {
			t.Errorf("worked: got %v, want %v", worked, want)
		}
	})
}

// resting is how many workers wait for their turn.
func (c *crew) resting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.idle)
}
