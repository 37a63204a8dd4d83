package flow

import (
	"context"
	"sync"
	"testing"
	"time"

	"ringback/internal/bubble"
	"ringback/jobs/limit"
	"ringback/work"
)

// syncCall is the fate of a sync request at a flow.
type syncCall struct {
	limit.Decision
	waited time.Duration
}

// sync is a sync request that runs for so long by the fake clock. Its fate is known once it
// runs or is refused.
func (f *Flow) sync(t *testing.T, ctx context.Context, client string, takes time.Duration) <-chan syncCall {
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	fate, came := make(chan syncCall, 1), time.Now()
	running.Go(func() {
		leave, decision := f.EnterSync(ctx, client)
		began := time.Now()
		fate <- syncCall{decision, began.Sub(came)}
		if leave != nil {
			time.Sleep(takes)
			leave(work.Outcome{StartedAt: began, FinishedAt: time.Now()})
		}
	})
	bubble.Wait()
	return fate
}

// sharedFlow is a flow that has done a run, with clients who share it.
func sharedFlow(t *testing.T, slots int, takes time.Duration) *Flow {
	f := New(&work.Offer{Work: work.Work{Paced: true, Limit: slots}}, NewRoom(1000, 0, true), true)
	if got := f.job(t, takes); !got.OK() {
		t.Fatalf("the first: got %+v", got)
	}
	return f
}

func TestSyncRequestsWaitForTheirTurn(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(t *testing.T){
		"BeforeTheJobs": func(t *testing.T) {
			const takes, backlog = 100 * time.Millisecond, 9
			f := sharedFlow(t, 1, takes)
			start := time.Now()
			var jobs sync.WaitGroup
			for range backlog {
				jobs.Go(func() {
					if got := f.job(t, takes); !got.OK() {
						t.Errorf("a job: got %+v, want it to wait", got)
					}
				})
			}
			for range 3 {
				time.Sleep(takes / 2)
				if got := <-f.sync(t, t.Context(), "bob", takes); !got.OK() || got.waited > takes {
					t.Errorf("a sync request: got %+v, want the next slot", got)
				}
			}
			jobs.Wait()
			if got := time.Since(start); got != (backlog+3)*takes {
				t.Errorf("all took %v, want no slot idle: %v", got, (backlog+3)*takes)
			}
		},
		"NotWhereTheTurnIsFar": func(t *testing.T) {
			const takes = 2 * time.Second
			f := sharedFlow(t, 1, takes)
			for _, client := range []string{"bob", "carol"} {
				f.jobOf(t, client, takes) // so it is known how long its runs take
			}
			f.sync(t, t.Context(), "alice", takes)
			for i, client := range []string{"alice", "bob"} { // in 2 s, in 4 s
				fate := f.sync(t, t.Context(), client, takes)
				defer func() {
					if got := <-fate; !got.OK() || got.waited != time.Duration(i+1)*takes {
						t.Errorf("%d: got %+v, want it to run in its turn", i, got)
					}
				}()
			}
			came := time.Now()
			got := <-f.sync(t, t.Context(), "carol", takes)
			if got.Reason != KindLimit || got.waited != 0 || !got.RetryAt.Equal(came.Add(3*takes)) {
				t.Errorf("in 6 s: got %+v, want it refused at once until its turn", got)
			}
		},
		"NotForLonger": func(t *testing.T) {
			f := sharedFlow(t, 1, time.Millisecond)
			f.sync(t, t.Context(), "alice", time.Minute)
			if got := <-f.sync(t, t.Context(), "bob", 0); got.Reason != KindLimit || got.waited != syncPatience {
				t.Errorf("behind a slow run: got %+v, want it refused after %v", got, syncPatience)
			}
			time.Sleep(time.Millisecond)
			if got := <-f.sync(t, t.Context(), "bob", 0); got.Reason != KindLimit || got.waited != 0 {
				t.Errorf("of work that hangs: got %+v, want it refused at once", got)
			}
		},
		"InSharesByClient": func(t *testing.T) {
			const takes = 100 * time.Millisecond // so 50 turns are near
			f := sharedFlow(t, 1, takes)
			f.sync(t, t.Context(), "alice", takes)
			var waits int
			for range 100 {
				select {
				case <-f.sync(t, t.Context(), "alice", takes):
				default:
					waits++
				}
			}
			if waits != 40 {
				t.Errorf("%d of alice's wait, want four fifths of 50", waits)
			}
			if got := <-f.sync(t, t.Context(), "bob", takes); !got.OK() || got.waited > 41*takes {
				t.Errorf("bob's: got %+v, want it to wait behind them", got)
			}
		},
		"UntilTheirCallerGoes": func(t *testing.T) {
			f := sharedFlow(t, 1, time.Second)
			f.sync(t, t.Context(), "alice", 2*time.Second)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if got := <-f.sync(t, ctx, "bob", time.Hour); got.OK() || got.waited != time.Second {
				t.Errorf("got %+v, want its wait ended", got)
			}
			if got := <-f.sync(t, t.Context(), "carol", 0); !got.OK() || got.waited != time.Second {
				t.Errorf("the next: got %+v, want the slot", got)
			}
		},
		"NotWhileTheServiceIsDown": func(t *testing.T) {
			f := sharedFlow(t, 1, time.Second)
			fails := make(chan struct{})
			go func() {
				for range failuresToTrip - 1 {
					f.try(t, time.Now(), &work.Again{})
				}
				leave, _ := f.EnterSync(t.Context(), "alice")
				<-fails
				leave(came(time.Now(), &work.Again{}))
			}()
			bubble.Wait()
			waiting := f.sync(t, t.Context(), "alice", 0)
			time.Sleep(time.Second)
			close(fails)
			if got := <-waiting; got.Reason != WorkDown || got.waited != time.Second {
				t.Errorf("that waited: got %+v, want it refused as soon as it is down", got)
			}
			if got := <-f.sync(t, t.Context(), "alice", 0); got.Reason != WorkDown || got.waited != 0 {
				t.Errorf("that came later: got %+v, want it refused at once", got)
			}
			if got := f.waiting.Load(); got != 0 {
				t.Errorf("%d still wait", got)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, test)
		})
	}
}

