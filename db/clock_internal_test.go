package db

import (
	"testing"
	"time"
)

func TestClock(t *testing.T) {
	t.Parallel()
	const minute = time.Minute
	for _, test := range []struct {
		name     string
		readings []time.Duration // how far the database is ahead
		took     time.Duration
		want     time.Duration
	}{
		{"IsThisProcessesBeforeTheFirstReading", nil, 0, 0},
		{"IsThisProcessesWhereTheyAgree", []time.Duration{9 * time.Millisecond}, 0, 0},
		{"IsTheDatabases", []time.Duration{10 * minute}, 0, 10 * minute},
		{"IsTheDatabasesWhereItIsBehind", []time.Duration{-72 * time.Hour}, 0, -72 * time.Hour},
		{"DoesNotTremble", []time.Duration{10 * minute, 10*minute + 5*time.Millisecond}, 0, 10 * minute},
		{"FollowsAFailover", []time.Duration{10 * minute, -minute}, 0, -minute},
		{"FollowsWhenTheyAgreeAgain", []time.Duration{10 * minute, time.Millisecond}, 0, 0},
		{"TakesASlowWayForNoDifference", []time.Duration{900 * time.Millisecond}, 2 * time.Second, 0},
		{"KeepsWhatASlowWayDoesNotRefute", []time.Duration{10 * minute, 10*minute + 900*time.Millisecond}, 2 * time.Second, 10 * minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var clock Clock
			sent := time.Now()
			for _, ahead := range test.readings {
				clock.set(sent, test.took, sent.Add(test.took/2+ahead))
			}
			if got := clock.At(sent).Sub(sent); got != test.want || clock.Skew() != -test.want {
				t.Errorf("got the database ahead by %v, skew %v, want %v", got, clock.Skew(), test.want)
			}
			if got := clock.Here(clock.At(sent)); !got.Equal(sent) {
				t.Errorf("there and back: got %v, want %v", got, sent)
			}
			if got := clock.At(time.Time{}); !got.IsZero() {
				t.Errorf("no time: got %v", got)
			}
		})
	}

	t.Run("KnowsHowWrongItMayBe", func(t *testing.T) {
		t.Parallel()
		var clock Clock
		sent := time.Now()
		for i, step := range []struct{ ahead, took, want time.Duration }{
			{minute, 2 * time.Second, time.Second + sameClock},
			{minute + 500*time.Millisecond, 100 * time.Millisecond, 50*time.Millisecond + sameClock}, // it was wrong
			{minute + 505*time.Millisecond, 2 * time.Second, 50*time.Millisecond + sameClock},        // it may be right
			{-minute, time.Second, 500*time.Millisecond + sameClock},                                 // after a failover
			{-minute, 0, sameClock},
		} {
			clock.set(sent, step.took, sent.Add(step.took/2+step.ahead))
			if got := clock.Error(); got != step.want {
				t.Errorf("reading %d: got an error of %v, want %v", i+1, got, step.want)
			}
		}
	})

	t.Run("MakesIDsThatRise", func(t *testing.T) {
		t.Parallel()
		var clock Clock
		sent := time.Now()
		clock.set(sent, 0, sent.Add(-72*time.Hour))
		before := clock.NewID()
		for range 10_000 {
			id := clock.NewID()
			if id.String() <= before.String() || id.Version() != 7 || id.Variant().String() != "RFC4122" {
				t.Fatalf("got %s of version %d after %s", id, id.Version(), before)
			}
			before = id
		}
		if first := AcceptedAt(before); first.Before(clock.At(sent).Truncate(time.Millisecond)) || first.After(sent.Add(-24*time.Hour)) {
			t.Errorf("got an id of %v, want it of the database's time, %v", first, clock.At(sent))
		}
	})
}
