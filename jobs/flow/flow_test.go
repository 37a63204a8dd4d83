package flow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ringback/internal/bubble"
	"ringback/jobs/limit"
	"ringback/work"
)

var morning = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

func pacedFlow(limit int) *Flow {
	return New(&work.Offer{Work: work.Work{Paced: true, Limit: limit}}, NewRoom(1000, 0, false), false)
}

func came(at time.Time, again *work.Again) work.Outcome {
	return work.Outcome{StartedAt: at, FinishedAt: at, Again: again}
}

// tryEnter is a job's entering at a time, without a wait. With reserve it is told a time of
// its own.
func (f *Flow) tryEnter(client string, reserve bool, now time.Time) (p pass, decision limit.Decision) {
	if f.runs != nil {
		decision = f.runs.Enter(context.Background(), client, func(limit.Queue) time.Duration { return 0 })
	}
	if decision.OK() {
		p, decision = f.start(client, false, now)
	}
	if !decision.OK() && reserve {
		decision = f.postpone(client, decision, now)
	}
	return p, decision
}

// try is one attempt that may begin.
func (f *Flow) try(t *testing.T, now time.Time, again *work.Again) {
	t.Helper()
	p, decision := f.tryEnter("alice", false, now)
	if !decision.OK() {
		t.Fatalf("at %v: got %+v, want it to begin", now, decision)
	}
	f.leave(p, came(now, again), now)
}

func TestFlowBreaker(t *testing.T) {
	t.Parallel()
	f, now, failed := pacedFlow(0), morning, &work.Again{}
	var told []bool
	f.tell = func(down bool, _ error) { told = append(told, down) }
	late, _ := f.tryEnter("alice", false, now) // under way all the time
	for range failuresToTrip - 1 {
		f.try(t, now, failed)
	}
	f.try(t, now, nil) // a success in between
	for range failuresToTrip {
		f.try(t, now, failed)
	}
	closing := firstClosing
	for range 8 {
		if _, got := f.tryEnter("alice", false, now); got.Reason != WorkDown || !got.RetryAt.Equal(now.Add(closing)) {
			t.Fatalf("open: got %+v, want it down for %v", got, closing)
		}
		now = now.Add(closing)
		probe, got := f.tryEnter("alice", false, now)
		if !got.OK() {
			t.Fatalf("half open: got %+v, want a probe", got)
		}
		if _, got := f.tryEnter("alice", false, now); got.Reason != WorkDown || f.closedAs(now) != stateDown {
			t.Errorf("while the probe is out: got %+v, want it down", got)
		}
		f.leave(probe, came(now, failed), now)
		closing = min(2*closing, longestClosing)
	}
	f.leave(late, came(now, nil), now)
	if f.closedAs(now) != stateDown {
		t.Error("a late success of an earlier attempt closes it")
	}
	now = now.Add(closing)
	f.try(t, now, nil)
	if f.closedAs(now) != "" {
		t.Error("a probe that succeeds doesn't close it")
	}

	second := 0 // attempts of the first second
	for step := range 1000 {
		at := now.Add(time.Duration(step) * time.Millisecond)
		if p, got := f.tryEnter("alice", false, at); got.OK() {
			second++
			f.leave(p, came(at, nil), at)
		} else if got.Reason != WorkPace {
			t.Fatalf("slow start: got %+v, want its pace", got)
		}
	}
	if second < 25 || second > 40 {
		t.Errorf("the first second let %d go, want about 30", second)
	}
	now = now.Add(3 * time.Second)
	for range 5000 {
		f.try(t, now, nil)
	}
	if !slices.Equal(told, []bool{true, true, true, false}) {
		t.Errorf("told %v, want once a minute in two minutes that it is down, and once that it is back", told)
	}
}

