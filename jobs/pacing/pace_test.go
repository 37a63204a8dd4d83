package pacing

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	t.Parallel()
	// used is a pace after so many half seconds in which it was used up.
	used := func(p pace, halfSeconds int) (pace, time.Time) {
		now := p.now.began
		for range halfSeconds {
			p.now.limited, p.now.good = true, max(1, p.now.good, int(p.rate/2))
			now = now.Add(halfASec)
			p.roll(now, 1, 0)
		}
		return p, now
	}

	t.Run("DoublesEachPeriodUpToNoLimit", func(t *testing.T) {
		t.Parallel()
		for n, want := range []float64{20, 40, 80, 160, 320, 640, 2 * Unlimited} {
			if got, _ := used(newPace(morning), n); got.rate != want {
				t.Errorf("after %d: got %v a second, want %v", n, got.rate, want)
			}
		}
	})

	t.Run("StaysWhereItIsNotUsed", func(t *testing.T) {
		t.Parallel()
		p := newPace(morning)
		for n := range 10 {
			p.now.good = 1
			p.roll(morning.Add(time.Duration(n+1)*halfASec), 1, 0)
		}
		if p.rate != startRate {
			t.Errorf("got %v a second, want %v", p.rate, startRate)
		}
	})

	t.Run("HalvesWhatWasTakenOnceForWhatLeftBefore", func(t *testing.T) {
		t.Parallel()
		p, now := used(newPace(morning), 4) // 320 a second, of which 80 were answered in the last half
		p.now.good, p.flight, p.now.peak = 160, 16, 16
		now = now.Add(halfASec)
		for range 10 {
			p.slowFor(manyFailures, now, now)
		}
		if p.rate < 100 || p.rate > 160 || p.flight != 8 || !p.steady {
			t.Errorf("got %v a second and %v in flight, want half of it, once", p.rate, p.flight)
		}
		before := p.rate
		p.slowFor(manyFailures, now.Add(-time.Millisecond), now.Add(time.Second))
		if p.rate != before {
			t.Error("what left before was held against it")
		}
		p.slowFor(manyFailures, now.Add(time.Millisecond), now.Add(time.Second))
		if p.rate >= before {
			t.Error("what left since was not")
		}
	})

	t.Run("DoublesUpToWhatWasTakenBeforeAllFailed", func(t *testing.T) {
		t.Parallel()
		p, now := used(newPace(morning), 5) // 640 a second
		p.now.good, p.good = 320, 320
		for range 6 {
			now = now.Add(halfASec)
			p.note(verdict{failed: true})
			p.slowFor(manyFailures, now, now)
			p.roll(now, 1, 0)
		}
		if p.rate > 20 || p.knee < 320 || p.knee > 640 {
			t.Fatalf("got %v a second and a knee of %v, want little, and half or more of what it took", p.rate, p.knee)
		}
		if again, _ := used(p, 14); again.rate < 320 {
			t.Errorf("got %v a second after seven seconds, want it to be where it was", again.rate)
		}
	})

	t.Run("FallsWithWhatIsTakenWhereSomeAreTaken", func(t *testing.T) {
		t.Parallel()
		p, now := used(newPace(morning), 5)
		for range 6 {
			p.now.good, p.good = 50, 50
			now = now.Add(halfASec)
			p.note(verdict{failed: true})
			p.slowFor(manyFailures, now, now)
			p.roll(now, 1, 0)
		}
		if p.knee > 100 {
			t.Errorf("got a knee of %v, want no more than the hundred a second that are taken", p.knee)
		}
	})

	t.Run("LastsNoLongerThanAnswersNeedToTell", func(t *testing.T) {
		t.Parallel()
		start, steady := pace{rate: 100}, pace{rate: 100, steady: true}
		for answer, want := range map[time.Duration]time.Duration{0: aTenth, 100 * time.Millisecond: 2 * aTenth, time.Second: halfASec} {
			if got := start.lasts(answer); got != want {
				t.Errorf("answers of %v: got %v, want %v", answer, got, want)
			}
		}
		if got := steady.lasts(0); got != halfASec {
			t.Errorf("after slow start: got %v, want %v", got, halfASec)
		}
		fresh := newPace(morning)
		if got := fresh.lasts(0); got != 4*time.Second/startRate {
			t.Errorf("a new receiver: got %v, want the time of four callbacks", got)
		}
	})

	t.Run("NeverFallsBelowOneInTenSeconds", func(t *testing.T) {
		t.Parallel()
		p := newPace(morning)
		for n := range 100 {
			now := morning.Add(time.Duration(n) * time.Second)
			p.slowFor(manyFailures, now, now)
			p.slowDown(refused)
		}
		if p.rate != leastRate || p.flight != 1 {
			t.Errorf("got %v a second and %v in flight", p.rate, p.flight)
		}
	})

	t.Run("GrowsByATenthASecondAtMostBeyondItsKnee", func(t *testing.T) {
		t.Parallel()
		p := pace{rate: 100, knee: 100, flight: 1, steady: true, now: period{began: morning}}
		if grown, _ := used(p, 10); grown.rate < 130 || grown.rate > 100*1.1*1.1*1.1*1.1*1.1*1.03 {
			t.Errorf("got %v a second after 5 s, want hardly more than a tenth a second", grown.rate)
		}
	})
}

