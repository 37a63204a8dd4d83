package main

import (
	"errors"
	"testing"
)

func TestVerdict(t *testing.T) {
	t.Parallel()
	fine, broken := outcome{}, outcome{Violations: []violation{{Invariant: "x"}}}
	for name, test := range map[string]struct {
		runs []outcome
		want error
	}{
		"no run, of commits that this clone doesn't hold, say": {nil, errNothing},
		"runs that are fine":                    {[]outcome{fine, fine}, nil},
		"a run that is broken among those fine": {[]outcome{fine, broken, fine}, errBroken},
	} {
		found := newReport()
		found.Runs = test.runs
		if got := found.verdict(); !errors.Is(got, test.want) {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}
