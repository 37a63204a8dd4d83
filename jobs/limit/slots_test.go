package limit

import "testing"

// takeAll takes as many slots as a client gets.
func takeAll(slots *Slots, client string) (got int) {
	for slots.Take(client, 1) {
		got++
	}
	return got
}

func TestSlots(t *testing.T) {
	t.Parallel()
	t.Run("GoToOneAloneButForAFifthOfMany", func(t *testing.T) {
		t.Parallel()
		for count, want := range map[int]int{1: 1, 2: 2, 4: 4, 5: 4, 8: 7, 64: 52, 100: 80} {
			slots := NewSlots(count, true)
			if got := takeAll(&slots, "a"); got != want {
				t.Errorf("of %d: got %d, want %d", count, got, want)
			}
		}
	})

	t.Run("AreLeftToTheNextWhereThereAreTwo", func(t *testing.T) {
		t.Parallel()
		for left, want := range map[int]int{0: 1, 1: 1, 2: 1, 3: 2, 5: 4, 125: 100} {
			if got := FairShare(left); got != want {
				t.Errorf("of %d that others leave: got %d, want %d", left, got, want)
			}
		}
	})

	t.Run("AreLeftForTheNextWhoComes", func(t *testing.T) {
		t.Parallel()
		slots := NewSlots(64, true)
		for n, client := range []string{"first", "second", "third"} {
			if got := takeAll(&slots, client); got == 0 {
				t.Errorf("after %d that took all they got: got none", n)
			}
		}
	})

	t.Run("BecomeEqualAsWorksEnd", func(t *testing.T) {
		t.Parallel()
		slots := NewSlots(90, true)
		first, second := takeAll(&slots, "first"), takeAll(&slots, "second")
		for range 90 { // one of each client ends, and both want another
			slots.Release("first", 1)
			slots.Release("second", 1)
			second += takeAll(&slots, "second") - 1
			first += takeAll(&slots, "first") - 1
		}
		if first < 40 || second < 40 || slots.Free() < 8 {
			t.Errorf("got %d, %d and %d free, want 40 for each", first, second, slots.Free())
		}
	})

	t.Run("AreAllThereWhereNobodyShares", func(t *testing.T) {
		t.Parallel()
		slots := NewSlots(64, false)
		if got := takeAll(&slots, "a"); got != 64 {
			t.Errorf("got %d, want all 64", got)
		}
		slots.Release("a", 1)
		if !slots.Take("b", 1) || slots.Take("b", 1) {
			t.Error("want the returned slot, and no more")
		}
	})
}
