package jobs

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestBulkhead(t *testing.T) {
	t.Parallel()

	t.Run("GivesAnOriginItsShareAndNoMore", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBulkhead(20)
			for range 5 {
				if leave, _ := b.enter(t.Context(), "a"); leave == nil {
					t.Fatal("got put off below the share of 5")
				}
			}
			if leave, putOff := b.enter(t.Context(), "a"); leave != nil || putOff < slotPatience {
				t.Errorf("the sixth: got a slot or %v, want it put off", putOff)
			}
			if leave, _ := b.enter(t.Context(), "b"); leave == nil {
				t.Error("another origin was put off")
			}
		})
	})

	t.Run("WaitsAMomentForAQuickOrigin", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBulkhead(4)
			leave, _ := b.enter(t.Context(), "a")
			go func() {
				time.Sleep(slotPatience / 2) // the fake clock's
				leave(slotPatience / 2)
			}()
			if second, putOff := b.enter(t.Context(), "a"); second == nil {
				t.Errorf("got put off by %v, want the slot that became free", putOff)
			}
		})
	})

	t.Run("PromisesEachCallbackASlotOfItsOwn", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBulkhead(4)
			leave, _ := b.enter(t.Context(), "a")
			leave(10 * time.Second)
			if leave, _ = b.enter(t.Context(), "a"); leave == nil {
				t.Fatal("got put off with no other under way")
			}
			b.origins["a"].took = 10 * time.Second
			for n, want := range []time.Duration{10 * time.Second, 20 * time.Second, 30 * time.Second} {
				start := time.Now()
				if _, putOff := b.enter(t.Context(), "a"); putOff != want || time.Since(start) != 0 {
					t.Errorf("callback %d: got put off by %v after %v, want %v at once", n, putOff, time.Since(start), want)
				}
			}
			for range 10 {
				if _, putOff := b.enter(t.Context(), "a"); putOff > maxPutOff {
					t.Errorf("got put off by %v, want at most %v", putOff, maxPutOff)
				}
			}
		})
	})

	t.Run("ForgetsOriginsThatNobodyUses", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBulkhead(4)
			leave, _ := b.enter(t.Context(), "a")
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			if other, _ := b.enter(ended, "a"); other != nil {
				t.Error("got a slot that was taken")
			}
			time.Sleep(maxPutOff) // the fake clock's
			leave(time.Millisecond)
			if len(b.origins) != 0 {
				t.Errorf("got %d origins kept, want none", len(b.origins))
			}
		})
	})
}

func TestThrottleFloorGrows(t *testing.T) {
	t.Parallel()
	for earlier, want := range map[int]time.Duration{
		0: time.Second, 1: 2 * time.Second, 5: 32 * time.Second, 10: 1024 * time.Second, 11: 30 * time.Minute, 1000: 30 * time.Minute,
	} {
		if got := throttleFloor(earlier); got != want {
			t.Errorf("throttleFloor(%d): got %v, want %v", earlier, got, want)
		}
	}
}
