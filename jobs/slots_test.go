package jobs

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"ringback/db"
	"ringback/db/dbtest"
	"ringback/internal/bubble"
	"ringback/jobs/limit"
	"ringback/work"
)

// workForce takes jobs up as River does: so many at a time, the rest in the order
// in which they come.
type workForce struct {
	*runSlots
	workers chan struct{}
	visits  atomic.Int64 // of workers
}

// run does a client's work, however often it is postponed.
func (f *workForce) run(ctx context.Context, client string, takes time.Duration) {
	for cameBack := false; ; cameBack = true {
		f.workers <- struct{}{}
		f.visits.Add(1)
		leave, postponed := f.enter(ctx, client, cameBack)
		if leave != nil {
			time.Sleep(takes) // the fake clock's, as below
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
			f := &workForce{runSlots: newRunSlots(100, newWaitingRoom(500, 100, true), true), workers: make(chan struct{}, 500)}
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

	t.Run("GoToTheJobThatWaitedLongest", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			p := newRunSlots(1, newWaitingRoom(100, 1, false), false)
			leave, _ := p.enter(t.Context(), "a", false)
			var order []int
			var all sync.WaitGroup
			for n := range 3 {
				all.Go(func() {
					next, _ := p.enter(t.Context(), "a", false)
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
			p := newRunSlots(1, newWaitingRoom(100, 1, false), false)
			start := time.Now()
			first, _ := p.enter(t.Context(), "a", false)
			leave, postponed := p.enter(t.Context(), "a", false)
			if leave != nil || time.Until(postponed.RetryAt) < soonest || postponed.Reason != workSlots || time.Since(start) != slotPatience {
				t.Errorf("got %+v after %v, want it postponed after %v", postponed, time.Since(start), slotPatience)
			}
			first()
			if leave, _ := p.enter(t.Context(), "a", true); leave == nil {
				t.Error("the slot is lost")
			}
		})
	})

	t.Run("AreWaitedForFirstByWhatWasPostponed", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			p := newRunSlots(1, newWaitingRoom(4, 1, false), false) // room for two that wait
			comes := func(cameBack bool) (postponed bool) {
				told := make(chan bool, 1)
				go func() {
					_, decision := p.enter(t.Context(), "a", cameBack)
					told <- !decision.OK()
				}()
				bubble.Wait()
				select {
				case postponed = <-told:
				default: // it waits
				}
				return postponed
			}
			leave, _ := p.enter(t.Context(), "a", false)
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
			p := newRunSlots(3, newWaitingRoom(100, 3, true), true)
			var all sync.WaitGroup
			var most, inside atomic.Int64
			for n := range 200 {
				all.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n%7)*5*time.Millisecond)
					defer cancel()
					time.Sleep(time.Duration(n%11) * 5 * time.Millisecond)
					if leave, _ := p.enter(ctx, string(rune('a'+n%3)), n%2 == 0); leave != nil {
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

func TestLongRunsOfAClientLeaveASlotToOthers(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	url := newServer(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	do := func(ctx context.Context, input jsontext.Value) (jsontext.Value, error) {
		if string(input) == `"long"` {
			select {
			case <-release:
			case <-ctx.Done():
			}
		}
		return input, ctx.Err()
	}
	database := dbtest.New(t)
	q := newQueueOf(t, database, database, do, 12)
	*q.runSlots = *newRunSlots(5, newWaitingRoom(12, 5, true), true)
	request := func(client, input string) db.Request {
		request := newRequest(url)
		request.Client, request.Input = client, jsontext.Value(input)
		q.accept(t, request)
		return request
	}
	var long []uuid.UUID
	for range 20 {
		long = append(long, request("alice", `"long"`).ID)
	}
	q.start(t)
	short := request("bob", `"short"`).ID
	q.waitFor(t, short, "callback_state = 'delivered'")
	close(release)
	for _, id := range long {
		q.waitFor(t, id, "callback_state = 'delivered'")
	}
}

// Runs and waiting jobs of some clients, of several kinds of work, leave workers to the next
// client.
func TestJobsThatWaitLeaveWorkersToOthers(t *testing.T) {
	t.Parallel()
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
				runs := mostRuns(64, count, true)
				room := newWaitingRoom(count, runs, true)
				slots, workers := newRunSlots(runs, room, true), make(chan struct{}, count)
				ctx, stop := context.WithCancel(t.Context())
				var all sync.WaitGroup
				defer all.Wait()
				defer stop()
				for _, client := range []string{"m1", "m2", "m3"} {
					for range count {
						all.Go(func() {
							hold(ctx, workers, func(client string) (func(), limit.Decision) { return slots.enter(ctx, client, false) }, client)
						})
					}
				}
				for range kinds {
					f := newFlow(&work.Offer{Work: work.Work{Limit: 1}}, room, true)
					f.party("m1").took = time.Millisecond
					for range count {
						all.Go(func() {
							hold(ctx, workers, func(client string) (func(), limit.Decision) {
								f.mu.Lock()
								f.moved = time.Now() // as where runs of a millisecond go on
								f.mu.Unlock()
								return f.await(ctx, client)
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
