package jobs

import (
	"testing"
	"time"

	"ringback/jobs/clients"
)

func TestDueTimesOfAClientAreSpread(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 27, 4, 0, 0, 0, time.UTC)
	q := &quotas{limits: limited(clients.Limits{Rate: 50})}

	t.Run("TheRestIsDueInTheSecondsAfter", func(t *testing.T) {
		wanted, in := now.Add(time.Hour+300*time.Millisecond), map[time.Time]int{}
		for range 10_000 {
			in[q.dueAt("hostile", wanted, now)]++
		}
		for second := range 100 {
			if at := wanted.Add(time.Duration(second) * time.Second); in[at] != 100 {
				t.Errorf("due %d s after the wanted time: got %d, want twice the rate of 50", second, in[at])
			}
		}
	})
	t.Run("WorkForNearbySecondsSharesTheRate", func(t *testing.T) {
		wanted := now.Add(time.Hour + 50*time.Second)
		if got, want := q.dueAt("hostile", wanted, now), wanted.Add(50*time.Second); !got.Equal(want) {
			t.Errorf("got %v, want %v, the first second with room", got, want)
		}
	})
	t.Run("OtherClientsAndOtherTimesAreOnTime", func(t *testing.T) {
		for client, wanted := range map[string]time.Time{"honest": now.Add(time.Hour), "hostile": now.Add(2 * time.Hour)} {
			if got := q.dueAt(client, wanted, now); !got.Equal(wanted) {
				t.Errorf("%s: got %v, want %v", client, got, wanted)
			}
		}
	})
	t.Run("WorkForAtOnceStaysSo", func(t *testing.T) {
		if got := q.dueAt("hostile", time.Time{}, now); !got.IsZero() {
			t.Errorf("got %v, want no time", got)
		}
		if got := (*quotas)(nil).dueAt("local", now, now); !got.Equal(now) {
			t.Errorf("without limits: got %v, want the wanted time", got)
		}
	})
	t.Run("SecondsThatAreOverTakeNoMemory", func(t *testing.T) {
		q := &quotas{limits: limited(clients.Limits{Rate: 50})}
		for second := range 20 * leastDue {
			at := now.Add(time.Duration(second) * time.Second)
			q.dueAt("honest", at.Add(time.Second), at)
		}
		if len(q.due) > leastDue {
			t.Errorf("got %d seconds in memory, want %d at most", len(q.due), leastDue)
		}
	})
}
