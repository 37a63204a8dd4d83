package flow

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ringback/internal/bubble"
	"ringback/jobs/limit"
	"ringback/work"
)

// workForce takes jobs up as River does: so many at a time, the rest in the order
// in which they come.
type workForce struct {
	*Slots
	workers chan struct{}
	visits  atomic.Int64 // of workers

	// Between these times the work stands still. Zero for never.
	stands, goesOn time.Time
}

// work takes so long, or until it goes on.
func (f *workForce) work(takes time.Duration) {
	if now := time.Now(); !now.Before(f.stands) && now.Before(f.goesOn) {
		takes = max(takes, f.goesOn.Sub(now))
	}
	time.Sleep(takes) // the fake clock's, as below
}

// run does a client's work, however often it is postponed.
func (f *workForce) run(ctx context.Context, client string, takes time.Duration) {
	for cameBack := false; ; cameBack = true {
		f.workers <- struct{}{}
		f.visits.Add(1)
		leave, postponed := f.Enter(ctx, client, cameBack)
		if leave != nil {
			f.work(takes)
			leave()
		}
		<-f.workers
		if leave != nil {
			return
		}
		time.Sleep(time.Until(postponed.RetryAt))
	}
}

func TestRunSlots(t *testing.T) {
	t.Parallel()

	t.Run("LeaveRoomToOthersBesideThousandsOfLongRuns", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			const longWorks, fair = 5000, 80 // of 100 slots
			f := &workForce{Slots: NewSlots(100, NewRoom(500, 100, true), true), workers: make(chan struct{}, 500)}
			random, start := rand.New(rand.NewPCG(1, 2)), time.Now()
			var long, short sync.WaitGroup
			var worked time.Duration
			for range longWorks {
				takes := time.Duration(1000+random.IntN(4000)) * time.Millisecond
				worked += takes
				long.Go(func() { f.run(t.Context(), "greedy", takes) })
			}
			ended := make(chan struct{})
			go func() { long.Wait(); close(ended) }()
			for n := 0; ; n++ {
				select {
				case <-ended:
					took, least := time.Since(start), worked/fair
					if took > least+least/10 {
						t.Errorf("the long runs: got %v, want hardly more than %v", took, least)
					}
					if visits := f.visits.Load() - int64(n); visits > 6*longWorks {
						t.Errorf("got %d visits of %d jobs, want few of each", visits, longWorks)
					}
					short.Wait()
					return
				case <-time.After(100 * time.Millisecond):
				}
				short.Go(func() {
					came := time.Now()
					f.run(t.Context(), "modest", 10*time.Millisecond)
					if took := time.Since(came); took > 10*time.Millisecond {
						t.Errorf("a short run of another client at %v: got %v, want that it waits for nothing", came.Sub(start), took)
					}
				})
			}
		})
	})

	t.Run("AreTakenSoonOnceTheWorkGoesOn", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			const stall = 4 * time.Second
			start := time.Now()
			f := &workForce{Slots: NewSlots(8, NewRoom(1000, 8, false), false), workers: make(chan struct{}, 1000)}
			f.stands = start.Add(5 * time.Second)
			f.goesOn = f.stands.Add(stall)
			var all sync.WaitGroup
			var last atomic.Int64 // nanoseconds from goesOn until the last run ended that waited
			for time.Since(start) < 30*time.Second {
				came := time.Now()
				all.Go(func() {
					f.run(t.Context(), "acme", 2*time.Millisecond)
					if ended := time.Since(f.goesOn); came.Before(f.goesOn) && ended > time.Duration(last.Load()) {
						last.Store(int64(ended))
					}
				})
				time.Sleep(5 * time.Millisecond)
			}
			all.Wait()
			if got := time.Duration(last.Load()); got > stall {
				t.Errorf("the last run that waited ended %v after the work went on, want it within %v", got, stall)
			}
		})
	})

	t.Run("GoToTheJobThatWaitedLongest", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			p := NewSlots(1, NewRoom(100, 1, false), false)
			leave, _ := p.Enter(t.Context(), "a", false)
			var order []int
			var all sync.WaitGroup
			for n := range 3 {
				all.Go(func() {
					next, _ := p.Enter(t.Context(), "a", false)
					order = append(order, n)
					next()
				})
				bubble.Wait()
			}
			leave()
			all.Wait()
			if len(order) != 3 || order[0] != 0 || order[1] != 1 || order[2] != 2 {
				t.Errorf("got %v, want them in the order in which they came", order)
			}
		})
	})

	t.Run("PostponeWhatWaitsForTooLong", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			p := NewSlots(1, NewRoom(100, 1, false), false)
			start := time.Now()
			first, _ := p.Enter(t.Context(), "a", false)
			leave, postponed := p.Enter(t.Context(), "a", false)
			if leave != nil || time.Until(postponed.RetryAt) < Soonest || postponed.Reason != WorkSlots || time.Since(start) != slotPatience {
				t.Errorf("got %+v after %v, want it postponed after %v", postponed, time.Since(start), slotPatience)
			}
			first()
			if leave, _ := p.Enter(t.Context(), "a", true); leave == nil {
				t.Error("the slot is lost")
			}
		})
	})

	t.Run("AreWaitedForFirstByWhatWasPostponed", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			p := NewSlots(1, NewRoom(4, 1, false), false) // room for two that wait
			comes := func(cameBack bool) (postponed bool) {
				told := make(chan bool, 1)
				go func() {
					_, decision := p.Enter(t.Context(), "a", cameBack)
					told <- !decision.OK()
				}()
				bubble.Wait()
				select {
				case postponed = <-told:
				default: // it waits
				}
				return postponed
			}
			leave, _ := p.Enter(t.Context(), "a", false)
			if comes(false) || !comes(false) {
				t.Fatal("want one job to wait, and the next to be postponed")
			}
			leave()
			bubble.Wait()
			if !comes(false) {
				t.Error("a job that comes for the first time got ahead of a postponed job")
			}
			if comes(true) {
				t.Error("a job that came back was postponed again, with room for it")
			}
			time.Sleep(time.Minute) // who waits is postponed
		})
	})

	t.Run("AreNotLostToWhoGoesAway", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			p := NewSlots(3, NewRoom(100, 3, true), true)
			var all sync.WaitGroup
			var most, inside atomic.Int64
			for n := range 200 {
				all.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n%7)*5*time.Millisecond)
					defer cancel()
					time.Sleep(time.Duration(n%11) * 5 * time.Millisecond)
					if leave, _ := p.Enter(ctx, string(rune('a'+n%3)), n%2 == 0); leave != nil {
						if now := inside.Add(1); now > most.Load() {
							most.Store(now)
						}
						time.Sleep(5 * time.Millisecond)
						inside.Add(-1)
						leave()
					}
				})
			}
			all.Wait()
			if running, waiting := p.gate.Counts(); running != 0 || waiting != 0 || most.Load() != 3 {
				t.Errorf("got %d running, %d waiting and %d at a time, want none, none and 3", running, waiting, most.Load())
			}
		})
	})
}

