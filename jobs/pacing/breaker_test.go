package pacing

import (
	"math"
	"testing"
	"time"

	"ringback/db"
	"ringback/jobs/webhook"
)

func TestBreaker(t *testing.T) {
	t.Parallel()
	failed := func(b breaker, times int, now time.Time) breaker {
		for range times {
			b = b.afterFailure(false, now, now)
		}
		return b
	}

	t.Run("OpensAtTheTenthFailureInARow", func(t *testing.T) {
		t.Parallel()
		nine := failed(breaker{}, 9, morning)
		if nine.until.After(morning) || nine.trips != 0 {
			t.Errorf("after 9: got %+v, want it closed", nine)
		}
		if got := nine.afterFailure(false, morning, morning); !got.until.Equal(morning.Add(30 * time.Second)) {
			t.Errorf("after 10: got %+v, want it open for 30 s", got)
		}
	})

	t.Run("DoublesWithEachProbeThatFails", func(t *testing.T) {
		t.Parallel()
		b, now := failed(breaker{}, 10, morning), morning
		for _, want := range []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 15 * time.Minute, 15 * time.Minute} {
			if got := b.until.Sub(now); got != want {
				t.Errorf("got it open for %v, want %v", got, want)
			}
			now = b.until
			if !b.isHalfOpen(now) || b.isHalfOpen(now.Add(-1)) {
				t.Errorf("at its end: want it half open, not before")
			}
			b = b.afterFailure(false, now, now)
		}
		if got := failed(b, 1000, b.until); got.until.Sub(b.until) != longestClosing {
			t.Errorf("after a thousand more: got %+v", got)
		}
	})

	t.Run("WaitsThreeSecondsWhereTheReceiverAnswers", func(t *testing.T) {
		t.Parallel()
		b := breaker{}
		for range 50 { // called too fast, it says so many times within a moment
			b = b.afterFailure(true, morning, morning)
		}
		if b.trips != 0 {
			t.Errorf("got %+v, want it closed", b)
		}
		if b = b.afterFailure(true, morning, morning.Add(overloadLasts)); b.trips != 1 {
			t.Errorf("got %+v, want it open", b)
		}
	})

	t.Run("IsNotOpenedFurtherByWhatWasUnderWay", func(t *testing.T) {
		t.Parallel()
		got := failed(failed(breaker{}, 10, morning), 50, morning.Add(10*time.Second))
		if got.trips != 1 || !got.until.Equal(morning.Add(30*time.Second)) {
			t.Errorf("got %+v, want it open for the first 30 s", got)
		}
	})
}

func TestBreakerForAll(t *testing.T) {
	t.Parallel()
	type seen struct {
		client string
		kind   kind
		times  int
	}
	for name, test := range map[string]struct {
		seen []seen
		want bool
	}{
		"StaysClosedByFailuresOfOneClient":           {[]seen{{"mallory", failing, 1000}}, false},
		"OpensByWhatTwoClientsSaw":                   {[]seen{{"mallory", failing, 5}, {"acme", failing, 5}}, true},
		"StaysClosedByOneFailureBesideManyOfAnother": {[]seen{{"mallory", failing, 1000}, {"acme", failing, 1}, {"mallory", failing, 1000}}, false},
		"OpensByOneClientsFailuresBeforeHTTP":        {[]seen{{"mallory", unreachable, 10}}, true},
		"StaysClosedByOneClientsWaitsForAnswers":     {[]seen{{"mallory", silent, 1000}}, false},
		"StaysClosedWhereSomethingWasTakenInBetween": {[]seen{{"mallory", unreachable, 9}, {"acme", good, 1}, {"mallory", unreachable, 9}}, false},
		"StaysClosedByWhatIsRefused":                 {[]seen{{"mallory", refused, 100}, {"acme", refused, 100}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, now := newReceiver("https://a:443", morning), morning
			for _, seen := range test.seen {
				for range seen.times {
					now = now.Add(time.Second)
					r.learnBreakers(r.party(seen.client, now), seen.kind, now)
				}
			}
			if got := r.breaker.trips > 0; got != test.want {
				t.Errorf("got %+v, want it open: %v", r.breaker, test.want)
			}
		})
	}

	t.Run("IsNotOpenedAgainByTheProbesOfOneClient", func(t *testing.T) {
		t.Parallel()
		r := newReceiver("https://a:443", morning)
		for n := range 12 {
			at := morning.Add(time.Duration(n) * time.Second)
			r.learnBreakers(r.party([]string{"acme", "mallory"}[n%2], at), failing, at)
		}
		until := r.breaker.until
		for n := range 20 {
			at := until.Add(time.Duration(n) * time.Second)
			r.learnBreakers(r.party("mallory", at), failing, at)
		}
		if r.breaker.trips != 1 {
			t.Errorf("got %+v, want it to wait for another client's probe", r.breaker)
		}
		r.learnBreakers(r.party("acme", until), good, until)
		if r.breaker != (breaker{}) || r.pace.rate != startRate {
			t.Errorf("got %+v, want it closed by a probe that succeeds, and begun anew", r.breaker)
		}
	})
}

func TestKindOf(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		outcome webhook.Outcome
		status  int
		want    kind
	}{
		{webhook.Delivered, 200, good},
		{webhook.Gone, 410, neutral},
		{webhook.Throttled, 503, throttled},
		{webhook.HTTPStatus, 404, refused},
		{webhook.HTTPStatus, 499, refused},
		{webhook.HTTPStatus, 500, failing},
		{webhook.HTTPStatus, 599, failing},
		{webhook.Timeout, 0, unreachable},
		{webhook.TLSFailed, 0, unreachable},
		{webhook.ConnectionFailed, 0, unreachable},
	} {
		if got := kindOf(webhook.Attempt{Outcome: test.outcome, Status: test.status}); got != test.want {
			t.Errorf("%s %d: got %v, want %v", test.outcome, test.status, got, test.want)
		}
	}
	for outcome, want := range map[webhook.Outcome]kind{webhook.Timeout: silent, webhook.ConnectionFailed: failing, webhook.TLSFailed: failing} {
		if got := kindOf(webhook.Attempt{Outcome: outcome, Conn: "192.0.2.9:4000"}); got != want {
			t.Errorf("%s on its connection: got %v, want %v", outcome, got, want)
		}
	}
}

// Somebody wrote other numbers into a receiver's row by hand.
func TestBreakerAfterTripsWrittenByHand(t *testing.T) {
	t.Parallel()
	for _, trips := range []int{math.MinInt, -1, math.MaxInt} {
		r := newReceiver("http://a.example:80", morning)
		r.recall(db.Receiver{Closings: encodeClosings(map[string]closing{"acme": {Trips: trips}})}, morning)
		b := r.party("acme", morning).breaker
		for range failuresToTrip {
			b = b.afterFailure(false, morning, morning)
		}
		if !b.isOpen(morning) || b.trips < 1 {
			t.Errorf("%d: got %+v, want it open", trips, b)
		}
	}
}

// A ruling of the future hides no other.
func TestLatestRuling(t *testing.T) {
	t.Parallel()
	p := newTestPacing(Config{}, &outsideStub{})
	p.takeRulings([]db.Ruling{{Target: "*://a:80", At: morning}, {Target: "*://b:80", At: morning.AddDate(1000, 0, 0)}})
	if got := p.LatestRuling(morning.Add(time.Hour)); !got.Equal(morning) {
		t.Errorf("got %v, want %v", got, morning)
	}
}
