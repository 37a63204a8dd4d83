package upkeep

import (
	"testing"
	"time"
)

var morning = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

func TestVigil(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		beats []int // seconds
		asked int
		want  bool
	}{
		{"ThreeIntervalsAreTrusted", []int{0, 2, 4, 6}, 6, true},
		{"FewerAreNot", []int{0, 2, 4}, 5, false},
		{"BeatMissedIsForgiven", []int{0, 2, 6}, 6, true},
		{"OutageBeginsAnew", []int{0, 2, 4, 6, 36}, 36, false},
		{"OutageIsOverThreeIntervalsLater", []int{0, 2, 36, 38, 40, 42}, 42, true},
		{"SilenceOfItsOwnIsNotTrusted", []int{0, 2, 4, 6}, 20, false},
		{"NoBeatAtAllIsNot", nil, 100, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var v vigil
			for _, second := range test.beats {
				v = v.at(morning.Add(time.Duration(second) * time.Second))
			}
			if got := v.trusts(morning.Add(time.Duration(test.asked) * time.Second)); got != test.want {
				t.Errorf("beats at %v, asked at %d: got %v, want %v", test.beats, test.asked, got, test.want)
			}
		})
	}
}
