package pacing

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ringback/db"
	"ringback/internal/bubble"
	"ringback/jobs/limit"
	"ringback/jobs/webhook"
)

// outsideStub holds the outside's answers.
type outsideStub struct {
	mu            sync.Mutex
	consent       webhook.Consent
	askTakes      time.Duration
	asked, loaded int
	address       netip.Addr
	row           db.Receiver
	loadErr       error
	rulings       []db.Ruling
	saved         chan []db.Receiver
}

func (o *outsideStub) count(what *int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	*what++
}

// change lets the outside say something else from now on.
func (o *outsideStub) change(to func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	to()
}

func newTestPacing(config Config, stub *outsideStub) *Pacing {
	config.Logger = slog.New(slog.DiscardHandler)
	config.Outside = Outside{
		Load: func(context.Context, string) (db.Receiver, error) {
			stub.count(&stub.loaded)
			time.Sleep(time.Millisecond) // the fake clock's
			return stub.row, stub.loadErr
		},
		Ask: func(ctx context.Context, _ string, _ int, admission webhook.Admission) (webhook.Consent, error) {
			if !admission.Dial(stub.address, false) {
				return webhook.Consent{}, webhook.ErrTurnedAway
			}
			stub.count(&stub.asked)
			select {
			case <-time.After(stub.askTakes):
				return stub.consent, nil
			case <-ctx.Done():
				return webhook.Consent{}, ctx.Err()
			}
		},
		Save: func(_ context.Context, changes []Change) error {
			rows := make([]db.Receiver, len(changes))
			for i, change := range changes {
				rows[i] = change.Row
			}
			stub.saved <- rows
			return nil
		},
		Rulings: func(context.Context) ([]db.Ruling, error) {
			stub.mu.Lock()
			defer stub.mu.Unlock()
			return stub.rulings, nil
		},
		Forget: func(context.Context, string) error { return nil },
	}
	return New(config)
}

const hookURL = "https://a.example.com/hook"

var (
	hookAddress = netip.MustParseAddr("192.0.2.1")
	everything  = webhook.Consent{Granted: true, Address: hookAddress}
	known       = db.Receiver{Rate: 2 * Unlimited, InFlight: 100, AnsweredFrom: []netip.Prefix{prefixOf(hookAddress)}}
)

func sentTo(address string, outcome webhook.Outcome, status int) webhook.Attempt {
	now := time.Now()
	return webhook.Attempt{StartedAt: now.Add(-time.Millisecond), EndedAt: now, Outcome: outcome, Status: status, Address: address}
}

// enterAll lets callbacks try at the same time, and returns the passes, and the decisions
// of the refused callbacks.
func enterAll(ctx context.Context, p *Pacing, client string, count int) (left []*Pass, told []limit.Decision) {
	type result struct {
		pass     *Pass
		decision limit.Decision
	}
	results := make(chan result, count)
	for range count {
		go func() {
			pass, decision := p.Enter(ctx, Callback{Client: client, URL: hookURL})
			results <- result{pass, decision}
		}()
	}
	for range count {
		if got := <-results; got.pass != nil {
			left = append(left, got.pass)
		} else {
			told = append(told, got.decision)
		}
	}
	return left, told
}

