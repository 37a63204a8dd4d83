package main

import (
	"slices"
	"strings"
	"testing"
)

func TestScenariosOfAShortRun(t *testing.T) {
	t.Parallel()
	var said strings.Builder
	var ran []string
	one := func(name string, long bool) scenario {
		return scenario{name, "something", long, rounds(func(*measurement) { ran = append(ran, name) })}
	}
	b := &bench{options: options{plan: plan{short: true, repeat: 2}, only: []string{"quick", "slow"}}, figures: figures{}, out: &said}
	err := b.on(t.Context(), func(s *measurement) {
		s.runScenarios([]scenario{one("quick", false), one("slow", true), one("other", false)})
	})
	if want := []string{"quick", "quick"}; err != nil || !slices.Equal(ran, want) || !strings.Contains(said.String(), "slow: left out") {
		t.Errorf("got %v, %v and %q, want %v, and slow left out", ran, err, said.String(), want)
	}
}

func TestCommitThatIsNotHereIsLeftOut(t *testing.T) {
	t.Parallel()
	var said strings.Builder
	b := &bench{options: options{against: "0123456789012345678901234567890123456789"}, out: &said}
	err := b.on(t.Context(), func(s *measurement) {
		if v, found := s.buildBefore("."); found {
			t.Errorf("got %v, want no program", v)
		}
	})
	if want := "e2e_ratio_before is left out: this clone doesn't hold the commit 0123456789012345678901234567890123456789"; err != nil || !strings.Contains(said.String(), want) {
		t.Errorf("got %v and %q, want %q", err, said.String(), want)
	}
}