// Runs and waiting jobs of some clients, of several kinds of work, leave workers to the next
// client.
func TestJobsThatWaitLeaveWorkersToOthers(t *testing.T) {
	t.Parallel()
	sleep := func(ctx context.Context, wait time.Duration) {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	hold := func(ctx context.Context, workers chan struct{}, enter func(client string) (leave func(), postponed limit.Decision), client string) {
		for ctx.Err() == nil {
			workers <- struct{}{}
			leave, postponed := enter(client)
			if leave != nil {
				sleep(ctx, 30*time.Second)
				leave()
			}
			<-workers
			sleep(ctx, time.Until(postponed.RetryAt))
		}
	}
	for name, kinds := range map[string]int{"OfOneKind": 0, "OfKindsWithALimit": 4} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				const count = 100
				runs := MostRuns(64, count, true)
				room := NewRoom(count, runs, true)
				slots, workers := NewSlots(runs, room, true), make(chan struct{}, count)
				ctx, stop := context.WithCancel(t.Context())
				var all sync.WaitGroup
				defer all.Wait()
				defer stop()
				for _, client := range []string{"m1", "m2", "m3"} {
					for range count {
						all.Go(func() {
							hold(ctx, workers, func(client string) (func(), limit.Decision) { return slots.Enter(ctx, client, false) }, client)
						})
					}
				}
				for range kinds {
					f := New(&work.Offer{Work: work.Work{Limit: 1}}, room, true)
					f.party("m1").took = time.Millisecond
					for range count {
						all.Go(func() {
							hold(ctx, workers, func(client string) (func(), limit.Decision) {
								f.mu.Lock()
								f.lastProgress = time.Now() // as where runs of a millisecond go on
								f.mu.Unlock()
								return f.Await(ctx, client)
							}, "m1")
						})
					}
				}
				for range 100 {
					sleep(ctx, 100*time.Millisecond)
					came := time.Now()
					workers <- struct{}{}
					<-workers
					if took := time.Since(came); took > 0 {
						t.Fatalf("a job of another client: got a worker after %v, want it at once", took)
					}
				}
			})
		})
	}
}
