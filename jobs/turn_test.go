package jobs

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ringback/db"
	"ringback/jobs/webhook"
)

// stubIO is what the outside says.
type stubIO struct {
	consent  webhook.Consent
	askTakes time.Duration
	asked    atomic.Int32
	loaded   atomic.Int32
	row      db.CallbackOrigin
	loadErr  error
	saved    chan []db.CallbackOrigin
}

func newTestOrigins(mode ConsentMode, workers int, stub *stubIO) *origins {
	return newOrigins(mode, workers, slog.New(slog.DiscardHandler), originIO{
		load: func(context.Context, string) (db.CallbackOrigin, error) {
			stub.loaded.Add(1)
			time.Sleep(time.Millisecond) // the fake clock's
			return stub.row, stub.loadErr
		},
		ask: func(ctx context.Context, _ string, _ int) (webhook.Consent, error) {
			stub.asked.Add(1)
			select {
			case <-time.After(stub.askTakes):
				return stub.consent, nil
			case <-ctx.Done():
				return webhook.Consent{}, ctx.Err()
			}
		},
		save: func(_ context.Context, origins []db.CallbackOrigin) error { stub.saved <- origins; return nil },
	})
}

const hookURL = "https://a.example.com/hook"

var everything = webhook.Consent{Granted: true, Address: netip.MustParseAddr("192.0.2.1")}

// enterAll lets callbacks try at the same time, and returns how many may leave
// and how long the others are put off.
func enterAll(ctx context.Context, s *origins, count int) (left []func(webhook.Attempt), putOff []time.Duration) {
	type result struct {
		leave  func(webhook.Attempt)
		putOff time.Duration
	}
	results := make(chan result, count)
	for range count {
		go func() {
			leave, putOff := s.enter(ctx, hookURL, false)
			results <- result{leave, putOff}
		}()
	}
	for range count {
		if got := <-results; got.leave != nil {
			left = append(left, got.leave)
		} else {
			putOff = append(putOff, got.putOff)
		}
	}
	return left, putOff
}

