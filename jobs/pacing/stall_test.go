package pacing

import (
	"slices"
	"testing"
	"time"

	"ringback/db"
	"ringback/internal/bubble"
	"ringback/jobs/webhook"
)

// A receiver, or the machine, that stood still for a while leaves callbacks that wait. They
// leave soon after it goes on, and new callbacks overtake them for no longer.
func TestCallbacksThatWaitedThroughAStallLeaveSoon(t *testing.T) {
	t.Parallel()
	const from = 20 * second
	for _, test := range []struct {
		name  string
		rate  float64
		stall time.Duration
	}{
		{"OfASecond", 300, second},
		{"OfFourSeconds", 300, 4 * second},
		{"OfFourSecondsAtALowRate", 30, 4 * second},
		{"OfEightSecondsAtAHighRate", 600, 8 * second},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			until := from + test.stall
			s, o := newSimulation(1000), newOrdinary(0)
			o.answer = func(call simCall) (webhook.Outcome, int, time.Duration) {
				if call.at >= from && call.at < until {
					return webhook.Delivered, 204, until - call.at
				}
				return webhook.Delivered, 204, time.Millisecond
			}
			s.sendEvery("acme", o, test.rate, 0, 2*until)
			s.run(4 * until)
			left, runs := lastOf(t, o, until, func(job *simJob) time.Duration { return job.first })
			if most := test.stall + second; left > until+most || runs > 15 {
				t.Errorf("the last callback of the stall left %v after it, in %d runs, want %v at most, in few runs", left-until, runs, most)
			}
		})
	}
}

// A receiver that failed is closed until a probe is answered. Callbacks that waited leave within
// seconds of that answer, and new callbacks hardly wait.
func TestCallbacksThatWaitedForAClosedReceiverLeaveSoon(t *testing.T) {
	t.Parallel()
	const from, until = 20 * second, 30 * second
	for _, test := range []struct {
		name    string
		rate    float64
		outcome webhook.Outcome
	}{
		{"AFewThatGot503", 2, webhook.HTTPStatus},
		{"SomeThatGot503", 6, webhook.HTTPStatus},
		{"ManyThatGot503", 20, webhook.HTTPStatus},
		{"AFewWithoutAConnection", 2, webhook.TLSFailed},
		{"ManyWithoutAConnection", 20, webhook.TLSFailed},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s, o := newSimulation(1000), newOrdinary(0)
			o.answer = func(call simCall) (webhook.Outcome, int, time.Duration) {
				if call.at >= from && call.at < until {
					return test.outcome, 503, 5 * time.Millisecond
				}
				return webhook.Delivered, 204, 20 * time.Millisecond
			}
			s.sendEvery("acme", o, test.rate, 0, until)
			s.sendEvery("acme", o, test.rate, 4*until, 5*until)
			s.run(10 * until)
			opened := o.sent[slices.IndexFunc(o.sent, func(at time.Duration) bool { return at >= until })]
			last, runs := lastOf(t, o, until, func(job *simJob) time.Duration { return job.delivered })
			if last > opened+6*second || runs > 10 {
				t.Errorf("the last callback left %v after the probe, in %d runs, want six seconds at most, in few runs", last-opened, runs)
			}
			waits := waitsFrom(until, "acme", o)
			if longest := waits[len(waits)-1]; longest > second {
				t.Errorf("a callback that came later waited for %v, want hardly any", longest)
			}
		})
	}
}

// The operator allows a receiver fewer callbacks than wait for it. All of them come back at once,
// to see whether they may leave.
func TestCallbacksThatLineUpAnewLeaveAtTheRuling(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		p := newTestPacing(Config{Workers: 100}, &outsideStub{row: known})
		p.takeRulings([]db.Ruling{{Target: "*://a.example.com:443", Effect: db.ReceiverAllowed, Rate: 2}})
		nextOf := func(cameBack bool) (next time.Duration) {
			next = time.Hour
			for range 30 {
				pass, refused := p.Enter(t.Context(), Callback{Client: "acme", URL: hookURL, CameBack: cameBack})
				if pass != nil {
					p.conclude(pass, webhook.Attempt{Outcome: webhook.Delivered, Status: 204, StartedAt: time.Now(), EndedAt: time.Now()}, time.Now())
				} else {
					next = min(next, time.Until(refused.RetryAt))
				}
			}
			return next
		}
		nextOf(false)
		p.LineUpAnew(hookURL)
		if next := nextOf(true); next > 2*time.Second {
			t.Errorf("the next leaves in %v, want it within two seconds", next)
		}
	})
}

// lastOf is when the last of the callbacks that arrived before a time left or was delivered, as
// waited tells of each, and the most runs of one. Every callback must have come so far.
func lastOf(t *testing.T, o *simReceiver, until time.Duration, waited func(*simJob) time.Duration) (last time.Duration, runs int) {
	t.Helper()
	for _, job := range o.jobs {
		if waited(job) == 0 {
			t.Fatal("a callback never left, or was not delivered")
		}
		if arrived := job.arrived.Sub(morning); arrived < until {
			last, runs = max(last, arrived+waited(job)), max(runs, job.runs)
		}
	}
	return last, runs
}
