package limit

import (
	"fmt"
	"testing"
	"time"
)

var morning = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

const quarter = 250 * time.Millisecond

func TestRate(t *testing.T) {
	t.Parallel()
	four := Rate{PerSecond: 4, Burst: 2}

	t.Run("LetsABurstComeAndThenTheRate", func(t *testing.T) {
		t.Parallel()
		var tat time.Time
		came := 0
		for after := time.Duration(0); after <= 10*time.Second; after += time.Millisecond {
			var decision Decision
			if tat, decision = four.Decide(tat, morning.Add(after), 1, "rate"); decision.OK() {
				came++
			}
		}
		if want := 2 + 40; came != want {
			t.Errorf("within 10 s at 4/s: got %d, want %d", came, want)
		}
	})

	t.Run("SaysWhyAndWhenToRetry", func(t *testing.T) {
		t.Parallel()
		tat := four.Spend(time.Time{}, morning, 2)
		after, got := four.Decide(tat, morning, 1, "rate")
		if want := (Decision{"rate", morning.Add(quarter), 4}); got != want || !after.Equal(tat) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if _, got := four.Decide(tat, got.RetryAt, 1, "rate"); !got.OK() {
			t.Errorf("then: got %+v, want yes", got)
		}
	})

	t.Run("KnowsWhatIsLeft", func(t *testing.T) {
		t.Parallel()
		for spent, want := range []int{2, 1, 0, 0} {
			if got := four.Left(four.Spend(time.Time{}, morning, spent), morning); got != want {
				t.Errorf("after %d: got %d left, want %d", spent, got, want)
			}
		}
	})

	t.Run("LeavesOneToOthersOnceNobodyCameForAsLong", func(t *testing.T) {
		t.Parallel()
		one := Rate{PerSecond: 4, Burst: 1}
		tat := one.Spend(time.Time{}, morning, 1)
		if got, want := one.FreeAt(tat, 2), morning.Add(2*quarter); !got.Equal(want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})

	t.Run("OfZeroIsNone", func(t *testing.T) {
		t.Parallel()
		none := Rate{Burst: 1}
		var tat time.Time
		for range 100 {
			var decision Decision
			if tat, decision = none.Decide(tat, morning, 1, "rate"); !decision.OK() {
				t.Fatalf("got %+v, want yes", decision)
			}
		}
	})
}

func TestSlotsOfSeveral(t *testing.T) {
	t.Parallel()
	slots := NewSlots(100, true)
	if !slots.Take("a", 50) || slots.Take("a", 50) || !slots.Take("a", 30) || slots.Take("a", 1) {
		t.Errorf("got %d for one alone, want four fifths", slots.Of("a"))
	}
	if !slots.Take("b", 10) || slots.Free() != 10 || slots.Taken() != 90 {
		t.Errorf("got %d free, want some left for the next", slots.Free())
	}
	slots.Release("a", 80)
	if slots.Of("a") != 0 || slots.Free() != 90 {
		t.Errorf("got %d free, want what was given back", slots.Free())
	}
}

func TestWindow(t *testing.T) {
	t.Parallel()
	w := NewWindow(NewSlots(20, true), time.Second)
	took := func(client string, at time.Duration) (count int) {
		for w.Take(client, morning.Add(at)) {
			count++
		}
		return count
	}
	if got := took("mallory", 0); got != 16 {
		t.Errorf("one alone: got %d, want four fifths of 20", got)
	}
	if got := took("acme", 100*time.Millisecond); got < 3 {
		t.Errorf("the next: got %d, want what was left for it", got)
	}
	if got := took("mallory", 900*time.Millisecond); got != 0 {
		t.Errorf("within the period: got %d more, want none", got)
	}
	if got, want := w.FreeAt(morning.Add(900*time.Millisecond)), morning.Add(900*time.Millisecond); got.Before(want) {
		t.Errorf("got %v, want no time that is over", got)
	}
	if got := took("mallory", time.Second); got == 0 {
		t.Error("after the period: got none")
	}
}

func TestLine(t *testing.T) {
	t.Parallel()
	step := 20 * time.Millisecond

	t.Run("GivesEachATimeOfItsOwn", func(t *testing.T) {
		t.Parallel()
		var l Line
		for n := range 10 {
			if got, want := l.Reserve(morning, quarter, step), morning.Add(time.Duration(n)*quarter); !got.Equal(want) {
				t.Errorf("number %d: got %v, want %v", n, got.Sub(morning), want.Sub(morning))
			}
		}
	})

	t.Run("CallsBackWhatIsBeyondAMinuteOneByOne", func(t *testing.T) {
		t.Parallel()
		var l Line
		for range 241 { // from the first, which is now
			l.Reserve(morning, quarter, step)
		}
		for n := range 100 {
			if got, want := l.Reserve(morning, quarter, step), morning.Add(Horizon+time.Duration(n)*step); !got.Equal(want) {
				t.Fatalf("number %d beyond: got %v, want %v", n, got.Sub(morning), want.Sub(morning))
			}
		}
	})

	t.Run("IsDueUntilAllHaveComeBack", func(t *testing.T) {
		t.Parallel()
		var l Line
		if l.Due(morning, morning.Add(Horizon)) {
			t.Error("an empty line is due")
		}
		for range 3 {
			l.Reserve(morning.Add(time.Second), time.Second, step)
		}
		for n, want := range []bool{true, true, true, false} {
			at := morning.Add(time.Duration(n+1) * time.Second)
			if got := l.Due(at, at); got != want {
				t.Errorf("after %d: got %v, want %v", n, got, want)
			}
			l.CameBack()
		}
	})

	t.Run("MissesWhoDoesNotComeWithinASecond", func(t *testing.T) {
		t.Parallel()
		var l Line
		for range 4 {
			l.Reserve(morning, time.Second, step)
		}
		for after, want := range []bool{false, true, true, true, true, false} {
			if got := l.Missed(morning.Add(time.Duration(after) * time.Second)); got != want {
				t.Errorf("after %d s: got %v, want %v", after, got, want)
			}
		}
	})

	t.Run("IsNotDueBeforeItsFirst", func(t *testing.T) {
		t.Parallel()
		var l Line
		l.Reserve(morning.Add(10*time.Second), quarter, step)
		if l.Due(morning, morning.Add(5*time.Second)) || !l.Due(morning, morning.Add(10*time.Second)) {
			t.Error("want it due from its first time on")
		}
		if late := morning.Add(12 * time.Second); l.Due(late, late) {
			t.Error("a caller that never came is waited for")
		}
	})
}

func TestSample(t *testing.T) {
	t.Parallel()
	var s Sample[string]
	want := func(what string, want int64) {
		t.Helper()
		if got := s.Of("a"); got != want {
			t.Errorf("%s: got %d, want %d", what, got, want)
		}
	}
	s.Add("a", 3)
	want("added", 3)
	s.Begin()
	s.Add("a", 2)
	want("while a sample is taken", 5)
	s.End(map[string]int64{"a": 10})
	want("sampled, and added since it began", 12)
	s.Begin() // which fails
	want("after a failure", 12)
	s.Begin()
	s.Add("a", -1)
	s.End(map[string]int64{"a": 11})
	want("and the next", 10)
	s.Write("a", 4)
	s.Begin()
	s.End(map[string]int64{"a": 11})
	want("under way as a sample was taken", 15)
	s.Wrote("a", 3, true)
	s.Wrote("a", 1, false)
	want("written then, but for one", 14)
	if got := fmt.Sprint(s.Of("b")); got != "0" {
		t.Errorf("another: got %s, want 0", got)
	}
}