func TestEnter(t *testing.T) {
	t.Parallel()

	t.Run("AsksANewOriginOnceHoweverManyCome", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			stub := &stubIO{consent: everything, askTakes: 20 * time.Millisecond}
			left, putOff := enterAll(t.Context(), newTestOrigins(ConsentEarned, 40, stub), 10)
			if stub.asked.Load() != 1 || stub.loaded.Load() != 1 || len(left) != 10 {
				t.Errorf("got %d asked, %d loaded, %d left and %v put off, want 1, 1 and all left",
					stub.asked.Load(), stub.loaded.Load(), len(left), putOff)
			}
		})
	})

	t.Run("GivesAGrantedOriginFullSpeedWithinASecond", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			// It answers too slowly to be waited for: those that came early are put off.
			stub := &stubIO{consent: everything, askTakes: 300 * time.Millisecond}
			s := newTestOrigins(ConsentEarned, 400, stub)
			left, putOff := enterAll(t.Context(), s, 200)
			if len(left) != 1 || len(putOff) != 199 {
				t.Fatalf("got %d left and %d put off, want the one that asked", len(left), len(putOff))
			}
			for _, delay := range putOff {
				if delay > time.Second {
					t.Errorf("got one put off by %v, want at most a second", delay)
				}
			}
			time.Sleep(time.Second)
			if left, putOff := enterAll(t.Context(), s, 99); len(left) != 99 {
				t.Errorf("a second later: got %d left and %v put off, want all 99 places", len(left), putOff)
			}
		})
	})

	t.Run("SpreadsThousandsThatWaitForASlowAnswer", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := newTestOrigins(ConsentEarned, 400, &stubIO{askTakes: askPatience})
			first := make(chan struct{})
			go func() {
				defer close(first)
				enterAll(t.Context(), s, 200)
			}()
			time.Sleep(slowMeeting + 10*time.Millisecond)
			_, putOff := enterAll(t.Context(), s, 1000)
			if last, want := slices.Max(putOff), 1000/slowest*time.Second; last < want {
				t.Errorf("got the last of a thousand back after %v, want %v", last, want)
			}
			<-first
		})
	})

	t.Run("GivesAStrangerTwoAtATimeAndPutsTheOthersOff", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			left, putOff := enterAll(t.Context(), newTestOrigins(ConsentEarned, 400, &stubIO{}), 50)
			seen := map[time.Duration]bool{}
			for _, delay := range putOff {
				if delay <= 0 || delay > maxPutOff || seen[delay] {
					t.Errorf("got put off by %v, want a slot of its own", delay)
				}
				seen[delay] = true
			}
			if len(left) != 2 {
				t.Errorf("got %d left, want 2", len(left))
			}
		})
	})

	t.Run("GivesNoOriginMoreThanItsShareOfTheWorkers", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			left, putOff := enterAll(t.Context(), newTestOrigins(ConsentEarned, 20, &stubIO{consent: everything}), 8)
			if len(left) != 5 || len(putOff) != 3 {
				t.Errorf("got %d left and %d put off, want the share of 5", len(left), len(putOff))
			}
		})
	})

	t.Run("WaitsAMomentForAPlaceAtAQuickOrigin", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := newTestOrigins(ConsentEarned, 4, &stubIO{consent: everything})
			leave, _ := s.enter(t.Context(), hookURL, false)
			go func() {
				time.Sleep(slotPatience / 2)
				leave(sentTo(here, webhook.Delivered, 204))
			}()
			if second, putOff := s.enter(t.Context(), hookURL, false); second == nil {
				t.Errorf("got put off by %v, want the place that became free", putOff)
			}
		})
	})

	t.Run("AsksAgainWhereANameThatGrantedHasMoved", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			stub := &stubIO{consent: everything}
			s := newTestOrigins(ConsentEarned, 400, stub)
			leave, _ := s.enter(t.Context(), hookURL, false)
			leave(sentTo("192.0.2.99:443", webhook.Timeout, 0))
			stub.consent = webhook.Consent{Address: netip.MustParseAddr("192.0.2.99")}
			time.Sleep(askAfterMove)
			if left, _ := enterAll(t.Context(), s, 50); len(left) > newcomer.most || stub.asked.Load() != 2 {
				t.Errorf("got %d left, asked %d times, want it asked there and a stranger's few", len(left), stub.asked.Load())
			}
		})
	})

	t.Run("AsksNobodyWhenItIsOff", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			stub := &stubIO{consent: everything}
			if left, _ := enterAll(t.Context(), newTestOrigins(ConsentOff, 400, stub), 5); len(left) != 2 || stub.asked.Load() != 0 {
				t.Errorf("got %d left and %d asked, want a stranger's 2 and none", len(left), stub.asked.Load())
			}
		})
	})

	t.Run("SendsNothingWithoutConsentWhereItIsRequired", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			stub := &stubIO{}
			s := newTestOrigins(ConsentRequired, 400, stub)
			if left, putOff := enterAll(t.Context(), s, 5); len(left) != 0 || putOff[0] < meetingPutOff {
				t.Errorf("got %d left, want none", len(left))
			}
			if _, putOff := s.enter(t.Context(), hookURL, true); putOff < 50*time.Minute || putOff > 61*time.Minute {
				t.Errorf("got put off by %v, want until it is asked again, in an hour", putOff)
			}
			time.Sleep(61 * time.Minute)
			stub.consent = everything
			if leave, putOff := s.enter(t.Context(), hookURL, true); leave == nil || stub.asked.Load() != 2 {
				t.Errorf("an hour later: got put off by %v, asked %d times, want it to leave", putOff, stub.asked.Load())
			}
		})
	})

	t.Run("GivesUpAQuestionThatIsNotAnswered", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			stub := &stubIO{consent: everything, askTakes: time.Hour}
			start := time.Now()
			s := newTestOrigins(ConsentEarned, 400, stub)
			leave, _ := s.enter(t.Context(), hookURL, false)
			if took := time.Since(start); leave == nil || took > askPatience+time.Second {
				t.Errorf("got to leave %v after %v, want after %v", leave != nil, took, askPatience)
			}
		})
	})

	t.Run("LeavesTheOriginToOthersWhenTheProcessStops", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			stub := &stubIO{consent: everything, askTakes: time.Second}
			s := newTestOrigins(ConsentEarned, 400, stub)
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if leave, _ := s.enter(ctx, hookURL, false); leave != nil {
				t.Error("got to leave after the end")
			}
			if leave, putOff := s.enter(t.Context(), hookURL, false); leave == nil || stub.asked.Load() != 2 {
				t.Errorf("the next: got put off by %v, asked %d times, want it to ask again", putOff, stub.asked.Load())
			}
		})
	})

	t.Run("PutsOffWhileTheDatabaseIsAway", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			stub := &stubIO{loadErr: errors.New("away")}
			s := newTestOrigins(ConsentEarned, 400, stub)
			if leave, putOff := s.enter(t.Context(), hookURL, false); leave != nil || putOff < time.Second {
				t.Errorf("got put off by %v, want it put off", putOff)
			}
			stub.loadErr = nil
			if leave, _ := s.enter(t.Context(), hookURL, false); leave == nil {
				t.Error("got put off when it is back")
			}
		})
	})

	t.Run("PutsAllOffWhileAHostIsPaused", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			stub := &stubIO{consent: everything, saved: make(chan []db.CallbackOrigin, 1)}
			s := newTestOrigins(ConsentEarned, 400, stub)
			leave, _ := s.enter(t.Context(), hookURL, false)
			throttled := sentTo(here, webhook.Throttled, 429)
			throttled.RetryAfter = 10 * time.Minute
			leave(throttled)
			if other, putOff := s.enter(t.Context(), hookURL, false); other != nil || putOff < 10*time.Minute || putOff > 11*time.Minute {
				t.Errorf("got put off by %v, want ten minutes", putOff)
			}
			s.saveAll(t.Context())
			if saved := <-stub.saved; len(saved) != 1 || saved[0].ClosedUntil.Sub(time.Now()) != 10*time.Minute {
				t.Errorf("saved: got %+v, want the pause", saved)
			}
		})
	})

	t.Run("KeepsOpenWhatTheDatabaseRemembers", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			stub := &stubIO{row: db.CallbackOrigin{Name: "a.example.com:443", ClosedUntil: time.Now().Add(time.Minute), Openings: 2}}
			if leave, putOff := newTestOrigins(ConsentEarned, 400, stub).enter(t.Context(), hookURL, false); leave != nil || putOff < 59*time.Second {
				t.Errorf("got put off by %v, want a minute", putOff)
			}
			if stub.asked.Load() != 0 {
				t.Error("a receiver that is left alone was asked for its consent")
			}
		})
	})

	t.Run("PicksUpAGrantThatTheDatabaseRemembers", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			stub := &stubIO{row: db.CallbackOrigin{
				Name: "a.example.com:443", GrantedUntil: time.Now().Add(2 * time.Hour), Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")},
			}}
			s := newTestOrigins(ConsentEarned, 400, stub)
			if left, _ := enterAll(t.Context(), s, 50); len(left) != 50 || stub.asked.Load() != 0 {
				t.Errorf("got %d left, asked %d times, want all 50 and nobody asked", len(left), stub.asked.Load())
			}
		})
	})
}
