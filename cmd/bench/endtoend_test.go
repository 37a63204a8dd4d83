package main

import (
	"testing"

	"ringback/cmd/internal/receivers"
)

func TestAnEarlierServerCallsAReceiverThatGrants(t *testing.T) {
	t.Parallel()
	if before, now := receiverOf(before), receiverOf(ours); before != receivers.Granting || now != receivers.OK {
		t.Errorf("got %s and %s, want granting and ok", before, now)
	}
}
