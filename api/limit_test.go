package api

import "testing"

func TestRateLeft(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		tokens                         float64
		perSecond, wantLeft, wantReset int
	}{
		{100, 50, 100, 0}, {99, 50, 99, 1}, {50, 50, 50, 1}, {49.9, 50, 49, 2}, {1, 50, 1, 2},
		{0.99, 50, 0, 1}, {0, 50, 0, 1}, {-0.5, 1, 0, 2}, {2, 1, 2, 0},
	} {
		if left, reset := rateLeft(test.tokens, test.perSecond); left != test.wantLeft || reset != test.wantReset {
			t.Errorf("%v tokens at %d a second: got %d left and reset in %d s, want %d and %d",
				test.tokens, test.perSecond, left, reset, test.wantLeft, test.wantReset)
		}
	}
}
