package load

import (
	"slices"
	"testing"
)

func TestOutOfOrder(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		turns []request
		want  []int
	}{
		"one after the other": {[]request{
			{at: 0, took: 1, called: 5}, {at: 2, took: 1, called: 4},
		}, nil},
		"overtaken by a request that left after the acknowledgement": {[]request{
			{at: 0, took: 1, called: 6}, {at: 2, took: 1, called: 3},
		}, []int{0}},
		"overtaken by a request that was under way too": {[]request{
			{at: 0, took: 3, called: 6}, {at: 1, sendDelay: 1, took: 2, called: 4},
		}, nil},
		"under way together, but against the sequence": {[]request{
			{at: 0, took: 3, called: 6, sequence: 1}, {at: 2, took: 1, called: 3, sequence: 2},
		}, []int{0}},
		"the last of three comes first": {[]request{
			{at: 0, took: 1, called: 8}, {at: 2, took: 1, called: 7}, {at: 4, took: 1, called: 3},
		}, []int{0, 1}},
	} {
		turns := make([]*request, len(test.turns))
		for i := range turns {
			turns[i] = &test.turns[i]
		}
		markLate(turns)
		var got []int
		for i, turn := range test.turns {
			if turn.flags&wrongOrder != 0 {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}
