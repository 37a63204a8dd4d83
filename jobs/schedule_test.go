package jobs

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"ringback/jobs/flow"
	"ringback/jobs/pacing"
)

func TestRetryDelay(t *testing.T) {
	t.Parallel()
	want := []time.Duration{
		time.Second, 5 * time.Second, 30 * time.Second,
		2 * time.Minute, 10 * time.Minute, 30 * time.Minute,
		2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 24 * time.Hour,
	}
	for i, nominal := range want {
		attempt := i + 1
		t.Run(fmt.Sprintf("StaysWithinAFifthOfItsStep/%d", attempt), func(t *testing.T) {
			t.Parallel()
			seen := map[time.Duration]bool{}
			for job := range int64(1000) {
				got, again := retryDelay(job, attempt)
				if low, high := nominal*8/10, nominal*12/10; !again || got < low || got > high {
					t.Errorf("job %d, attempt %d: got %v, %v, want %v to %v, true", job, attempt, got, again, low, high)
				}
				if repeated, _ := retryDelay(job, attempt); repeated != got {
					t.Errorf("job %d, attempt %d: got %v, then %v, want the same", job, attempt, got, repeated)
				}
				seen[got] = true
			}
			if len(seen) < 900 {
				t.Errorf("attempt %d of 1000 jobs: got %d delays, want them spread", attempt, len(seen))
			}
		})
	}

	t.Run("EndsAfterTheTenthRetry", func(t *testing.T) {
		t.Parallel()
		for _, attempt := range []int{11, 12, 1000} {
			if got, again := retryDelay(1, attempt); again {
				t.Errorf("attempt %d: got %v, true, want false", attempt, got)
			}
		}
	})
}

func TestThrottleDelay(t *testing.T) {
	t.Parallel()
	for range 1000 {
		got := throttleDelay(time.Minute)
		if got < time.Minute || got > 66*time.Second {
			t.Fatalf("told to wait 1m: got %v, want 1m to 1m6s", got)
		}
	}
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

func TestThrottleDelayNeverPassesADay(t *testing.T) {
	t.Parallel()
	for _, asked := range []time.Duration{time.Second, 20 * time.Hour, 24 * time.Hour} {
		for range 100 {
			got := throttleDelay(asked)
			if got > 24*time.Hour || got < min(asked, 21*time.Hour) {
				t.Fatalf("Retry-After of %v: got %v, want the same or a little more, and a day at most", asked, got)
			}
		}
	}
}

func TestUnfinishedRequestsAreNeverLessThanNone(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	q := &Queue{runSlots: flow.NewSlots(1, flow.NewRoom(1, 1, false), false), record: newRecord(slog.New(slog.DiscardHandler), nil), pacing: pacing.New(pacing.Config{Workers: 1})}
	q.metrics = newMetrics(registry, q)
	q.backlog.unfinished.Add(ofAll{}, -3) // ended since the sample
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if value := family.GetMetric()[0].GetGauge().GetValue(); family.GetName() == "ringback_unfinished_requests" && value != 0 {
			t.Errorf("got %v, want 0", value)
		}
	}
}
