package jobs

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// newTestLane returns an open lane that knows nothing of its queue.
func newTestLane(size int) (l *lane, woken *int) {
	woken = new(int)
	l = newLane(size, func() { *woken++ })
	l.start()
	return l, woken
}

// fetches lets River, which runs so many jobs by its own count, fetch waiting jobs.
func (l *lane) fetches(running, waiting int) (got int) {
	_ = l.fetch(l.size-running, func(room int) (int, error) {
		locked := min(room, waiting-got)
		got += locked
		return locked, nil
	})
	return got
}

func TestLane(t *testing.T) {
	t.Parallel()

	t.Run("LetsNoJobBeBornRunningUnlessNothingWaits", func(t *testing.T) {
		t.Parallel()
		for name, test := range map[string]struct {
			before func(l *lane)
			want   int
		}{
			"AFetchFoundNothing":         {func(l *lane) { l.fetches(0, 0) }, 2},
			"AFetchFoundLessThanRoom":    {func(l *lane) { l.fetches(0, 3) }, 1},
			"NoFetchYet":                 {func(*lane) {}, 0},
			"AFetchWasFull":              {func(l *lane) { l.fetches(0, 4) }, 0},
			"AFetchFailed":               {func(l *lane) { _ = l.fetch(4, func(int) (int, error) { return 0, errors.New("away") }) }, 0},
			"AnInsertLackedAWorkerSince": {func(l *lane) { l.fetches(0, 0); l.inserted(l.reserve(5, time.Now()), 0) }, 0},
			"AFetchCameAfterThat":        {func(l *lane) { l.inserted(l.reserve(5, time.Now()), 0); l.fetches(0, 0) }, 2},
			"Closed":                     {func(l *lane) { l.fetches(0, 0); l.stop() }, 0},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				l, _ := newTestLane(4)
				test.before(l)
				if got := l.reserve(2, time.Now()); got != test.want {
					t.Errorf("got %d of 2 jobs born running, want %d", got, test.want)
				}
			})
		}
	})

	// Jobs that are inserted while others wait must not keep the lane from becoming clear.
	t.Run("IsClearAgainUnderSteadyLoad", func(t *testing.T) {
		t.Parallel()
		l, _ := newTestLane(4)
		reserved := l.reserve(1, time.Now()) // left to the queue, and not committed yet
		l.fetches(0, 0)
		l.inserted(reserved, 0)
		if got := l.reserve(1, time.Now()); got != 1 {
			t.Errorf("got %d jobs born running, want 1", got)
		}
	})

	// As while the queue is paused, or the database doesn't answer River.
	t.Run("TrustsNoOldFetch", func(t *testing.T) {
		t.Parallel()
		l, _ := newTestLane(4)
		l.fetches(0, 0)
		if got := l.reserve(1, l.asOf.Add(freshFor)); got != 1 {
			t.Errorf("in time: got %d jobs born running, want 1", got)
		}
		if got := l.reserve(1, l.asOf.Add(freshFor+1)); got != 0 {
			t.Errorf("later: got %d jobs born running, want none", got)
		}
	})

	t.Run("LeavesRiverTheWorkersThatAreFree", func(t *testing.T) {
		t.Parallel()
		l, _ := newTestLane(4)
		l.fetches(0, 0)
		l.inserted(l.reserve(3, time.Now()), 3)
		if got := l.fetches(0, 10); got != 1 {
			t.Errorf("got %d jobs fetched, want 1, for the free worker", got)
		}
		if got := l.fetches(1, 10); got != 0 {
			t.Errorf("got %d jobs fetched, want none", got)
		}
	})

	t.Run("LeavesWorkersToJobsThatAreBornDuringAFetch", func(t *testing.T) {
		t.Parallel()
		l, _ := newTestLane(4)
		l.fetches(0, 0)
		_ = l.fetch(4, func(room int) (int, error) {
			if got := l.reserve(2, time.Now()); got != 2 {
				t.Errorf("got %d of 2 jobs born running, want both", got)
			}
			return 0, nil
		})
	})

	// A burst that is due at once fills the workers that one statement takes, though others
	// are free: the jobs that are born meanwhile don't go over the queue for it.
	t.Run("StaysClearWhileABurstIsFetched", func(t *testing.T) {
		t.Parallel()
		l, _ := newTestLane(8)
		l.fetches(0, 0)
		waiting, statements := 5, 0
		_ = l.fetch(8, func(room int) (int, error) {
			if got := l.reserve(1, time.Now()); got != 1 {
				t.Errorf("during statement %d, got %d jobs born running, want 1", statements, got)
			}
			l.inserted(1, 0)
			got := min(room, waiting)
			waiting, statements = waiting-got, statements+1
			return got, nil
		})
		if waiting != 0 || statements != 2 || l.reserve(1, time.Now()) != 1 {
			t.Errorf("%d jobs were left by %d statements, and clear is %t; want none left by two, and it clear", waiting, statements, l.clear)
		}
	})

	t.Run("KeepsWhatItGotBeforeAFault", func(t *testing.T) {
		t.Parallel()
		l, _ := newTestLane(8)
		l.fetches(0, 0)
		statements := 0
		err := l.fetch(8, func(room int) (int, error) {
			if statements++; statements > 1 {
				return 0, errors.New("away")
			}
			return room, nil
		})
		if err != nil || l.fetched != 4 || l.clear {
			t.Errorf("got %v, %d jobs fetched, and clear %t; want no error, the 4 of the first statement, and not clear", err, l.fetched, l.clear)
		}
	})

	t.Run("LetsRiverFetchWhenAWorkerThatItLackedIsFree", func(t *testing.T) {
		t.Parallel()
		l, woken := newTestLane(4)
		l.fetches(0, 0)
		l.inserted(l.reserve(4, time.Now()), 4)
		l.ended()
		if *woken != 0 {
			t.Error("woken though nobody lacked a worker")
		}
		l.fetches(0, 10)
		l.ended()
		l.ended()
		if *woken != 1 {
			t.Errorf("woken %d times, want once until the next fetch", *woken)
		}
	})

	t.Run("IsDrainedWhenItsLastJobHasEnded", func(t *testing.T) {
		t.Parallel()
		l, _ := newTestLane(4)
		l.fetches(0, 0)
		l.inserted(l.reserve(2, time.Now()), 2)
		drained := l.stop()
		l.ended()
		select {
		case <-drained:
			t.Error("drained while a job runs")
		default:
		}
		l.ended()
		<-drained
		<-l.stop()
	})

	t.Run("NeverHasMoreJobsThanWorkers", func(t *testing.T) {
		t.Parallel()
		rapid.Check(t, func(t *rapid.T) {
			l, _ := newTestLane(rapid.IntRange(1, 8).Draw(t, "size"))
			river := 0 // jobs that run by River's count
			t.Repeat(map[string]func(*rapid.T){
				"insert": func(t *rapid.T) {
					n := rapid.IntRange(1, 12).Draw(t, "jobs")
					reserved := l.reserve(n, time.Now())
					l.inserted(reserved, rapid.IntRange(0, reserved).Draw(t, "running"))
				},
				"fetch": func(t *rapid.T) {
					if river < l.size {
						river += l.fetches(river, rapid.IntRange(0, 12).Draw(t, "waiting"))
					}
				},
				"end": func(t *rapid.T) {
					if l.born > 0 {
						l.ended()
					}
				},
				"endFetched": func(t *rapid.T) {
					if river > 0 && l.fetched > 0 {
						river--
						l.fetchedEnded()
					}
				},
				"": func(t *rapid.T) {
					if l.born < 0 || l.born+river > l.size || l.fetched != river {
						t.Fatalf("got %d born running, %d fetched, %d by River's count, of %d workers", l.born, l.fetched, river, l.size)
					}
				},
			})
		})
	})
}
