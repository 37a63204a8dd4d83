package pacing

import (
	"testing"
	"time"

	"ringback/jobs/limit"
	"ringback/jobs/webhook"
)

// A Retry-After to one client closes a receiver to the others until one of them was
// answered.
func TestHearsay(t *testing.T) {
	t.Parallel()

	// heard is a proven receiver that told mallory to come back in an hour.
	heard := func() (p *Pacing, r *receiver) {
		p = newTestPacing(Config{Workers: 400}, &outsideStub{})
		r = p.add("https://a.example.com:443", morning)
		r.proven, r.together, r.memory.loaded, r.pace.flight = true, true, true, 10
		r.learnPause(r.party("mallory", morning), morning.Add(time.Hour), morning)
		return p, r
	}
	enter := func(p *Pacing, r *receiver, client string, now time.Time) (*Pass, limit.Decision) {
		return p.decide(r, Callback{Client: client, CameBack: true}, now)
	}
	// answer lets acme's probe leave and be answered.
	answer := func(t *testing.T, p *Pacing, r *receiver, k kind, now time.Time) {
		t.Helper()
		pass, decision := enter(p, r, "acme", now)
		if pass == nil {
			t.Fatalf("got %+v, want a probe to leave", decision)
		}
		p.release(pass, verdict{})
		if k.isDown() {
			pass.party.lastDown = now
		}
		r.hearsay.tested(pass, k, now)
	}

	t.Run("ClosesItToThatClient", func(t *testing.T) {
		t.Parallel()
		p, r := heard()
		if _, got := enter(p, r, "mallory", morning.Add(time.Minute)); got.Reason != Paused {
			t.Errorf("got %+v, want it paused", got)
		}
	})

	t.Run("LetsOneProbeOfEachOtherClientLeaveAtATime", func(t *testing.T) {
		t.Parallel()
		p, r := heard()
		probe, _ := enter(p, r, "acme", morning)
		if _, got := enter(p, r, "acme", morning); got.Reason != Closed || got.RetryAt.After(morning.Add(time.Second)) {
			t.Errorf("got %+v, want it to wait for the probe", got)
		}
		p.release(probe, verdict{}) // which was not sent
		for _, client := range []string{"acme", "other"} {
			if pass, got := enter(p, r, client, morning); pass == nil {
				t.Errorf("%s: got %+v, want a probe to leave", client, got)
			}
		}
	})

	t.Run("IsRefutedByAnAnswerForAMinute", func(t *testing.T) {
		t.Parallel()
		for _, k := range []kind{good, neutral, refused} {
			p, r := heard()
			answer(t, p, r, k, morning)
			for again := range 59 {
				now := morning.Add(time.Duration(again) * time.Second)
				r.party("mallory", now).pause = time.Time{}
				r.learnPause(r.party("mallory", now), now.Add(time.Hour), now)
				if r.hearsay.binds("other", now) {
					t.Fatalf("%v: got %+v after %d s, want nobody bound", k, r.hearsay, again)
				}
			}
			later := morning.Add(time.Minute)
			r.learnPause(r.party("mallory", later), later.Add(2*time.Hour), later)
			if !r.hearsay.binds("other", later) {
				t.Errorf("%v: got %+v after a minute, want the others to probe again", k, r.hearsay)
			}
		}
	})

	t.Run("StandsAfterAProbeThatFails", func(t *testing.T) {
		t.Parallel()
		for _, k := range []kind{failing, silent, unreachable} {
			p, r := heard()
			answer(t, p, r, k, morning)
			if _, got := enter(p, r, "acme", morning); got.Reason != Closed {
				t.Errorf("%v: got %+v, want no probe at once", k, got)
			}
			answer(t, p, r, good, morning.Add(probeAgain))
		}
	})

	// Else two clients on paths of their own could close it to all for a day.
	t.Run("StaysHearsayWhereAProbeIsToldSo", func(t *testing.T) {
		t.Parallel()
		p, r := heard()
		answer(t, p, r, throttled, morning)
		r.learnPause(r.party("acme", morning), morning.Add(30*time.Minute), morning)
		if _, got := enter(p, r, "acme", morning); got.Reason != Paused || got.RetryAt.Before(morning.Add(30*time.Minute)) {
			t.Errorf("got %+v, want it paused for the client that was told", got)
		}
		probe, got := enter(p, r, "other", morning)
		if probe == nil {
			t.Fatalf("got %+v, want a probe of a client that has heard nothing itself", got)
		}
		at := morning.Add(time.Second)
		p.conclude(probe, attempted(webhook.HTTPStatus, 500, morning, at), at)
		if _, got := enter(p, r, "other", at); got.Reason != Closed || got.RetryAt.After(at.Add(2*probeAgain)) {
			t.Errorf("got %+v, want another probe soon", got)
		}
	})

	t.Run("IsOverAfterAMinute", func(t *testing.T) {
		t.Parallel()
		p, r := heard()
		r.party("acme", morning).probing = true // for as long
		if pass, got := enter(p, r, "acme", morning.Add(sharedPause)); pass == nil {
			t.Errorf("got %+v, want it to leave", got)
		}
	})

	t.Run("IsHearsayInTheNextProcess", func(t *testing.T) {
		t.Parallel()
		for _, pause := range []time.Duration{time.Second, time.Hour} {
			p, before := heard()
			before.party("mallory", morning).pause, before.hearsay = time.Time{}, hearsay{}
			before.learnPause(before.party("mallory", morning), morning.Add(pause), morning)
			after := newReceiver(before.name, morning)
			after.recall(before.row(morning), morning)
			if !after.hearsay.binds("acme", morning) || after.hearsay.binds("mallory", morning) {
				t.Errorf("%v: got %+v, want hearsay, of mallory", pause, after.hearsay)
			}
			answer(t, p, before, good, morning)
			again := newReceiver(before.name, morning)
			again.recall(before.row(morning), morning)
			if again.hearsay.binds("acme", morning) {
				t.Errorf("%v: got %+v, want it refuted there, too", pause, again.hearsay)
			}
		}
	})

	t.Run("IsRefutedByAProbeThatLeftBeforeItWasRepeated", func(t *testing.T) {
		t.Parallel()
		p, r := heard()
		probe, _ := enter(p, r, "acme", morning)
		answered := morning.Add(time.Second)
		for at := morning; at.Before(answered); at = at.Add(100 * time.Millisecond) {
			r.learnPause(r.party("mallory", at), at.Add(2*time.Hour), at)
		}
		p.conclude(probe, attempted(webhook.Delivered, 204, morning, answered), answered)
		if r.hearsay.binds("acme", answered) {
			t.Errorf("got %+v, want it refuted", r.hearsay)
		}
	})

	t.Run("LetsAStrangerBeProbed", func(t *testing.T) {
		t.Parallel()
		p, r := heard()
		r.proven, r.answeredFrom, r.address = false, nil, prefixes(here)[0]
		answer(t, p, r, refused, morning)
		if r.hearsay.binds("other", morning) {
			t.Errorf("got %+v, want it refuted", r.hearsay)
		}
	})
}

func attempted(outcome webhook.Outcome, status int, started, ended time.Time) webhook.Attempt {
	return webhook.Attempt{StartedAt: started, EndedAt: ended, Outcome: outcome, Status: status, Address: here}
}
