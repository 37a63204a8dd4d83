package api

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ringback/internal/bubble"
)

// arrival is the fate of a call at a gate.
type arrival struct {
	done    bool
	refused bool
	waited  time.Duration
}

// arrive enters a gate without waiting for it.
func arrive(ctx context.Context, g gate) <-chan arrival { return arriveOf(ctx, g, "alice") }

func arriveOf(ctx context.Context, g gate, client string) <-chan arrival {
	ended, start := make(chan arrival, 1), time.Now()
	go func() {
		err := g.enter(ctx, client)
		ended <- arrival{true, err != nil, time.Since(start)}
	}()
	bubble.Wait()
	return ended
}

// soFar is the zero arrival as long as it waits.
func soFar(ended <-chan arrival) arrival {
	bubble.Wait()
	select {
	case a := <-ended:
		return a
	default:
		return arrival{}
	}
}

func wantArrival(t *testing.T, name string, ended <-chan arrival, want arrival) {
	t.Helper()
	if got := soFar(ended); got != want {
		t.Errorf("%s: got %+v, want %+v", name, got, want)
	}
}

var (
	waits  = arrival{}
	atOnce = arrival{done: true}
)

func admittedAfter(waited time.Duration) arrival { return arrival{done: true, waited: waited} }

func refusedAfter(waited time.Duration) arrival {
	return arrival{done: true, refused: true, waited: waited}
}

func TestGate(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for name, test := range map[string]func(t *testing.T){
		"LetsInAtOnceWhatHasAPlace": func(t *testing.T) {
			g := newGate(3, false)
			for range 3 {
				wantArrival(t, "within the limit", arrive(t.Context(), g), atOnce)
			}
			fourth := arrive(t.Context(), g)
			wantArrival(t, "the fourth", fourth, waits)
			g.Leave("alice")
			wantArrival(t, "the fourth", fourth, atOnce)
		},
		"ServesTheNewestFirst": func(t *testing.T) {
			g := newGate(3, false)
			for range 3 {
				arrive(t.Context(), g)
			}
			oldest, middle, newest := arrive(t.Context(), g), arrive(t.Context(), g), arrive(t.Context(), g)
			time.Sleep(5 * ms) // the fake clock's, as below
			g.Leave("alice")
			wantArrival(t, "newest", newest, admittedAfter(5*ms))
			wantArrival(t, "middle", middle, waits)
			g.Leave("alice")
			wantArrival(t, "middle", middle, admittedAfter(5*ms))
			wantArrival(t, "oldest", oldest, waits)
			g.Leave("alice")
			wantArrival(t, "oldest", oldest, admittedAfter(5*ms))
		},
		"RefusesTheOldestOfTooMany": func(t *testing.T) {
			g := newGate(2, false)
			for range 2 {
				arrive(t.Context(), g)
			}
			oldest, middle := arrive(t.Context(), g), arrive(t.Context(), g)
			time.Sleep(ms)
			newest := arrive(t.Context(), g)
			wantArrival(t, "oldest", oldest, refusedAfter(ms))
			wantArrival(t, "middle", middle, waits)
			wantArrival(t, "newest", newest, waits)
		},
		"LetsABurstWait100ms": func(t *testing.T) {
			g := newGate(2, false)
			for range 2 {
				arrive(t.Context(), g)
			}
			first := arrive(t.Context(), g)
			time.Sleep(60 * ms)
			second := arrive(t.Context(), g)
			time.Sleep(100 * ms)
			wantArrival(t, "first", first, refusedAfter(100*ms))
			wantArrival(t, "second", second, refusedAfter(100*ms))
		},
		"CutsAStandingQueueTo10ms": func(t *testing.T) {
			g := newGate(2, false)
			for range 2 {
				arrive(t.Context(), g)
			}
			arrive(t.Context(), g)
			time.Sleep(50 * ms)
			arrive(t.Context(), g) // the queue stands since the call before
			time.Sleep(51 * ms)
			third := arrive(t.Context(), g)
			time.Sleep(100 * ms)
			wantArrival(t, "third", third, refusedAfter(10*ms))

			// Nobody waits any more, so the next calls are a burst again.
			next := arrive(t.Context(), g)
			time.Sleep(100 * ms)
			wantArrival(t, "after the queue", next, refusedAfter(100*ms))
		},
		"KeepsAPlaceForWhoHasNone": func(t *testing.T) {
			g := newGate(8, true)
			for range 7 {
				wantArrival(t, "within her share", arrive(t.Context(), g), atOnce)
			}
			beyond := arrive(t.Context(), g)
			wantArrival(t, "beyond her share", beyond, waits)
			wantArrival(t, "another client", arriveOf(t.Context(), g, "bob"), atOnce)
			later, newest := arriveOf(t.Context(), g, "bob"), arrive(t.Context(), g)
			g.Leave("alice")
			wantArrival(t, "the newest, who has six of eight", newest, waits)
			wantArrival(t, "who has one of eight", later, atOnce)
			g.Leave("bob")
			g.Leave("bob")
			wantArrival(t, "the newest, with two free", newest, atOnce)
			wantArrival(t, "the other, with one free", beyond, waits)
		},
		"FreesTheWaiterWhoseContextEnds": func(t *testing.T) {
			g := newGate(2, false)
			for range 2 {
				arrive(t.Context(), g)
			}
			ctx, cancel := context.WithCancel(t.Context())
			stays, goes := arrive(t.Context(), g), arrive(ctx, g)
			time.Sleep(ms)
			cancel()
			wantArrival(t, "whose context ended", goes, refusedAfter(ms))
			g.Leave("alice") // not to the call that is gone
			wantArrival(t, "the other", stays, admittedAfter(ms))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				test(t)
				time.Sleep(time.Second) // calls that still wait are refused
			})
		})
	}

	t.Run("RefusesWith503", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			g := newGate(1, false)
			arrive(t.Context(), g)
			if err := g.enter(t.Context(), "alice"); err == nil || problemOf(err).name != "temporary-reduced-capacity" {
				t.Errorf("got %v, want temporary-reduced-capacity", err)
			}
		})
	})

	// With slots, deadlines and cancellations that meet at the same instants.
	t.Run("NeitherLosesNorDoublesAPlace", func(t *testing.T) {
		t.Parallel()
		for _, limit := range []int{1, 2, 7} {
			bubble.Test(t, func(t *testing.T) { storm(t, limit) })
		}
	})
}