func TestFlowState(t *testing.T) {
	t.Parallel()
	f, now, failed := pacedFlow(0), morning, &work.Again{}
	want := func(what, client string, want State) {
		t.Helper()
		if got := f.State(client, now); got != want {
			t.Errorf("%s: got %+v, want %+v", what, got, want)
		}
	}
	want("new", "alice", State{State: "up"})
	f.try(t, now, &work.Again{After: time.Second})
	want("after a Retry-After", "alice", State{State: "paused", Until: morning.Add(time.Second)})
	want("after a Retry-After to another", "bob", State{State: "up"})
	now = morning.Add(time.Second)
	for range failuresToTrip {
		f.try(t, now, failed)
	}
	down := State{State: "down", Since: now, Until: now.Add(firstClosing)}
	want("after failures", "alice", down)
	want("after failures of another", "bob", State{State: "up"})
	now = now.Add(firstClosing)
	want("when the probe is due", "alice", State{State: "down", Since: down.Since})
	f.try(t, now, failed)
	want("after its failure", "alice", State{State: "down", Since: down.Since, Until: now.Add(2 * firstClosing)})
	now = now.Add(2 * firstClosing)
	f.try(t, now, nil)
	want("after its success", "alice", State{State: "up"})
	var none *Flow
	if got := none.State("alice", now); got != (State{State: "up"}) {
		t.Errorf("of work that can't be down: got %+v", got)
	}
}

// A service that refuses the operator's own calls fails the requests for good, and the
// operator hears of it.
func TestFlowWarnsOfMistakesInTheSettings(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	offer := &work.Offer{Name: "summarize", Work: work.Work{Paced: true}}
	f := New(offer, NewRoom(1000, 0, false), false)
	f.warn = warnOfWork(slog.New(slog.NewTextHandler(&log, nil)), offer)
	run := func(now time.Time, cause error) {
		t.Helper()
		p, _ := f.tryEnter("alice", false, now)
		outcome := came(now, nil)
		outcome.Error, outcome.Cause = &work.Error{Code: "failed", Message: "m"}, cause
		f.leave(p, outcome, now)
	}
	mistake := fmt.Errorf("a: %w", &work.SettingError{Status: 404, Remedy: "correct the path", Err: errors.New("b")})
	run(morning, errors.New("another"))
	for second := range 121 {
		run(morning.Add(time.Duration(second)*time.Second), mistake)
	}
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 3 {
		t.Fatalf("got %q, want a line a minute", lines)
	}
	for _, want := range []string{"level=WARN", "work=summarize", "status=404", "remedy=\"correct the path\""} {
		if !strings.Contains(lines[0], want) {
			t.Errorf("got %s, want %s", lines[0], want)
		}
	}
}

func TestFlowObeysRetryAfter(t *testing.T) {
	t.Parallel()
	f := pacedFlow(0)
	f.try(t, morning, &work.Again{After: 20 * time.Second})
	if _, got := f.tryEnter("alice", false, morning.Add(19*time.Second)); got.Reason != WorkPaused || !got.RetryAt.Equal(morning.Add(20*time.Second)) {
		t.Errorf("got %+v, want it paused", got)
	}
	f.try(t, morning.Add(20*time.Second), &work.Again{After: time.Hour})
	f.try(t, morning.Add(20*time.Second+longestPause), nil)
}

// The work may go on as soon as it stood still, and new jobs would then pass jobs whose times
// are far ahead.
func TestFlowPostponesNoFartherThanItsJobsHaveWaited(t *testing.T) {
	t.Parallel()
	f := New(&work.Offer{Work: work.Work{Limit: 2}}, NewRoom(1000, 0, false), false)
	f.tryEnter("alice", true, morning)
	f.tryEnter("alice", true, morning)
	for stood := time.Duration(0); stood < 10*time.Second; stood += 10 * time.Millisecond {
		_, got := f.tryEnter("alice", true, morning.Add(stood))
		if ahead := got.RetryAt.Sub(morning.Add(stood)); got.Reason != KindLimit || ahead > max(time.Second, stood)+time.Second {
			t.Fatalf("after %v: got %+v, %v ahead, want it no farther ahead than so long, or a second", stood, got, ahead)
		}
	}
}

