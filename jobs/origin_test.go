package jobs

import (
	"net/netip"
	"testing"
	"time"

	"ringback/jobs/webhook"
)

const here = "192.0.2.1:443"

func sentTo(address string, outcome webhook.Outcome, status int) webhook.Attempt {
	return webhook.Attempt{StartedAt: morning, EndedAt: morning.Add(time.Millisecond), Outcome: outcome, Status: status, Address: address}
}

func TestOriginEarns(t *testing.T) {
	t.Parallel()
	o := newOrigin("a:443")
	learn := func(times int, outcome webhook.Outcome, status int) {
		for range times {
			o.learn(sentTo(here, outcome, status), morning)
		}
	}
	for _, test := range []struct {
		what    string
		times   int
		outcome webhook.Outcome
		status  int
		want    earned
	}{
		{"nothing yet", 0, "", 0, earned{4, 2}},
		{"one that it takes", 1, webhook.Delivered, 200, earned{5, 3}},
		{"13 more", 13, webhook.Delivered, 204, earned{18, 16}},
		{"very many", 1000, webhook.Delivered, 200, earned{50, 16}},
		{"one that is gone", 1, webhook.Gone, 410, earned{50, 16}},
		{"one that it puts off", 1, webhook.Throttled, 429, earned{25, 8}},
		{"one that it refuses", 1, webhook.HTTPStatus, 404, earned{12.5, 4}},
		{"one without an answer", 1, webhook.Timeout, 0, earned{6.25, 2}},
		{"many failures", 100, webhook.ConnectionFailed, 0, earned{1, 1}},
	} {
		learn(test.times, test.outcome, test.status)
		if o.earned != test.want {
			t.Errorf("after %s: got %+v, want %+v", test.what, o.earned, test.want)
		}
	}
}

func TestOriginLimit(t *testing.T) {
	t.Parallel()
	grant := func(perMinute int) *origin {
		o := newOrigin("a:443")
		o.address = prefixOf(netip.MustParseAddrPort(here).Addr())
		o.consent = consent{}.answered(webhook.Consent{Granted: true, PerMinute: perMinute, Address: o.address.Addr()}, nil, morning)
		return o
	}
	moved := grant(0)
	moved.learn(sentTo("192.0.2.2:443", webhook.Delivered, 200), morning)
	probed := grant(0)
	probed.breaker = breaker{openings: 1, until: morning}
	for _, test := range []struct {
		name   string
		origin *origin
		rate   float64
		most   int
	}{
		{"AStrangerHasWhatItEarned", newOrigin("a:443"), 4, 2},
		{"AGrantWithoutLimitHasTheShare", grant(0), 0, 100},
		{"AGrantIsTheCeiling", grant(6000), 100, 100},
		{"ASmallGrantIsTheCeilingToo", grant(6), 0.1, 100},
		{"AGrantIsWorthNothingElsewhere", moved, 5, 3},
		{"AHalfOpenBreakerAllowsOneProbe", probed, 0, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := test.origin.limit(morning, 100); got.rate != test.rate || got.most != test.most {
				t.Errorf("got %+v, want %v/s and %d at a time", got, test.rate, test.most)
			}
		})
	}
}

func TestOriginIsRemembered(t *testing.T) {
	t.Parallel()
	prefix := netip.MustParsePrefix("192.0.2.1/32")
	granted := newOrigin("a:443")
	granted.consent = consent{}.answered(webhook.Consent{Granted: true, PerMinute: 60, Address: prefix.Addr()}, nil, morning)
	open := newOrigin("b:443")
	for range 11 {
		open.learn(sentTo(here, webhook.Timeout, 0), open.breaker.until)
	}
	paused := newOrigin("c:443")
	paused.pausedUntil = morning.Add(time.Hour)
	for _, before := range []*origin{granted, open, paused} {
		after := newOrigin(before.name)
		after.recall(before.row(morning))
		if after.breaker.openings != before.breaker.openings || !after.opens().Equal(before.opens()) {
			t.Errorf("%s: got %+v open at %v, want %+v at %v", before.name, after.breaker, after.opens(), before.breaker, before.opens())
		}
		if after.consent.covers(prefix, morning) != before.consent.covers(prefix, morning) || after.consent.perMinute != before.consent.perMinute {
			t.Errorf("%s: got consent %+v, want %+v", before.name, after.consent, before.consent)
		}
	}
	if !granted.consent.covers(prefix, morning) || open.breaker.openings != 2 {
		t.Errorf("got %+v and %+v, want a grant and an open breaker to remember", granted.consent, open.breaker)
	}
}

func TestIsHealthy(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		outcome webhook.Outcome
		status  int
		want    bool
	}{
		{webhook.Delivered, 200, true}, {webhook.Gone, 410, true}, {webhook.Throttled, 503, true},
		{webhook.HTTPStatus, 404, true}, {webhook.HTTPStatus, 499, true}, {webhook.HTTPStatus, 500, false}, {webhook.HTTPStatus, 599, false},
		{webhook.Timeout, 0, false}, {webhook.TLSFailed, 0, false}, {webhook.ConnectionFailed, 0, false},
	} {
		if got := isHealthy(webhook.Attempt{Outcome: test.outcome, Status: test.status}); got != test.want {
			t.Errorf("%s %d: got %v, want %v", test.outcome, test.status, got, test.want)
		}
	}
}