func storm(t *testing.T, limit int) {
	const ms = time.Millisecond
	g := newGate(limit, false)
	var inside, most, admitted, refused atomic.Int64
	var all sync.WaitGroup
	for n := range 200 {
		all.Go(func() {
			for visit := range 10 {
				time.Sleep(time.Duration((n*7+visit*13)%50) * ms) // the fake clock's
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n%4)*5*ms+5*ms)
				if g.enter(ctx, "alice") != nil {
					refused.Add(1)
					cancel()
					continue
				}
				now := inside.Add(1)
				for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
				}
				admitted.Add(1)
				time.Sleep(time.Duration(visit%3) * 5 * ms)
				inside.Add(-1)
				g.Leave("alice")
				cancel()
			}
		})
	}
	all.Wait()
	if got := most.Load(); got != int64(limit) {
		t.Errorf("limit %d: got %d inside at a time", limit, got)
	}
	if admitted.Load() == 0 || refused.Load() == 0 {
		t.Errorf("limit %d: got %d admitted and %d refused, want some of each", limit, admitted.Load(), refused.Load())
	}
	var after []arrival
	for range limit + 1 {
		after = append(after, soFar(arrive(t.Context(), g)))
	}
	if want := append(slices.Repeat([]arrival{atOnce}, limit), waits); !slices.Equal(after, want) {
		t.Errorf("limit %d, afterwards: got %+v, want as many at once, and one call that waits", limit, after)
	}
	time.Sleep(time.Second)
}
