package pacing

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringback/db"
)

// Processes whose clocks differ remember for each other by the database's.
func TestRowByAnotherClock(t *testing.T) {
	t.Parallel()
	by := func(ahead time.Duration) func(time.Time) time.Time {
		return func(at time.Time) time.Time {
			if at.IsZero() {
				return at
			}
			return at.Add(ahead)
		}
	}
	row := db.Receiver{
		ClosedUntil: morning, GrantedUntil: morning.Add(time.Hour), ExpiresAt: morning.Add(2 * time.Hour),
		Closings: encodeClosings(map[string]closing{"acme": {Openings: 2, Down: morning.Add(time.Minute), OneByOne: morning.Add(time.Hour), Claimed: morning.Add(time.Second)}}),
	}
	there := ByClock(row, by(10*time.Minute))
	want := map[string]closing{"acme": {Openings: 2, Down: morning.Add(11 * time.Minute), OneByOne: morning.Add(70 * time.Minute), Claimed: morning.Add(10*time.Minute + time.Second)}}
	if diff := cmp.Diff(want, closingsOf(there)); diff != "" || !there.ClosedUntil.Equal(morning.Add(10*time.Minute)) {
		t.Errorf("got the receiver closed until %v, and for clients (-want +got):\n%s", there.ClosedUntil, diff)
	}
	if diff := cmp.Diff(row, ByClock(there, by(-10*time.Minute))); diff != "" {
		t.Errorf("there and back (-want +got):\n%s", diff)
	}
}