func TestHealth(t *testing.T) {
	t.Parallel()
	answers := func(h *health, count int, k kind, took time.Duration) (trouble bool) {
		for range count {
			trouble = h.note(k, took, took == 100*time.Millisecond, false, morning) != noTrouble
		}
		return trouble
	}

	t.Run("OneFailureAmongManyIsNoTrouble", func(t *testing.T) {
		t.Parallel()
		var h health
		answers(&h, 100, good, 100*time.Millisecond)
		if answers(&h, 1, failing, 0) || answers(&h, 50, refused, 0) || !answers(&h, 10, failing, 0) {
			t.Errorf("got %+v, want trouble by several that are no refusals", h)
		}
	})

	t.Run("OneWithoutAnAnswerIs", func(t *testing.T) {
		t.Parallel()
		var h health
		if !answers(&h, 1, silent, 0) {
			t.Errorf("got %+v, want trouble", h)
		}
	})

	t.Run("AnswersThatTakeTwiceAsLongAre", func(t *testing.T) {
		t.Parallel()
		var h health
		answers(&h, 100, good, 100*time.Millisecond)
		if answers(&h, 1, good, 500*time.Millisecond) || !answers(&h, 100, good, 500*time.Millisecond) {
			t.Errorf("got %+v, want trouble by many that take so long", h)
		}
		if h.usual != 100*time.Millisecond {
			t.Errorf("got %v as the usual time, want that with few in flight", h.usual)
		}
	})

	t.Run("TheLimitInFlightShrinksAsAnswersTakeLonger", func(t *testing.T) {
		t.Parallel()
		for recent, want := range map[time.Duration]float64{100: 1, 150: 1, 200: 0.75, 300: 0.5, 1000: 0.5} {
			h := health{usual: 100 * time.Millisecond, recent: recent * time.Millisecond}
			if got := h.slope(); got != want {
				t.Errorf("%d ms instead of 100: got %v, want %v", recent, got, want)
			}
		}
	})

	t.Run("FailuresThatASlowerPaceDoesNotMendAreItsOwn", func(t *testing.T) {
		t.Parallel()
		var h health
		for n := range 1000 {
			h.note([]kind{good, good, good, good, good, good, good, good, good, failing}[n%10], time.Millisecond, true, true, morning.Add(time.Duration(n)*10*time.Millisecond))
		}
		if answers(&h, 1, failing, 0) {
			t.Errorf("got trouble by one in ten: %+v", h)
		}
	})
}
