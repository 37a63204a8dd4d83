package flow

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"ringback/jobs/limit"
	"ringback/work"
)

// What a client's runs show holds up no other client. While nobody is answered, one failure
// is enough to hold up another client, too.
func TestFlowHoldsUpTheClientThatSawIt(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		reason limit.Reason
		show   func(f *Flow, client string)
	}{
		"Failures": {WorkDown, func(f *Flow, client string) {
			for range failuresToTrip {
				if p, got := f.tryEnter(client, false, morning); got.OK() {
					f.leave(p, came(morning, &work.Again{}), morning)
				}
			}
		}},
		"RetryAfter": {WorkPaused, func(f *Flow, client string) {
			p, _ := f.tryEnter(client, false, morning)
			f.leave(p, came(morning, &work.Again{After: time.Second}), morning)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := pacedFlow(0)
			reasons := func(what string, want ...limit.Reason) {
				t.Helper()
				for i, client := range []string{"mallory", "acme", "other"} {
					if got := f.closed(client, morning); got.Reason != want[i] {
						t.Errorf("%s, %s: got %+v, want %q", what, client, got, want[i])
					}
				}
			}
			test.show(f, "mallory")
			reasons("seen by one", test.reason, "", "")
			test.show(f, "acme")
			reasons("seen by two", test.reason, test.reason, "")
		})
	}

	t.Run("SlowStart", func(t *testing.T) {
		t.Parallel()
		f := pacedFlow(0)
		for range failuresToTrip {
			f.try(t, morning, &work.Again{}) // alice's
		}
		later := morning.Add(firstClosing)
		f.try(t, later, nil)
		for range 100 {
			p, got := f.tryEnter("bob", false, later)
			if !got.OK() {
				t.Fatalf("got %+v, want bob not slowed by what alice saw", got)
			}
			f.leave(p, came(later, nil), later)
		}
		var slowed bool
		for range 100 {
			if _, got := f.tryEnter("alice", false, later); got.Reason == WorkPace {
				slowed = true
			}
		}
		if !slowed {
			t.Error("alice isn't slowed")
		}
	})

	t.Run("SlowStartOfAllThatComeBack", func(t *testing.T) {
		t.Parallel()
		f := pacedFlow(0)
		const clients = 50
		each := func(now time.Time, again *work.Again) (began int) {
			for client := range clients {
				if p, got := f.tryEnter(fmt.Sprint(client), false, now); got.OK() {
					began++
					f.leave(p, came(now, again), now)
				}
			}
			return began
		}
		each(morning, &work.Again{})
		for range failuresToTrip {
			each(morning, &work.Again{})
		}
		back, began := morning.Add(firstClosing), 0
		for step := range 100 {
			began += each(back.Add(time.Duration(step)*10*time.Millisecond), nil)
		}
		if began > clients+40 { // a probe of each, and the rate of 30 in the first second
			t.Errorf("%d runs began in the first second, want the rate shared", began)
		}
	})
}

// Two clients know inputs by which the service fails, and send them whenever they may. A
// third client's run failed once. Its other runs, and those of a fourth, go on.
func TestFlowClientsThatFailDoNotHoldUpOthers(t *testing.T) {
	t.Parallel()
	f, now := pacedFlow(0), morning
	run := func(client string, again *work.Again) limit.Decision {
		p, decision := f.tryEnter(client, false, now)
		if decision.OK() {
			f.leave(p, came(now, again), now)
		}
		return decision
	}
	const step, seconds = 100 * time.Millisecond, 120
	failed, refused := map[string]int{}, 0
	for i := range int(seconds * time.Second / step) {
		now = morning.Add(time.Duration(i) * step)
		for range 10 {
			for _, client := range []string{"mallory", "mallet"} {
				if run(client, &work.Again{}).OK() {
					failed[client]++
				}
			}
		}
		again := &work.Again{}
		if i > 0 {
			again = nil
		}
		if !run("acme", again).OK() {
			refused++
		}
		if got := run("other", nil); !got.OK() {
			t.Fatalf("after %v: got %+v, want no client held up by failures of others", now.Sub(morning), got)
		}
	}
	if most := int(firstClosing / step); refused > most {
		t.Errorf("a client whose run failed once was refused %d times, want at most %d, for a second", refused, most)
	}
	for client, failures := range failed {
		if failures > failuresToTrip+8 {
			t.Errorf("%s failed %d times in %d s, want a probe after 1, 2, 4, … 30 s", client, failures, seconds)
		}
	}
}

