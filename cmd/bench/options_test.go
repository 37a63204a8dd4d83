package main

import (
	"io"
	"slices"
	"strings"
	"testing"
)

func TestReadOptions(t *testing.T) {
	t.Parallel()
	o, err := readOptions(strings.Fields("-only accept,e2e -repeat 2 -rows 2000000,5000"), environment("short"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(o.only, []string{"accept", "e2e"}) || o.plan.repeat != 2 ||
		!slices.Equal(o.plan.grown, []int{5000, 2_000_000}) || o.plan.steadyFor != shortPlan().steadyFor ||
		o.against != beforeHandOver || o.plan.snapshotFor != shortPlan().snapshotFor {
		t.Errorf("got %+v", o)
	}
}

func environment(mode string) func(string) string {
	return func(name string) string {
		return map[string]string{"BENCH": mode, "DATABASE_URL": "postgres://there"}[name]
	}
}

func TestReadOptionsRefuses(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"-only speed", "-repeat 0", "-rows 0", "-rows many", "-against -x", "-snapshot 1s", "-snapshot 2h", "more"} {
		if _, err := readOptions(strings.Fields(args), environment(""), io.Discard); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
}

func TestRowsName(t *testing.T) {
	t.Parallel()
	for rows, want := range map[int]string{10_000: "10k", 1_000_000: "1m", 10_000_000: "10m", 1234: "1234"} {
		if got := rowsName(rows); got != want {
			t.Errorf("rowsName(%d) = %q, want %q", rows, got, want)
		}
	}
}
