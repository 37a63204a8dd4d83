package jobs

import (
	"slices"
	"testing"
	"time"

	"ringback/work"
)

func pacedFlow(limit int) *flow {
	return newFlow(&work.Offer{Work: work.Work{Paced: true, Limit: limit}}, false)
}

func came(at time.Time, again *work.Again) work.Outcome {
	return work.Outcome{StartedAt: at, FinishedAt: at, Again: again}
}

// try is one attempt that may begin.
func (f *flow) try(t *testing.T, now time.Time, again *work.Again) {
	t.Helper()
	p, decision := f.enter("alice", false, now)
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
	late, _ := f.enter("alice", false, now) // under way all the time
	for range flowFailures - 1 {
		f.try(t, now, failed)
	}
	f.try(t, now, nil) // a success in between
	for range flowFailures {
		f.try(t, now, failed)
	}
	opening := flowFirstOpening
	for range 8 {
		if _, got := f.enter("bob", false, now); got.Reason != WorkDown || !got.RetryAt.Equal(now.Add(opening)) {
			t.Fatalf("open: got %+v, want it down for %v", got, opening)
		}
		now = now.Add(opening)
		probe, got := f.enter("alice", false, now)
		if !got.OK() {
			t.Fatalf("half open: got %+v, want a probe", got)
		}
		if _, got := f.enter("bob", false, now); got.Reason != WorkDown || !f.isDown(now) {
			t.Errorf("while the probe is out: got %+v, want it down", got)
		}
		f.leave(probe, came(now, failed), now)
		opening = min(2*opening, flowLongest)
	}
	f.leave(late, came(now, nil), now)
	if !f.isDown(now) {
		t.Error("a late success of an earlier attempt closes it")
	}
	now = now.Add(opening)
	f.try(t, now, nil)
	if f.isDown(now) {
		t.Error("a probe that succeeds doesn't close it")
	}

	second := 0 // attempts of the first second
	for step := range 1000 {
		at := now.Add(time.Duration(step) * time.Millisecond)
		if p, got := f.enter("alice", false, at); got.OK() {
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
	if !slices.Equal(told, []bool{true, false}) {
		t.Errorf("told %v, want once that it is down, and once that it is back", told)
	}
}

func TestFlowObeysRetryAfter(t *testing.T) {
	t.Parallel()
	f := pacedFlow(0)
	f.try(t, morning, &work.Again{After: 20 * time.Second})
	if _, got := f.enter("bob", false, morning.Add(19*time.Second)); got.Reason != WorkPaused || !got.RetryAt.Equal(morning.Add(20*time.Second)) {
		t.Errorf("got %+v, want it paused", got)
	}
	f.try(t, morning.Add(20*time.Second), &work.Again{After: time.Hour})
	f.try(t, morning.Add(20*time.Second+flowPause), nil)
}

func TestFlowLimitsAttempts(t *testing.T) {
	t.Parallel()
	f := newFlow(&work.Offer{Work: work.Work{Limit: 2}}, false)
	first, _ := f.enter("alice", true, morning)
	if _, got := f.enter("alice", true, morning); !got.OK() {
		t.Fatalf("the second: got %+v, want it to begin", got)
	}
	last := morning
	for range 100 { // come back one after another, as slots get free
		_, got := f.enter("alice", true, morning)
		if got.Reason != WorkLimit || !got.RetryAt.After(last) || got.RetryAt.Sub(last) > assumedWork {
			t.Fatalf("beyond the limit: got %+v after %v", got, last)
		}
		last = got.RetryAt
	}
	for range 2 * flowFailures { // such work isn't paced
		f.leave(first, came(morning, &work.Again{}), morning)
		var got any
		if first, got = f.enter("alice", true, morning.Add(time.Hour)); first.client == "" {
			t.Fatalf("after an attempt ended: got %+v, want it to begin", got)
		}
	}
}

func TestFlowOfADeadWorkIsAskedSeldom(t *testing.T) {
	t.Parallel()
	f, now := pacedFlow(0), morning
	for range flowFailures {
		f.try(t, now, &work.Again{})
	}
	latest := now
	for range 10_000 {
		_, got := f.enter("alice", true, now)
		if got.RetryAt.Before(now.Add(flowFirstOpening)) {
			t.Fatalf("got %+v, want it not to come before the probe", got)
		}
		latest = got.RetryAt
	}
	if took := latest.Sub(now); took < 4*time.Second || took > 10*time.Second {
		t.Errorf("10,000 come back over %v, want some seconds: slow start, then 4,000 a second", took)
	}
}
