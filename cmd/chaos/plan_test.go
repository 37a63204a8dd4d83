package main

import (
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestDrawFollowsFromTheSeed(t *testing.T) {
	t.Parallel()
	if a, b := draw(7, time.Minute, nil), draw(7, time.Minute, nil); !reflect.DeepEqual(a, b) {
		t.Errorf("one seed gave %v and %v", a, b)
	}
	if a, b := draw(7, time.Minute, nil), draw(8, time.Minute, nil); reflect.DeepEqual(a.Faults, b.Faults) {
		t.Errorf("two seeds gave %v", a.Faults)
	}
}

func TestDrawReachesEveryFaultAndStaysWithinTheRun(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	differing, skewed := 0, 0
	for seed := range uint64(100) {
		p := draw(seed, time.Minute, nil)
		if p.Ahead != 0 {
			differing++
		}
		if p.Skews != nil {
			skewed++
		}
		for _, f := range p.Faults {
			seen[f.Kind] = true
			if f.At < 0 || f.At+f.Length > p.Duration {
				t.Errorf("seed %d: %s ends after %s", seed, f, p.Duration)
			}
			if of := kindOf(f.Kind).of; of != nil && of(len(p.Roles))[f.Target] != f.Of {
				t.Errorf("seed %d: %s, whose target is number %d of %v", seed, f, f.Target, of(len(p.Roles)))
			}
		}
	}
	if differing == 0 || differing == 100 {
		t.Errorf("the clocks differ in %d runs of 100, want some", differing)
	}
	if skewed == 0 || skewed == 100 {
		t.Errorf("the clocks of servers differ in %d runs of 100, want some", skewed)
	}
	for _, k := range kinds {
		if seen[k.name] != (k.share > 0) {
			t.Errorf("seeds have %s: got %t, want %t", k.name, seen[k.name], k.share > 0)
		}
	}
}

func TestDrawKeepsToTheKindsThatAreWanted(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		for _, f := range draw(seed, time.Minute, []string{"kill", "database-crash"}).Faults {
			if f.Kind != "kill" && f.Kind != "database-crash" {
				t.Errorf("seed %d: %s was not wanted", seed, f)
			}
		}
		if p := draw(seed, time.Minute, []string{"kill"}); p.Ahead != 0 {
			t.Errorf("seed %d: the clock is %s ahead, which was not wanted", seed, p.Ahead)
		}
		if p := draw(seed, time.Minute, []string{serverClocks}); p.Skews == nil || p.Ahead != 0 || len(p.Faults) > 0 {
			t.Errorf("seed %d: got %+v, want a server whose clock differs and nothing else", seed, p)
		}
		if p := draw(seed, time.Minute, []string{clocks}); p.Ahead == 0 || len(p.Faults) > 0 {
			t.Errorf("seed %d: got %+v, want clocks that differ and nothing else", seed, p)
		}
	}
}

func TestLanesFollowFromTheSeedAndHaveEveryManner(t *testing.T) {
	t.Parallel()
	texts, inputs := map[string]bool{}, ""
	for number := range peacefulSeries + hostileSeries {
		a, b := newSeries(plan{Seed: 7}, number), newSeries(plan{Seed: 7}, number)
		for range 200 {
			one, two := a.next(), b.next()
			if !reflect.DeepEqual(one, two) {
				t.Fatalf("one seed gave %+v and %+v", one, two)
			}
			if one.Hostile != (number >= peacefulSeries) || (one.OrderingKey != "") != (number < orderedSeries) {
				t.Errorf("series %d: got %+v", number, one)
			}
			texts[one.Text] = true
			inputs += string(one.Input)
		}
	}
	if want := 200 * (peacefulSeries + hostileSeries); len(texts) != want {
		t.Errorf("got %d texts, want %d: the check tells calls apart by it", len(texts), want)
	}
	for _, m := range mannerNames() {
		if !strings.Contains(inputs, `"`+string(m)+`"`) {
			t.Errorf("no series has the manner %s", m)
		}
	}
}

func TestPlansAreTheUpgradesAndTheSeeds(t *testing.T) {
	t.Parallel()
	for args, want := range map[string][]string{
		"-seed 7 -runs 2 -from a,b":    {"upgrade from a", "upgrade from b", "seed 7", "seed 8"},
		"-seed 7 -from= ":              {"seed 7"},
		"-seed 7 -faults kill":         {"seed 7"},
		"-faults upgrade -from a":      {"upgrade from a"},
		"-faults kill,upgrade -from a": {"upgrade from a", "seed 1"},
		"-faults upgrade -from=":       nil,
		"-faults kills":                nil,
		"-runs 0":                      nil,
		"-duration 1s":                 nil,
		"more":                         nil,
	} {
		settings := map[string]string{"POSTGRES_FOLDER": ".postgres", "POSTGRES_PORT": "1"}
		o, err := readOptions(strings.Fields(args), func(name string) string { return settings[name] }, io.Discard)
		if (err != nil) != (want == nil) {
			t.Errorf("%s: got %v", args, err)
		}
		var got []string
		for _, p := range o.plans() {
			got = append(got, p.String())
		}
		if want != nil && !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", args, got, want)
		}
	}
	if _, err := readOptions(nil, func(string) string { return "" }, io.Discard); err == nil {
		t.Error("without a Postgres that may be stopped: got no error")
	}
}
