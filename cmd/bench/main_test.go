package main

import (
	"io"
	"slices"
	"strings"
	"testing"
)

func TestReadOptions(t *testing.T) {
	t.Parallel()
	o, err := readOptions(strings.Fields("-only accept,e2e -repeat 2"), environment("short"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	want := newPlan(true)
	want.repeat = 2
	if !slices.Equal(o.only, []string{"accept", "e2e"}) || o.plan != want || o.against != beforeHandOver {
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
	for _, args := range []string{"-only speed", "-repeat 0", "-against -x", "more"} {
		if _, err := readOptions(strings.Fields(args), environment(""), io.Discard); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
}
