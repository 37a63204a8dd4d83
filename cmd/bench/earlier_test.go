package main

import (
	"strings"
	"testing"
)

func TestCommitThatIsNotHereIsLeftOut(t *testing.T) {
	t.Parallel()
	var said strings.Builder
	b := &bench{options: options{against: "0123456789012345678901234567890123456789"}, out: &said}
	if err := b.buildBefore(t.Context(), t.TempDir()); err != nil || b.before != "" {
		t.Errorf("got %q, %v, want neither a program nor an error", b.before, err)
	}
	if want := "e2e_ratio_before is left out: this clone doesn't hold the commit 0123456789012345678901234567890123456789"; !strings.HasPrefix(said.String(), want) {
		t.Errorf("got %q, want %q", said.String(), want)
	}
}
