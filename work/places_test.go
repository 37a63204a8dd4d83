package work

import "testing"

// takeAll takes as many places as a client gets.
func takeAll(places *Places, client string) (got int) {
	for places.Take(client) {
		got++
	}
	return got
}

func TestPlaces(t *testing.T) {
	t.Parallel()
	t.Run("GoToOneAloneButForAFifthOfMany", func(t *testing.T) {
		t.Parallel()
		for count, want := range map[int]int{1: 1, 2: 2, 4: 4, 5: 4, 8: 7, 64: 52, 100: 80} {
			places := NewPlaces(count, true)
			if got := takeAll(&places, "a"); got != want {
				t.Errorf("of %d: got %d, want %d", count, got, want)
			}
		}
	})

	t.Run("AreLeftForWhoeverComesNext", func(t *testing.T) {
		t.Parallel()
		places := NewPlaces(64, true)
		for n, client := range []string{"first", "second", "third"} {
			if got := takeAll(&places, client); got == 0 {
				t.Errorf("after %d that took all they got: got none", n)
			}
		}
	})

	t.Run("BecomeEqualAsWorksEnd", func(t *testing.T) {
		t.Parallel()
		places := NewPlaces(90, true)
		first, second := takeAll(&places, "first"), takeAll(&places, "second")
		for range 90 { // one of each ends, and both want another
			places.Leave("first")
			places.Leave("second")
			second += takeAll(&places, "second") - 1
			first += takeAll(&places, "first") - 1
		}
		if first < 40 || second < 40 || places.Free() < 8 {
			t.Errorf("got %d, %d and %d free, want 40 for each", first, second, places.Free())
		}
	})

	t.Run("AreAllThereWhereNobodyShares", func(t *testing.T) {
		t.Parallel()
		places := NewPlaces(64, false)
		if got := takeAll(&places, "a"); got != 64 {
			t.Errorf("got %d, want all 64", got)
		}
		places.Leave("a")
		if !places.Take("b") || places.Take("b") {
			t.Error("want the one that was given back, and no more")
		}
	})
}