// A hundred clients call a service that is down, as often as they may.
func TestFlowSparesAServiceThatIsDown(t *testing.T) {
	t.Parallel()
	const clients, step = 100, 50 * time.Millisecond
	for name, test := range map[string]struct {
		cause           error
		first, perProbe int // attempts
	}{
		"WithoutAConnectionForAll":       {&work.UnreachedError{Err: errors.New("refused")}, failuresToTrip, 1},
		"WithoutAnAnswerForEachThatSees": {errors.New("a timeout"), failuresToTrip + clients - 1, clients},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, attempts := pacedFlow(0), 0
			for i := range int(91 * time.Second / step) {
				now := morning.Add(time.Duration(i) * step)
				for client := range clients {
					if p, got := f.tryEnter(fmt.Sprint(client), false, now); got.OK() {
						attempts++
						outcome := came(now, &work.Again{})
						outcome.Cause = test.cause
						f.leave(p, outcome, now)
					}
				}
			}
			const probes = 7 // after 1, 3, 7, 15, 31, 61 and 91 s at the latest
			if most := test.first + probes*test.perProbe; attempts > most || attempts < most-2*test.perProbe {
				t.Errorf("got %d attempts, want up to %d", attempts, most)
			}
		})
	}
}

// A service is there again, and the first probe is a run that hangs by its input.
func TestFlowProbeThatHangsHoldsUpNobodyForLong(t *testing.T) {
	t.Parallel()
	f, now := pacedFlow(0), morning
	for range failuresToTrip {
		p, _ := f.tryEnter("mallory", false, now)
		outcome := came(now, &work.Again{})
		outcome.Cause = fmt.Errorf("a: %w", &work.UnreachedError{Err: errors.New("refused")})
		f.leave(p, outcome, now)
	}
	if got := f.closed("acme", now); got.Reason != WorkDown {
		t.Fatalf("got %+v, want it down for all", got)
	}
	now = now.Add(firstClosing)
	if _, got := f.tryEnter("mallory", false, now); !got.OK() {
		t.Fatalf("got %+v, want a probe", got)
	}
	now = now.Add(longestConnect)
	if got := f.closed("acme", now); got.Reason != WorkDown {
		t.Errorf("while the probe may connect: got %+v, want it down", got)
	}
	now = now.Add(time.Nanosecond)
	if p, got := f.tryEnter("acme", false, now); !got.OK() {
		t.Errorf("once the probe has a connection: got %+v, want it to begin", got)
	} else {
		f.leave(p, came(now, nil), now)
	}
	var got limit.Decision
	for range 10 {
		if _, got = f.tryEnter("acme", false, now); !got.OK() {
			break
		}
	}
	if got.Reason != WorkPace {
		t.Errorf("then: got %+v, want slow start", got)
	}
}

// The remedy of a service that fails follows from how it fails.
func TestRemediesOfServicesThatAreDown(t *testing.T) {
	t.Parallel()
	for want, cause := range map[string]error{
		"start the service":                &work.UnreachedError{Err: errors.New("connection refused")},
		"raise WORK_TIMEOUT":               work.Retry(&work.Error{Code: work.CodeDeadline}, 0),
		"make sure that its URL names the": work.Retry(&work.Error{Code: "upstream_unreachable"}, 0),
	} {
		if got := remedyOfDown(cause); !strings.Contains(got, want) {
			t.Errorf("%v: got %q, want %q in it", cause, got, want)
		}
	}
}

func TestWorkThatIsDownIsToldAgain(t *testing.T) {
	t.Parallel()
	f := New(&work.Offer{Name: "away", Work: work.Work{Paced: true}}, NewRoom(10, 0, false), false)
	told := 0
	f.tell = func(down bool, _ error) {
		if down {
			told++
		}
	}
	start := time.Unix(1_000_000, 0)
	for second := range 301 {
		f.fail(&f.reach, errors.New("refused"), start.Add(time.Duration(second)*time.Second))
	}
	if told != 5 {
		t.Errorf("got %d lines in five minutes, want one a minute", told)
	}
}
