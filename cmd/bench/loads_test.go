package main

import (
	"testing"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/receivers"
)

func TestAnEarlierServerCallsAReceiverThatGrants(t *testing.T) {
	t.Parallel()
	b := new(bench)
	if before, now := receiverOf(variant{name: before}), receiverOf(b.ours()); before != receivers.Granting || now != receivers.OK {
		t.Errorf("got %s and %s, want granting and ok", before, now)
	}
}

// The quantiles of nothing are 0, which is below each goal.
func TestQuantilesOfNothingAreNoFigure(t *testing.T) {
	t.Parallel()
	for count, of := range []load.Quantiles{{}, {Count: 1, P99: 3}} {
		err := new(bench).on(t.Context(), func(s *measurement) { s.sampled("callback", of) })
		if (err == nil) != (count > 0) {
			t.Errorf("%d samples: got %v", count, err)
		}
	}
}