func TestFlowLimitsAttempts(t *testing.T) {
	t.Parallel()
	f := New(&work.Offer{Work: work.Work{Limit: 2}}, NewRoom(1000, 0, false), false)
	first, _ := f.tryEnter("alice", true, morning)
	if _, got := f.tryEnter("alice", true, morning); !got.OK() {
		t.Fatalf("the second: got %+v, want it to begin", got)
	}
	last := morning
	for range 100 { // come back one after another, as slots get free, or to ask
		_, got := f.tryEnter("alice", true, morning)
		if got.Reason != KindLimit || got.RetryAt.Before(last) || got.RetryAt.Sub(last) > assumedWork {
			t.Fatalf("beyond the limit: got %+v after %v", got, last)
		}
		last = got.RetryAt
	}
	for range 2 * failuresToTrip { // such work isn't paced
		f.leave(first, came(morning, &work.Again{}), morning)
		var got any
		if first, got = f.tryEnter("alice", true, morning.Add(time.Hour)); first.client == "" {
			t.Fatalf("after an attempt ended: got %+v, want it to begin", got)
		}
	}
}

func TestFlowOfADeadWorkIsAskedSeldom(t *testing.T) {
	t.Parallel()
	f, now := pacedFlow(0), morning
	for range failuresToTrip {
		f.try(t, now, &work.Again{})
	}
	latest := now
	for range 10_000 {
		_, got := f.tryEnter("alice", true, now)
		if got.RetryAt.Before(now.Add(firstClosing)) {
			t.Fatalf("got %+v, want it not to come before the probe", got)
		}
		latest = got.RetryAt
	}
	if took := latest.Sub(now); took < 4*time.Second || took > 10*time.Second {
		t.Errorf("10,000 come back over %v, want some seconds: slow start, then 4,000 a second", took)
	}
}

// job is jobOf alice.
func (f *Flow) job(t *testing.T, takes time.Duration) limit.Decision {
	return f.jobOf(t, "alice", takes)
}

// jobOf is a job's way through a flow by the fake clock: it runs for so long, or is postponed.
func (f *Flow) jobOf(t *testing.T, client string, takes time.Duration) limit.Decision {
	leave, decision := f.Await(t.Context(), client)
	if leave == nil {
		return decision
	}
	defer leave()
	began := time.Now()
	end, decision := f.Enter(t.Context(), client)
	if decision.OK() {
		time.Sleep(takes)
		end(work.Outcome{StartedAt: began, FinishedAt: time.Now()})
	}
	return decision
}