func TestEnter(t *testing.T) {
	t.Parallel()

	t.Run("AsksTheDatabaseOnceHoweverManyCome", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			stub := &outsideStub{row: known}
			left, told := enterAll(t.Context(), newTestPacing(Config{Workers: 400}, stub), "acme", 50)
			if stub.loaded != 1 || len(left) != 50 {
				t.Errorf("got %d loaded, %d left and %+v told, want one and all", stub.loaded, len(left), told)
			}
		})
	})

	t.Run("LetsOneCallbackGoToAStrangerAndGivesTheOthersTimesOfTheirOwn", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			stub := &outsideStub{address: hookAddress}
			left, told := enterAll(t.Context(), newTestPacing(Config{Workers: 400}, stub), "acme", 50)
			seen := map[time.Time]bool{}
			for _, decision := range told {
				if decision.Reason != Pace || time.Until(decision.RetryAt) > limit.Horizon || seen[decision.RetryAt] {
					t.Errorf("got %+v, want a time of its own", decision)
				}
				seen[decision.RetryAt] = true
			}
			if len(left) != 1 {
				t.Errorf("got %d left, want one", len(left))
			}
		})
	})

	t.Run("WaitsInAWorkerOfItsClientsShareAlone", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			p := newTestPacing(Config{Workers: 9, Shared: true}, &outsideStub{row: known})
			left, _ := enterAll(t.Context(), p, "acme", 2)
			left[0].receiver.averageTime = 10 * time.Millisecond
			for _, waits := range []bool{true, false} {
				start := time.Now()
				if pass, got := p.Enter(t.Context(), Callback{Client: "acme", URL: hookURL}); pass != nil || (time.Since(start) > 0) != waits {
					t.Errorf("got %+v, %+v after %v, want a wait: %v", pass, got, time.Since(start), waits)
				}
				for p.slots.Take("acme", 1) { // the rest of the share
				}
			}
		})
	})

	t.Run("WaitsAMomentForASlotThatIsFreeSoon", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			p := newTestPacing(Config{Workers: 4}, &outsideStub{row: known})
			first, _ := p.Enter(t.Context(), Callback{Client: "acme", URL: hookURL})
			first.receiver.averageTime = 10 * time.Millisecond
			go func() {
				time.Sleep(patience / 10)
				first.Leave(sentTo(here, webhook.Delivered, 204))
			}()
			if second, decision := p.Enter(t.Context(), Callback{Client: "acme", URL: hookURL}); second == nil {
				t.Errorf("got %+v, want the slot that became free", decision)
			}
		})
	})

	t.Run("GivesNoReceiverMoreThanItsShareOfTheWorkers", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			left, told := enterAll(t.Context(), newTestPacing(Config{Workers: 20}, &outsideStub{row: known}), "acme", 8)
			if len(left) != 5 || told[0].Reason != Pace {
				t.Errorf("got %d left and %+v told, want the share of 5", len(left), told)
			}
		})
	})

	t.Run("SaysWhyNothingIsSentWhileTheDatabaseIsAway", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			stub := &outsideStub{loadErr: errors.New("away"), row: known}
			p := newTestPacing(Config{Workers: 400}, stub)
			left, told := enterAll(t.Context(), p, "acme", 3)
			if len(left) > 0 || told[0].Reason != Unknown || time.Until(told[0].RetryAt) < time.Second/2 {
				t.Errorf("got %d left, %+v, want them postponed", len(left), told)
			}
			stub.loadErr = nil
			if pass, _ := p.Enter(t.Context(), Callback{URL: hookURL}); pass == nil {
				t.Error("got it postponed when the database is back")
			}
		})
	})

	t.Run("EndsWithItsContext", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			p := newTestPacing(Config{Workers: 400}, &outsideStub{row: known})
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if pass, _ := p.Enter(ctx, Callback{URL: hookURL}); pass != nil {
				t.Error("got it to leave after the end")
			}
			if left, _ := enterAll(t.Context(), p, "acme", 50); len(left) != 50 {
				t.Errorf("got %d of the next 50, want all slots to be there", len(left))
			}
		})
	})
}