// After an outage jobs take the whole rate of slow start, and sync requests come before
// them.
func TestSyncRequestsKeepThePaceBeforeTheJobs(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		f, ctx := pacedFlow(0), t.Context()
		for range failuresToTrip {
			f.try(t, time.Now(), &work.Again{})
		}
		time.Sleep(firstClosing)
		f.try(t, time.Now(), nil)
		var jobs sync.WaitGroup
		defer jobs.Wait()
		jobs.Go(func() {
			for range 4000 { // they come all the time
				f.tryEnter("alice", false, time.Now())
				time.Sleep(time.Millisecond)
			}
		})
		var fates []<-chan syncCall
		for range 64 {
			fates = append(fates, f.sync(t, ctx, "alice", 0))
		}
		var last time.Duration
		for i, fate := range fates {
			got := <-fate
			if !got.OK() || got.waited < last {
				t.Errorf("%d: got %+v after %v, want its time", i, got, last)
			}
			last = got.waited
		}
		if last < time.Second || last > 2*time.Second { // 10 and 20 in the first two half seconds, and the burst
			t.Errorf("the last of 64 waited %v, want the pace of slow start", last)
		}
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if got := <-f.sync(t, gone, "alice", 0); got.Reason != WorkPace || got.waited != 0 {
			t.Errorf("without its caller: got %+v, want no wait", got)
		}
		if got := <-f.sync(t, ctx, "bob", 0); !got.OK() || got.waited != 0 {
			t.Errorf("bob's, who saw no failure: got %+v, want it at once", got)
		}
	})
}
