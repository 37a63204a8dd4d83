package jobs

import (
	"testing"
	"time"
)

func TestBudget(t *testing.T) {
	t.Parallel()
	four := limit{rate: 4, ceiling: 50, burst: 2, most: 2}
	const quarter = 250 * time.Millisecond

	t.Run("LetsABurstLeaveAndThenTheRate", func(t *testing.T) {
		t.Parallel()
		var b budget
		left := 0
		for after := time.Duration(0); after <= 10*time.Second; after += time.Millisecond {
			if now := morning.Add(after); b.room(now, four, false) {
				b.take(now, four)
				b.leave()
				left++
			}
		}
		if want := 2 + 40; left != want {
			t.Errorf("within 10 s at 4/s: got %d, want %d", left, want)
		}
	})

	t.Run("LetsNoMoreThanThePlacesLeave", func(t *testing.T) {
		t.Parallel()
		var b budget
		b.take(morning, four)
		b.take(morning, four)
		later := morning.Add(time.Hour)
		if b.room(later, four, true) {
			t.Error("got room for a third at a time, want none")
		}
		b.leave()
		if !b.room(later, four, true) {
			t.Error("got no room after one has left")
		}
	})

	t.Run("PromisesEachASlotOfItsOwn", func(t *testing.T) {
		t.Parallel()
		var b budget
		b.take(morning, four)
		b.take(morning, four)
		b.leave()
		b.leave()
		for n := range 10 {
			if got, want := b.promise(morning, four, 0), morning.Add(time.Duration(n+1)*quarter); !got.Equal(want) {
				t.Errorf("slot %d: got %v, want %v", n, got.Sub(morning), want.Sub(morning))
			}
		}
	})

	t.Run("SpacesSlotsByPlacesWhereAttemptsAreSlow", func(t *testing.T) {
		t.Parallel()
		var b budget
		b.take(morning, four)
		b.take(morning, four)
		for n := range 3 {
			if got, want := b.promise(morning, four, 10*time.Second), morning.Add(time.Duration(n+1)*5*time.Second); !got.Equal(want) {
				t.Errorf("slot %d: got %v, want %v", n, got.Sub(morning), want.Sub(morning))
			}
		}
	})

	t.Run("KeepsWhatIsPromisedFromThoseThatComeLater", func(t *testing.T) {
		t.Parallel()
		var b budget
		b.take(morning, four)
		b.leave()
		b.promise(morning, four, 0)
		slot := b.promise(morning, four, 0)
		at := slot.Add(-time.Millisecond)
		b.take(at, four)
		b.leave()
		if b.room(at, four, false) {
			t.Error("one that comes first: got the slot that another was promised")
		}
		if !b.room(slot, four, true) {
			t.Error("one that comes back: got no room at the time that it was promised")
		}
	})

	t.Run("RecallsWhatGoesBeyondAMinuteOneByOne", func(t *testing.T) {
		t.Parallel()
		var b budget
		for range 241 { // from the first, which is now

			b.promise(morning, four, 0)
		}
		for n := range 100 {
			want := morning.Add(maxPutOff + time.Duration(n)*20*time.Millisecond) // the ceiling's 50 a second
			if got := b.promise(morning, four, 0); got.Before(want) || got.After(want.Add(20*time.Millisecond)) {
				t.Fatalf("number %d beyond: got %v, want about %v", n, got.Sub(morning), want.Sub(morning))
			}
		}
	})

	t.Run("WithoutARateHasPlacesOnly", func(t *testing.T) {
		t.Parallel()
		var b budget
		places := limit{ceiling: fastest, burst: 5, most: 5}
		for n := range 5 {
			if !b.room(morning, places, false) {
				t.Fatalf("number %d: got no room, want 5 places", n)
			}
			b.take(morning, places)
		}
		if b.room(morning, places, false) {
			t.Error("got a sixth place")
		}
	})
}

func TestBreaker(t *testing.T) {
	t.Parallel()
	failed := func(b breaker, times int, now time.Time) breaker {
		for range times {
			b = b.after(false, now)
		}
		return b
	}

	t.Run("OpensAtTheTenthFailureInARow", func(t *testing.T) {
		t.Parallel()
		nine := failed(breaker{}, 9, morning)
		if nine.until.After(morning) || nine.openings != 0 {
			t.Errorf("after 9: got %+v, want it closed", nine)
		}
		if got := nine.after(true, morning).after(false, morning); got.openings != 0 || got.failures != 1 {
			t.Errorf("after a success between them: got %+v, want it closed", got)
		}
		if got := nine.after(false, morning); !got.until.Equal(morning.Add(30 * time.Second)) {
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
			if !b.halfOpen(now) || b.halfOpen(now.Add(-1)) {
				t.Errorf("at its end: want it half open, not before")
			}
			b = b.after(false, now)
		}
		if got := failed(b, 1000, b.until); got.until.Sub(b.until) != longestOpening {
			t.Errorf("after a thousand more: got %+v", got)
		}
	})

	t.Run("ClosesAtOneProbeThatSucceeds", func(t *testing.T) {
		t.Parallel()
		if got := failed(breaker{}, 12, morning).after(true, morning.Add(time.Hour)); got != (breaker{}) {
			t.Errorf("got %+v, want it closed", got)
		}
	})

	t.Run("IsNotOpenedFurtherByWhatWasUnderWay", func(t *testing.T) {
		t.Parallel()
		got := failed(failed(breaker{}, 10, morning), 50, morning.Add(10*time.Second))
		if got.openings != 1 || !got.until.Equal(morning.Add(30*time.Second)) {
			t.Errorf("got %+v, want it open for the first 30 s", got)
		}
	})
}
