package pacing

import (
	"fmt"
	"testing"
	"time"

	"ringback/db"
)

func TestOperatorsWord(t *testing.T) {
	t.Parallel()
	s := newSimulation(500)
	rule := func(decided db.Ruling) { s.rulings[decided.Target] = ruling{decided} }
	rule(db.Ruling{Target: RulingTarget("allowed.example.com", ""), Effect: db.ReceiverAllowed, Rate: 50, Concurrency: 3})
	rule(db.Ruling{Target: RulingTarget("free.example.com", "8443"), Effect: db.ReceiverAllowed})
	rule(db.Ruling{Target: RulingTarget("denied.example.com", ""), Effect: db.ReceiverDenied})

	t.Run("AllowsARateAndSoManyAtATime", func(t *testing.T) {
		allowed := &simReceiver{name: "https://allowed.example.com:443", address: here, answer: takes(100 * time.Millisecond)}
		for range 200 {
			s.send("acme", allowed, 0)
		}
		s.run(20 * second)
		if got := countWithin(allowed.sent, 0, 3*second); allowed.mostEver != 3 || got < 60 || mostWithin(allowed.sent, second) > 60 {
			t.Errorf("got %d at a time and %d in three seconds, want 3 from the first second on", allowed.mostEver, got)
		}
	})

	t.Run("AllowsWithoutNumbersTheShareOfTheWorkers", func(t *testing.T) {
		free := &simReceiver{name: "http://free.example.com:8443", address: here, answer: takes(second)}
		for range 200 {
			s.send("acme", free, 20*second)
		}
		s.run(21 * second)
		if free.mostEver != 125 {
			t.Errorf("got %d at a time, want a quarter of 500 at once", free.mostEver)
		}
	})

	t.Run("LeavesNoSlotIdleWhereTwoNeedThemAll", func(t *testing.T) {
		s, allowed := newSimulation(500), newOrdinary(100*time.Millisecond)
		target := RulingTarget("hooks.example.com", "")
		s.rulings[target] = ruling{db.Ruling{Target: target, Effect: db.ReceiverAllowed, Concurrency: 3}}
		for n := range 2 {
			s.sendEvery(fmt.Sprintf("client%d", n), allowed, 30, time.Duration(n)*time.Millisecond, 60*second)
		}
		s.run(60 * second)
		if got := countWithin(allowed.sent, 10*second, 50*second); got < 50*25 || allowed.mostEver > 3 {
			t.Errorf("got %d a second, %d at a time, want most of the 30 that 3 at a time allow", got/50, allowed.mostEver)
		}
	})

	t.Run("Denies", func(t *testing.T) {
		r := s.meets("https://denied.example.com:8443", db.Receiver{})
		if pass, decision := s.decide(r, Callback{Client: "acme"}, s.now); pass != nil || decision.Reason != Denied {
			t.Errorf("got %+v, want it denied", decision)
		}
		if !s.IsDenied("http://denied.example.com/x") || s.IsDenied("https://other.example.com/") {
			t.Error("IsDenied doesn't say so, or says it of another")
		}
	})
}

func TestRulingsOnAPortAndItsHost(t *testing.T) {
	t.Parallel()
	said := func(effect string, after time.Duration) ruling {
		return ruling{db.Ruling{Effect: effect, At: morning.Add(after)}}
	}
	allowed, denied, forgotten := said(db.ReceiverAllowed, 0), said(db.ReceiverDenied, 0), said(db.ReceiverForgotten, second)
	for name, test := range map[string]struct{ port, host, want ruling }{
		"a port alone":                    {allowed, ruling{}, allowed},
		"a host alone":                    {ruling{}, denied, denied},
		"a port before its host":          {allowed, denied, allowed},
		"a forgotten port of a denied":    {forgotten, denied, denied},
		"a forgotten port of an allowed":  {forgotten, allowed, allowed},
		"a port of a forgotten host":      {allowed, forgotten, allowed},
		"both forgotten, the host later":  {said(db.ReceiverForgotten, 0), forgotten, forgotten},
		"both forgotten, the port later":  {forgotten, said(db.ReceiverForgotten, 0), forgotten},
		"a forgotten port without a host": {forgotten, ruling{}, forgotten},
	} {
		rulings := map[string]ruling{}
		for target, said := range map[string]ruling{RulingTarget("a.example.com", "443"): test.port, RulingTarget("a.example.com", ""): test.host} {
			if said.Effect != "" {
				rulings[target] = said
			}
		}
		if got := rulingOf(rulings, "https://a.example.com:443"); got != test.want {
			t.Errorf("%s: got %+v, want %+v", name, got, test.want)
		}
	}
}
