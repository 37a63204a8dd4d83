package pacing

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"ringback/jobs/webhook"
)

func TestConsent(t *testing.T) {
	t.Parallel()
	here, there := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	yes := func(from netip.Addr) webhook.Consent {
		return webhook.Consent{Granted: true, PerMinute: 60, Address: from}
	}
	granted := consent{}.answered(yes(here), nil, morning)

	t.Run("CoversTheAddressThatGaveItForADay", func(t *testing.T) {
		t.Parallel()
		for _, test := range []struct {
			name    string
			address netip.Addr
			after   time.Duration
			want    bool
		}{
			{"at once", here, 0, true},
			{"until its end", here, 24*time.Hour - 1, true},
			{"not at its end", here, 24 * time.Hour, false},
			{"not elsewhere", there, 0, false},
			{"not nowhere", netip.Addr{}, 0, false},
		} {
			if got := granted.covers(prefixOf(test.address), morning.Add(test.after)); got != test.want {
				t.Errorf("%s: got %v, want %v", test.name, got, test.want)
			}
		}
	})

	t.Run("IsAskedForAgainInTime", func(t *testing.T) {
		t.Parallel()
		if at := morning.Add(23 * time.Hour); !granted.due(at) || granted.due(at.Add(-1)) {
			t.Errorf("a grant: got it asked for at %v, want at %v", granted.askAt, at)
		}
		refused := refusal{}.answered(webhook.Consent{Address: here}, nil, morning)
		silent := refusal{}.answered(webhook.Consent{}, errors.New("timeout"), morning)
		if want := (refusal{true, morning.Add(time.Hour)}); refused != want {
			t.Errorf("a refusal: got %+v, want %+v", refused, want)
		}
		if want := (refusal{false, morning.Add(5 * time.Minute)}); silent != want {
			t.Errorf("silence: got %+v, want %+v", silent, want)
		}
		if got := refused.answered(yes(here), nil, morning); got != (refusal{}) {
			t.Errorf("a grant after a refusal: got %+v, want none", got)
		}
		if !(consent{}).due(morning) {
			t.Error("a stranger is not asked")
		}
	})

	t.Run("OutlivesAQuestionThatGotNoAnswer", func(t *testing.T) {
		t.Parallel()
		got := granted.answered(webhook.Consent{}, errors.New("timeout"), morning.Add(23*time.Hour))
		if !got.covers(prefixOf(here), morning.Add(23*time.Hour)) || got.covers(prefixOf(here), morning.Add(24*time.Hour)) {
			t.Errorf("got %+v, want it to last for its day", got)
		}
	})

	t.Run("IsAskedForWhereAnotherAddressAnswers", func(t *testing.T) {
		t.Parallel()
		later := morning.Add(time.Minute)
		moved := granted.seenAt(prefixOf(there), later)
		if !moved.due(later) || moved.covers(prefixOf(there), later) {
			t.Errorf("got %+v, want it asked for", moved)
		}
		both := moved.answered(yes(there), nil, later)
		if !both.covers(prefixOf(here), later) || !both.covers(prefixOf(there), later) || !both.until.Equal(granted.until) {
			t.Errorf("got %+v, want both addresses, and no longer than before", both)
		}
		renewed := both.answered(yes(there), nil, morning.Add(23*time.Hour+time.Minute))
		if renewed.covers(prefixOf(here), later) || !renewed.covers(prefixOf(there), later) {
			t.Errorf("renewed: got %+v, want the address that answered only", renewed)
		}
	})

	t.Run("HoldsSoManyAddresses", func(t *testing.T) {
		t.Parallel()
		many, address := granted, here
		for range 3 * maxPrefixes {
			address = address.Next()
			many = many.answered(yes(address), nil, morning)
		}
		if len(many.prefixes) != maxPrefixes || !many.covers(prefixOf(address), morning) {
			t.Errorf("got %d prefixes, want the latest %d", len(many.prefixes), maxPrefixes)
		}
	})
}

func TestPrefixOf(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "::ffff:192.0.2.1": "192.0.2.1/32", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64",
	} {
		if got := prefixOf(netip.MustParseAddr(address)).String(); got != want {
			t.Errorf("prefixOf(%s): got %s, want %s", address, got, want)
		}
	}
}

func TestReceiverOf(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"https://a.example.com/x": "https://a.example.com:443", "http://a.example.com/": "http://a.example.com:80",
		"https://a.example.com:8443/": "https://a.example.com:8443", "https://[2001:db8::1]/": "https://[2001:db8::1]:443",
	} {
		if got := ReceiverOf(url); got != want {
			t.Errorf("ReceiverOf(%s): got %s, want %s", url, got, want)
		}
	}
}
