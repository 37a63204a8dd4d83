package pacing

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringback/db"
)

// by is a clock that is ahead.
func by(ahead time.Duration) func(time.Time) time.Time {
	return func(at time.Time) time.Time {
		if at.IsZero() {
			return at
		}
		return at.Add(ahead)
	}
}

// Processes whose clocks differ remember for each other by the database's.
func TestRowByAnotherClock(t *testing.T) {
	t.Parallel()
	row := db.Receiver{
		ClosedUntil: morning, GrantedUntil: morning.Add(time.Hour), ExpiresAt: morning.Add(2 * time.Hour),
		Closings: encodeClosings(map[string]closing{"acme": {Trips: 2, Down: morning.Add(time.Minute), OneByOne: morning.Add(time.Hour), Claimed: morning.Add(time.Second), Shook: true}}),
	}
	there := ByClock(row, by(10*time.Minute))
	want := map[string]closing{"acme": {Trips: 2, Down: morning.Add(11 * time.Minute), OneByOne: morning.Add(70 * time.Minute), Claimed: morning.Add(10*time.Minute + time.Second), Shook: true}}
	if diff := cmp.Diff(want, closingsOf(there)); diff != "" || !there.ClosedUntil.Equal(morning.Add(10*time.Minute)) {
		t.Errorf("got the receiver closed until %v, and for clients (-want +got):\n%s", there.ClosedUntil, diff)
	}
	if diff := cmp.Diff(row, ByClock(there, by(-10*time.Minute))); diff != "" {
		t.Errorf("there and back (-want +got):\n%s", diff)
	}
}

func TestTakes(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	later, latest := now.Add(time.Minute), now.Add(time.Hour)
	toBob := func(until time.Time) []byte { return encodeClosings(map[string]closing{"bob": {Down: until}}) }
	for name, test := range map[string]struct {
		row    db.Receiver
		takes  string
		closed time.Time
	}{
		"a healthy receiver":            {db.Receiver{LastOutcome: "http_status", AnsweredFrom: prefixes(here)}, TakesAll, time.Time{}},
		"one that answered 500":         {db.Receiver{LastOutcome: "http_status"}, TakesNotYet, time.Time{}},
		"a receiver that is down":       {db.Receiver{Openings: 1, ClosedUntil: later}, TakesNone, later},
		"a receiver that paused":        {db.Receiver{ClosedUntil: later}, TakesNone, later},
		"after its time":                {db.Receiver{Openings: 1, ClosedUntil: now}, TakesProbes, time.Time{}},
		"closed to a client":            {db.Receiver{Closings: toBob(later)}, TakesSome, later},
		"closed to a client for longer": {db.Receiver{ClosedUntil: later, Closings: toBob(latest)}, TakesNone, latest},
		"closed to a client until now":  {db.Receiver{Closings: toBob(now)}, TakesAll, time.Time{}},
	} {
		if takes, closed := Takes(db.ListedReceiver{Receiver: test.row}, now); takes != test.takes || !closed.Equal(test.closed) {
			t.Errorf("%s: got %q until %s, want %q until %s", name, takes, closed, test.takes, test.closed)
		}
	}
}

func TestAReceiverThatIsMetOnOneDayIsSoonForgotten(t *testing.T) {
	t.Parallel()
	// Each meeting is in a new process, whose clock is a second off the clock of the last.
	met := func(hours float64, saved db.Receiver) (row db.Receiver, at time.Time) {
		at = morning.Add(time.Duration(hours * float64(time.Hour)))
		r := newReceiver("https://a:443", at)
		r.recall(ByClock(saved, by(time.Second)), at)
		r.proven, r.answeredFrom = true, prefixes(here)
		return r.row(at), at
	}
	first, at := met(0, db.Receiver{})
	if got := first.ExpiresAt.Sub(at); got != 2*day {
		t.Errorf("at the first meeting: got %v, want two days", got)
	}
	saved := first
	for _, hours := range []float64{0.001, 1, 12, 23.9} {
		row, _ := met(hours, saved)
		if got := row.ExpiresAt.Sub(first.ExpiresAt); got > 10*time.Second {
			t.Errorf("after %v hours: got %v more, want none", hours, got)
		}
		if differs(saved, row) {
			t.Errorf("after %v hours: a row that says the same is written again", hours)
		}
		saved = row
	}
	for _, hours := range []float64{24.1, 47.9, 24 * 20, 24*49 + 1} {
		row, at := met(hours, saved)
		if got := row.ExpiresAt.Sub(at); got != provenFor {
			t.Errorf("after %v hours: got %v, want 30 days", hours, got)
		}
		if hours != 47.9 && !differs(saved, row) {
			t.Errorf("after %v hours: the row is not written again", hours)
		}
		saved = row
	}
}