func TestFlowJobsWaitWhereTheirTurnIsNear(t *testing.T) {
	t.Parallel()

	t.Run("SoABacklogIsDoneAtTheLimit", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			const slots, takes, batch, batches = 64, 20 * time.Millisecond, 300, 20
			f := pacedFlow(slots)
			f.job(t, takes)
			start := time.Now()
			var jobs sync.WaitGroup
			var postponed atomic.Int64
			for range batches { // 3,000 a second, as River hands them out; the slots can do 3,200
				for range batch {
					jobs.Go(func() {
						for decision := f.job(t, takes); !decision.OK(); decision = f.job(t, takes) {
							postponed.Add(1)
							time.Sleep(time.Until(decision.RetryAt))
						}
					})
				}
				time.Sleep(100 * time.Millisecond)
			}
			jobs.Wait()
			if n, took := postponed.Load(), time.Since(start); n > 0 || took > batches*100*time.Millisecond {
				t.Errorf("%d of %d were postponed, and all took %v, want none and %v", n, batch*batches, took, batches*100*time.Millisecond)
			}
		})
	})

	for name, test := range map[string]struct{ before, since time.Duration }{
		"NotOnSlowWork":      {10 * time.Second, 0},
		"NotOnWorkThatHangs": {time.Millisecond, jobPatience + 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				f := pacedFlow(2)
				f.job(t, test.before)
				var running sync.WaitGroup
				defer running.Wait()
				for range 2 {
					running.Go(func() { f.job(t, time.Hour) })
				}
				time.Sleep(test.since)
				bubble.Wait()
				came := time.Now()
				for range 10 {
					if got := f.job(t, 0); got.Reason != KindLimit || !got.RetryAt.After(came) || !time.Now().Equal(came) {
						t.Fatalf("got %+v after %v, want it postponed at once", got, time.Since(came))
					}
				}
			})
		})
	}

	t.Run("HalfOfTheWorkersAtMost", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			f := New(&work.Offer{Work: work.Work{Paced: true, Limit: 2}}, NewRoom(20, 0, false), false)
			f.job(t, time.Millisecond)
			var jobs sync.WaitGroup
			defer jobs.Wait()
			var postponed atomic.Int64
			for range 20 {
				jobs.Go(func() {
					if got := f.job(t, time.Minute); got.Reason == KindLimit {
						postponed.Add(1)
					}
				})
			}
			bubble.Wait()
			if got := postponed.Load(); got != 8 {
				t.Errorf("%d of 20 were postponed at once, want 8: 2 run, and 10 wait", got)
			}
			time.Sleep(longestTurn)
			bubble.Wait()
			if got := postponed.Load(); got != 18 {
				t.Errorf("%d of 20 were postponed in the end, want 18", got)
			}
		})
	})
}

// One client holds its share of the slots by runs of 15 s, with hundreds more waiting. The
// short runs of another client, which come in bursts, go through the rest of the slots.
func TestFlowShortRunsDoNotWaitForLongRunsOfAnotherClient(t *testing.T) {
	t.Parallel()
	const slots, long, short, burst, soon = 10, 15 * time.Second, 5 * time.Millisecond, 8, time.Second
	hold := func(t *testing.T, f *Flow, hundreds int) {
		ctx, stop := context.WithCancel(t.Context())
		var holding sync.WaitGroup
		t.Cleanup(func() { stop(); holding.Wait() })
		for range hundreds {
			holding.Go(func() {
				for ctx.Err() == nil {
					if got := f.jobOf(t, "hostile", long); !got.OK() {
						time.Sleep(time.Until(got.RetryAt))
					}
				}
			})
		}
		time.Sleep(2 * long) // by now it is known how long they take
	}

	t.Run("Jobs", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			f := New(&work.Offer{Work: work.Work{Paced: true, Limit: slots}}, NewRoom(100, 0, true), true)
			hold(t, f, 300)
			for range 50 {
				var jobs sync.WaitGroup
				for range burst {
					jobs.Go(func() {
						came, postponed := time.Now(), 0
						for got := f.jobOf(t, "honest", short); !got.OK(); got = f.jobOf(t, "honest", short) {
							postponed++
							time.Sleep(time.Until(got.RetryAt))
						}
						if took := time.Since(came); took > soon || postponed > 2 {
							t.Errorf("done after %v, postponed %d times, want within %v", took, postponed, soon)
						}
					})
				}
				jobs.Wait()
				time.Sleep(200 * time.Millisecond)
			}
		})
	})

	t.Run("SyncRequests", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			f := New(&work.Offer{Work: work.Work{Paced: true, Limit: slots}}, NewRoom(100, 0, true), true)
			hold(t, f, 300)
			for range 50 {
				for range burst { // they wait, and are refused in the end
					f.sync(t, t.Context(), "hostile", long)
				}
				var fates []<-chan syncCall
				for range burst {
					fates = append(fates, f.sync(t, t.Context(), "honest", short))
				}
				for _, fate := range fates {
					if got := <-fate; !got.OK() || got.waited > soon {
						t.Errorf("got %+v, want it to run within %v", got, soon)
					}
				}
				time.Sleep(200 * time.Millisecond)
			}
		})
	})
}
