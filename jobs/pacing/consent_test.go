package pacing

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"ringback/db"
	"ringback/internal/bubble"
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

func TestConsentIsRequired(t *testing.T) {
	t.Parallel()
	required := Config{Workers: 400, Consent: true}

	t.Run("AndNobodyIsAskedWhereItIsNot", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			stub := &outsideStub{consent: everything, address: hookAddress}
			if left, _ := enterAll(t.Context(), newTestPacing(Config{Workers: 400}, stub), "acme", 5); len(left) != 1 || stub.asked != 0 {
				t.Errorf("got %d left and %d asked, want one and none", len(left), stub.asked)
			}
		})
	})

	t.Run("BeforeTheFirstCallback", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			stub := &outsideStub{consent: everything, address: hookAddress, saved: make(chan []db.Receiver, 1)}
			p := newTestPacing(required, stub)
			left, _ := enterAll(t.Context(), p, "acme", 5)
			if len(left) != 1 || stub.asked != 1 {
				t.Fatalf("got %d left and %d asked, want one each", len(left), stub.asked)
			}
			left[0].Leave(sentTo(here, webhook.Delivered, 204))
			p.SaveAll(t.Context())
			if saved := <-stub.saved; len(saved) != 1 || time.Until(saved[0].GrantedUntil) < 23*time.Hour {
				t.Errorf("saved: got %+v, want the grant", saved)
			}
			if pass, _ := p.Enter(t.Context(), Callback{URL: hookURL}); pass == nil || stub.asked != 1 {
				t.Errorf("the next: got it asked %d times, want it to leave unasked", stub.asked)
			}
		})
	})

	t.Run("AndIsTheCeilingOfTheRate", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			row := known
			row.GrantedUntil, row.PerMinute, row.Prefixes = time.Now().Add(2*time.Hour), 60, row.AnsweredFrom
			p := newTestPacing(required, &outsideStub{row: row})
			pass, _ := p.Enter(t.Context(), Callback{URL: hookURL})
			pass.Leave(sentTo(here, webhook.Delivered, 204))
			if again, decision := p.Enter(t.Context(), Callback{URL: hookURL}); again != nil || time.Until(decision.RetryAt) < 800*time.Millisecond {
				t.Errorf("got %+v, want one a second", decision)
			}
		})
	})

	t.Run("OrNothingIsSentAndItIsAskedAgainInAnHour", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			stub := &outsideStub{address: hookAddress}
			p := newTestPacing(required, stub)
			left, told := enterAll(t.Context(), p, "acme", 5)
			if len(left) != 0 {
				t.Errorf("got %d left, %+v, want none", len(left), told)
			}
			_, decision := p.Enter(t.Context(), Callback{Client: "acme", URL: hookURL, CameBack: true})
			if wait := time.Until(decision.RetryAt); decision.Reason != Consent || wait < 50*time.Minute || wait > 61*time.Minute {
				t.Errorf("got %+v, want it postponed until it is asked again, in an hour", decision)
			}
			time.Sleep(61 * time.Minute)
			stub.consent = everything
			if pass, decision := p.Enter(t.Context(), Callback{Client: "acme", URL: hookURL, CameBack: true}); pass == nil || stub.asked != 2 {
				t.Errorf("an hour later: got %+v, asked %d times, want it to leave", decision, stub.asked)
			}
		})
	})

	// Mallory may know a path that refuses, or doesn't answer, or does so from some time on.
	t.Run("AndWhatIsNoGrantBindsTheClientThatAsked", func(t *testing.T) {
		t.Parallel()
		for name, takes := range map[string]time.Duration{"a refusal": 0, "no answer": time.Hour} {
			bubble.Test(t, func(t *testing.T) {
				stub := &outsideStub{address: hookAddress}
				p := newTestPacing(required, stub)
				refuses := func() { stub.consent, stub.askTakes = webhook.Consent{Address: hookAddress}, takes }
				grants := func() { stub.consent, stub.askTakes = everything, 0 }
				leaves := func(client string) bool {
					pass, _ := p.Enter(t.Context(), Callback{Client: client, URL: hookURL, CameBack: true})
					if pass == nil {
						return false
					}
					pass.Leave(sentTo(here, webhook.Delivered, 204))
					return true
				}
				refuses()
				left := leaves("mallory")
				grants()
				time.Sleep(askPatience + time.Second)
				if left || !leaves("acme") {
					t.Errorf("%s: want no callback of mallory to leave, and acme's", name)
				}
				time.Sleep(23*time.Hour + time.Minute) // the grant is to be renewed
				refuses()
				leaves("mallory")
				grants()
				time.Sleep(2 * time.Minute)
				if !leaves("acme") || leaves("mallory") != (name == "no answer") {
					t.Errorf("%s to mallory at the renewal: want acme's to leave", name)
				}
				time.Sleep(askAfterRefusal)
				if !leaves("mallory") || !leaves("acme") {
					t.Errorf("%s: want both to leave once they are granted", name)
				}
			})
		}
	})

	t.Run("AnewWhereItsNameHasMoved", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			stub := &outsideStub{consent: everything, address: hookAddress}
			p := newTestPacing(required, stub)
			pass, _ := p.Enter(t.Context(), Callback{URL: hookURL})
			pass.Leave(sentTo("192.0.2.99:443", webhook.Delivered, 200))
			stub.consent = webhook.Consent{Address: netip.MustParseAddr("192.0.2.99")}
			time.Sleep(askAfterMove)
			if left, _ := enterAll(t.Context(), p, "acme", 50); len(left) != 0 || stub.asked != 2 {
				t.Errorf("got %d left, asked %d times, want none there", len(left), stub.asked)
			}
		})
	})

	// A name may grant at one address, and have another at the dial.
	t.Run("AtTheVeryAddressThatIsDialled", func(t *testing.T) {
		t.Parallel()
		for name, row := range map[string]db.Receiver{"a stranger": {}, "a proven receiver": known} {
			bubble.Test(t, func(t *testing.T) {
				stub := &outsideStub{consent: everything, address: hookAddress, row: row}
				p := newTestPacing(required, stub)
				pass, _ := p.Enter(t.Context(), Callback{Client: "acme", URL: hookURL})
				moved := netip.MustParseAddr("192.0.2.99")
				if pass == nil || pass.Admit(moved, true) || pass.Admit(moved, false) {
					t.Fatalf("%s: want its callback to leave, and not for an address that has granted nothing", name)
				}
				if got := pass.Refused(); got.Reason != Consent || time.Until(got.RetryAt) > 2*askAfterMove {
					t.Errorf("%s: got %+v, want the other address to be asked soon", name, got)
				}
				if !pass.Admit(hookAddress, false) {
					t.Errorf("%s: want it to leave for the address that granted", name)
				}
				pass.Leave(webhook.Attempt{})
				stub.address, stub.consent = moved, webhook.Consent{Granted: true, Address: moved}
				time.Sleep(askAfterMove)
				pass, told := p.Enter(t.Context(), Callback{Client: "acme", URL: hookURL, CameBack: true})
				if stub.asked != 2 || pass == nil || !pass.Admit(moved, false) || !pass.Admit(hookAddress, false) {
					t.Errorf("%s: got it asked %d times and %+v, want both addresses granted", name, stub.asked, told)
				}
			})
		}
	})

	t.Run("AndAQuestionThatIsNotAnsweredIsGivenUp", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			stub := &outsideStub{consent: everything, askTakes: time.Hour, address: hookAddress}
			start := time.Now()
			pass, decision := newTestPacing(required, stub).Enter(t.Context(), Callback{URL: hookURL})
			if took := time.Since(start); pass != nil || decision.Reason != Consent || took > askPatience+time.Second {
				t.Errorf("got %+v after %v, want it given up after %v", decision, took, askPatience)
			}
		})
	})

	t.Run("ButNotOfAReceiverThatTheOperatorAllowed", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			stub := &outsideStub{rulings: []db.Ruling{{Target: RulingTarget("a.example.com", ""), Effect: db.ReceiverAllowed}}}
			p := newTestPacing(required, stub)
			p.readRulings(t.Context())
			if left, told := enterAll(t.Context(), p, "acme", 50); len(left) != 50 || stub.asked != 0 {
				t.Errorf("got %d left, %+v, %d asked, want all and none", len(left), told, stub.asked)
			}
		})
	})

	t.Run("AndAskedForWithinTheBudgetOfTheAddress", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			stub := &outsideStub{consent: everything, address: hookAddress}
			p := newTestPacing(required, stub)
			left := 0
			for n := range addressRate {
				if pass, _ := p.Enter(t.Context(), Callback{URL: "https://" + string(rune('a'+n)) + ".evil.example/"}); pass != nil && pass.Admit(hookAddress, false) {
					left++
				}
			}
			if left != addressRate/2 {
				t.Errorf("got %d left within a second, want half of %d, since each was asked, too", left, addressRate)
			}
		})
	})
}
