package upkeep

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	"ringback/db/dbtest"
)

var morning = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

func TestVigil(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		beats []int // seconds
		set   []int // by so many seconds is the database's clock set before each beat
		asked int
		want  bool
	}{
		{"ThreeIntervalsAreTrusted", []int{0, 2, 4, 6}, nil, 6, true},
		{"FewerAreNot", []int{0, 2, 4}, nil, 5, false},
		{"BeatMissedIsForgiven", []int{0, 2, 6}, nil, 6, true},
		{"OutageBeginsAnew", []int{0, 2, 4, 6, 36}, nil, 36, false},
		{"OutageIsOverThreeIntervalsLater", []int{0, 2, 36, 38, 40, 42}, nil, 42, true},
		{"SilenceOfItsOwnIsNotTrusted", []int{0, 2, 4, 6}, nil, 20, false},
		{"NoBeatAtAllIsNot", nil, nil, 100, false},
		{"ClockSetForwardBeginsAnew", []int{0, 2, 4, 6, 8}, []int{0, 0, 0, 0, 600}, 8, false},
		{"ClockSetBackBeginsAnew", []int{0, 2, 4, 6, 8}, []int{0, 0, 0, 0, -600}, 8, false},
		{"ClockThatWasSetIsTrustedThreeIntervalsLater", []int{0, 2, 4, 6, 8, 10, 12, 14}, []int{0, 0, 0, 0, 600}, 14, true},
		{"ClockThatIsSlewedIsTrusted", []int{0, 2, 4, 6}, []int{0, 1, 1, 1}, 6, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var v vigil
			set := 0
			for i, second := range test.beats {
				if i < len(test.set) {
					set += test.set[i]
				}
				v = v.at(morning.Add(time.Duration(second)*time.Second), morning.Add(time.Duration(second+set)*time.Second))
			}
			if got := v.trusts(morning.Add(time.Duration(test.asked) * time.Second)); got != test.want {
				t.Errorf("beats at %v, asked at %d: got %v, want %v", test.beats, test.asked, got, test.want)
			}
		})
	}
}

// A start that fails behind the heartbeat is tried again. Two heartbeats of one process would
// share its lock's connection.
func TestHeartbeatThatIsStartedAgainBeatsOnce(t *testing.T) {
	t.Parallel()
	h := NewHeartbeat("process", false, "callback", func(int64) bool { return false }, func(error) {}, dbtest.NewPool(t), slog.New(slog.DiscardHandler))
	for range 2 {
		if err := h.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- h.End(context.Background(), false) }()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(dbtest.Patience):
		t.Fatal("End waits for a heartbeat that nothing ends")
	}
}

func TestStraysLastForAWhile(t *testing.T) {
	t.Parallel()
	start := time.Now()
	strays, lasting := straysAt(start, nil, []int64{1, 2})
	if len(lasting) > 0 {
		t.Errorf("at the first look: got %v, want none", lasting)
	}
	strays, lasting = straysAt(start.Add(BeatInterval), strays, []int64{1})
	if len(lasting) > 0 {
		t.Errorf("at the second look: got %v, want none, since a process that lives may not have beaten", lasting)
	}
	_, lasting = straysAt(start.Add(TrustAfter), strays, []int64{1, 2})
	if !slices.Equal(lasting, []int64{1}) {
		t.Errorf("later: got %v, want the job that was stray at each look", lasting)
	}
}
