package load

import (
	"runtime"
	"slices"
	"testing"
	"time"
)

func TestWorkers(t *testing.T) {
	t.Parallel()

	t.Run("are as many as are busy", func(t *testing.T) {
		t.Parallel()
		done := make(chan int, 1)
		engine := idleEngine(100, 50, 0)
		for number := range 50 {
			engine.handOver(t.Context(), arrival{number: number}, func(arrival arrival) answer {
				done <- arrival.number
				return answer{outcome: ok}
			})
			if got := <-done; got != number {
				t.Errorf("got arrival %d, want %d", got, number)
			}
			for engine.working() > 0 { // its work is done, and it is about to end
				runtime.Gosched()
			}
		}
	})

	t.Run("take what came while all were busy, and more is left out", func(t *testing.T) {
		t.Parallel()
		gate := make(chan struct{})
		var worked []int
		engine := idleEngine(1, 4, 2)
		for number := range 4 {
			engine.handOver(t.Context(), arrival{number: number}, func(arrival arrival) answer {
				<-gate
				worked = append(worked, arrival.number)
				return answer{outcome: ok}
			})
		}
		close(gate)
		engine.workers.Wait()
		if want := []int{0, 1, 2}; !slices.Equal(worked, want) || engine.ledger.sync.counts[unsent] != 1 {
			t.Errorf("worked: got %v, and %d unsent, want %v and one", worked, engine.ledger.sync.counts[unsent], want)
		}
	})
}

// idleEngine has a number of workers, and room for arrivals that wait.
func idleEngine(most, requests, room int) *engine {
	config := Defaults()
	config.Mix, config.Connections, config.Timeout = Mix{Sync: 1}, most, time.Hour
	ledger := newLedger(config, requests)
	ledger.start = time.Now()
	engine := newEngine(config, ledger)
	engine.due = make(chan arrival, room)
	return engine
}

func (e *engine) working() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.busy
}