func TestMemory(t *testing.T) {
	t.Parallel()

	t.Run("ShowsTheOperatorEachReceiverThatIsCalled", func(t *testing.T) {
		t.Parallel()
		for outcome, row := range map[webhook.Outcome]db.Receiver{webhook.Delivered: known, webhook.HTTPStatus: {}} {
			bubble.Test(t, func(t *testing.T) {
				stub := &outsideStub{row: row, saved: make(chan []db.Receiver, 1000), address: hookAddress}
				p := newTestPacing(Config{Workers: 400}, stub)
				ctx, cancel := context.WithCancel(t.Context())
				p.Start(ctx)
				for range 300 { // five minutes, in which nothing changes
					time.Sleep(time.Second)
					if pass, _ := p.Enter(ctx, Callback{Client: "acme", URL: hookURL, CameBack: true}); pass != nil {
						pass.Leave(sentTo(here, outcome, 404))
					}
				}
				cancel()
				bubble.Wait()
				close(stub.saved)
				var rows []db.Receiver
				for saved := range stub.saved {
					rows = append(rows, saved...)
				}
				if len(rows) < 5 || len(rows) > 10 {
					t.Fatalf("%s: got %d writes in five minutes, want about one a minute", outcome, len(rows))
				}
				last := rows[len(rows)-1]
				if left := time.Until(last.ExpiresAt); last.LastOutcome != string(outcome) || left < 8*time.Minute {
					t.Errorf("%s: got %q for another %v, want it listed", outcome, last.LastOutcome, left)
				}
			})
		}
	})

	t.Run("IsWrittenAtMostOnceInTenSeconds", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			stub := &outsideStub{saved: make(chan []db.Receiver, 1000), address: hookAddress}
			p := newTestPacing(Config{Workers: 400}, stub)
			ctx, cancel := context.WithCancel(t.Context())
			p.Start(ctx)
			for n := range 600 { // a minute, in which there is something new all the time
				time.Sleep(100 * time.Millisecond)
				outcome := []webhook.Outcome{webhook.Delivered, webhook.Gone}[n%2]
				for range 8 {
					if pass, _ := p.Enter(ctx, Callback{Client: "acme", URL: hookURL, CameBack: true}); pass != nil {
						pass.Leave(sentTo(here, outcome, 0))
					}
				}
			}
			cancel()
			bubble.Wait()
			if got := len(stub.saved); got < 1 || got > 7 {
				t.Errorf("got %d writes of a receiver within a minute, want one every ten seconds", got)
			}
			if first := <-stub.saved; len(first) != 1 || first[0].Rate < startRate || len(first[0].AnsweredFrom) != 1 {
				t.Errorf("got %+v, want what it was known to take", first)
			}
		})
	})

	t.Run("BeginsAtHalfOfWhatWasKnown", func(t *testing.T) {
		t.Parallel()
		r := newReceiver("https://a:443", morning)
		r.recall(db.Receiver{Rate: 400, InFlight: 30, AnsweredFrom: prefixes(here)}, morning)
		if r.pace.rate != 200 || r.pace.flight != 15 || !r.proven {
			t.Errorf("got %+v, want half of 400 a second and 30 at a time", r.pace)
		}
	})

	t.Run("HoldsWhoIsClosedToWhom", func(t *testing.T) {
		t.Parallel()
		before := newReceiver("https://a:443", morning)
		for range failuresToTrip {
			before.learnBreakers(before.party("acme", morning), failing, morning)
		}
		acme, other := before.party("acme", morning), before.party("other", morning)
		acme.breaker = breaker{trips: 3, until: morning.Add(4 * time.Minute)}
		other.pause, other.oneByOne = morning.Add(time.Hour), morning.Add(24*time.Hour)
		before.breaker = breaker{trips: 2, until: morning.Add(time.Minute)}
		after := newReceiver(before.name, morning)
		after.recall(before.row(morning), morning)
		if after.breaker.trips != 2 || !after.breaker.until.Equal(before.breaker.until) {
			t.Errorf("got %+v, want %+v", after.breaker, before.breaker)
		}
		if got := after.party("acme", morning); got.breaker.trips != 3 || !got.closedUntil().Equal(acme.closedUntil()) {
			t.Errorf("acme: got %+v, want it closed until %v", got.breaker, acme.closedUntil())
		}
		if got := after.party("other", morning); !got.pause.Equal(other.pause) || !got.oneByOne.Equal(other.oneByOne) {
			t.Errorf("other: got %v and %v, want %v and %v", got.pause, got.oneByOne, other.pause, other.oneByOne)
		}
		third := after.party("third", morning)
		if got := after.closed(third, morning); !got.OK() {
			t.Errorf("third: got %+v, want a probe", got)
		}
		after.learnBreakers(third, failing, morning)
		if got := after.closed(third, morning); got.Reason != Closed || !got.RetryAt.Equal(before.breaker.until) {
			t.Errorf("third: got %+v, want it closed as it is to all", got)
		}
	})

	t.Run("IsDroppedForWhatTheOperatorForgets", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			stub := &outsideStub{row: known, saved: make(chan []db.Receiver, 100)}
			p := newTestPacing(Config{Workers: 400}, stub)
			ctx, cancel := context.WithCancel(t.Context())
			p.Start(ctx)
			pass, _ := p.Enter(ctx, Callback{URL: hookURL})
			pass.Leave(sentTo(here, webhook.Delivered, 204))
			stub.row = db.Receiver{ClosedUntil: time.Now().Add(time.Hour), Openings: 1}
			stub.change(func() {
				stub.rulings = []db.Ruling{{Target: RulingTarget("a.example.com", "443"), Effect: db.ReceiverForgotten, At: time.Now()}}
			})
			time.Sleep(3 * time.Second)
			_, _ = p.Enter(ctx, Callback{URL: hookURL})
			if r := p.receivers[ReceiverOf(hookURL)]; stub.loaded != 2 || r.breaker.trips != 1 {
				t.Errorf("got %+v, loaded %d times, want it met anew within three seconds", r.breaker, stub.loaded)
			}
			cancel()
		})
	})
}

// A save that began before the operator's ruling would bring a receiver's pause back.
func TestForgettingWaitsForASaveAndIsTriedAgain(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		stub := &outsideStub{row: known}
		p := newTestPacing(Config{Workers: 400}, stub)
		var saves, forgotten, saving atomic.Int32
		p.outside.Save = func(context.Context, []Change) error {
			saves.Add(1)
			saving.Add(1)
			time.Sleep(5 * time.Second)
			saving.Add(-1)
			return nil
		}
		p.outside.Forget = func(context.Context, string) error {
			if saving.Load() > 0 {
				t.Error("the receiver is forgotten while it is saved")
			}
			if forgotten.Add(1) == 1 {
				return errors.New("the database is away")
			}
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		p.Start(ctx)
		pass, _ := p.Enter(ctx, Callback{URL: hookURL})
		pass.Leave(sentTo(here, webhook.HTTPStatus, 500))
		stub.change(func() {
			stub.rulings = []db.Ruling{{Target: RulingTarget("a.example.com", "443"), Effect: db.ReceiverForgotten, At: time.Now()}}
		})
		time.Sleep(20 * time.Second)
		if saves.Load() != 1 || forgotten.Load() != 2 {
			t.Errorf("got %d saves, and %d tries to forget, want one and two, of which the first failed", saves.Load(), forgotten.Load())
		}
	})
}

func TestReasons(t *testing.T) {
	t.Parallel()
	if reasons := Reasons(); len(slices.Compact(slices.Sorted(slices.Values(reasons)))) != len(reasons) {
		t.Error("two reasons have one word")
	}
}
