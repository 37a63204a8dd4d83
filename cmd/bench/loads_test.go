package main

import (
	"testing"

	"ringback/cmd/internal/receivers"
)

func TestAnEarlierServerCallsAReceiverThatGrants(t *testing.T) {
	t.Parallel()
	b := new(bench)
	if before, now := receiverOf(variant{name: before}), receiverOf(b.ours()); before != receivers.Granting || now != receivers.OK {
		t.Errorf("got %s and %s, want granting and ok", before, now)
	}
}
