package load

import (
	"slices"
	"testing"
)

func TestOutOfOrder(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		turns []turn
		want  []int
	}{
		"one after the other": {[]turn{
			{slot: 0, left: 0, acked: 1, called: 5}, {slot: 1, left: 2, acked: 3, called: 6},
		}, nil},
		"overtaken by one that left after the acknowledgement": {[]turn{
			{slot: 0, left: 0, acked: 1, called: 6}, {slot: 1, left: 2, acked: 3, called: 5},
		}, []int{0}},
		"overtaken by one that was under way too": {[]turn{
			{slot: 0, left: 0, acked: 3, called: 6}, {slot: 1, left: 2, acked: 3, called: 5},
		}, nil},
		"under way together, but against the sequence": {[]turn{
			{slot: 0, left: 0, acked: 3, called: 6, sequence: 1}, {slot: 1, left: 2, acked: 3, called: 5, sequence: 2},
		}, []int{0}},
		"the last of three comes first": {[]turn{
			{slot: 0, left: 0, acked: 1, called: 8}, {slot: 1, left: 2, acked: 3, called: 9}, {slot: 2, left: 4, acked: 5, called: 7},
		}, []int{0, 1}},
	} {
		if got := outOfOrder(test.turns); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}
