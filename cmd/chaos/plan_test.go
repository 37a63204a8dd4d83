package main

import (
	"reflect"
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
	seen := map[kind]bool{}
	differing, skewed := 0, 0
	for seed := range uint64(100) {
		p := draw(seed, time.Minute, nil)
		if p.Ahead != 0 {
			differing++
		}
		if p.skewed() != 0 {
			skewed++
		}
		for _, f := range p.Faults {
			seen[f.Kind] = true
			if f.At < 0 || f.At+f.Length > p.Duration {
				t.Errorf("seed %d: %s ends after %s", seed, f, p.Duration)
			}
			if f.Kind != backends && f.Kind != lock && f.Target >= len(p.Roles) {
				t.Errorf("seed %d: %s, with %d servers", seed, f, len(p.Roles))
			}
		}
	}
	if differing == 0 || differing == 100 {
		t.Errorf("the clocks differ in %d runs of 100, want some", differing)
	}
	if skewed == 0 || skewed == 100 {
		t.Errorf("the clocks of servers differ in %d runs of 100, want some", skewed)
	}
	for _, c := range chances {
		if !seen[c.kind] {
			t.Errorf("no seed has %s", c.kind)
		}
	}
}

func TestDrawKeepsToTheKindsThatAreWanted(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		for _, f := range draw(seed, time.Minute, []kind{kill, crash}).Faults {
			if f.Kind != kill && f.Kind != crash {
				t.Errorf("seed %d: %s was not wanted", seed, f)
			}
		}
		if p := draw(seed, time.Minute, []kind{kill}); p.Ahead != 0 {
			t.Errorf("seed %d: the clock is %s ahead, which was not wanted", seed, p.Ahead)
		}
		if p := draw(seed, time.Minute, []kind{serverClocks}); p.skewed() == 0 || p.Ahead != 0 || len(p.Faults) > 0 {
			t.Errorf("seed %d: got %+v, want a server whose clock differs and nothing else", seed, p)
		}
		if p := draw(seed, time.Minute, []kind{clocks}); p.Ahead == 0 || len(p.Faults) > 0 {
			t.Errorf("seed %d: got %+v, want clocks that differ and nothing else", seed, p)
		}
	}
}

func TestLanesFollowFromTheSeed(t *testing.T) {
	t.Parallel()
	a, b := newLane(7, 2), newLane(7, 2)
	texts := map[string]bool{}
	for range 200 {
		one, two := a.next(7), b.next(7)
		if !reflect.DeepEqual(one, two) {
			t.Fatalf("one seed gave %+v and %+v", one, two)
		}
		texts[one.Text] = true
	}
	if len(texts) != 200 {
		t.Errorf("200 calls have %d texts, want as many: the check tells them apart by it", len(texts))
	}
}

func TestFindKnowsAServerByTheTimeInItsRiverClient(t *testing.T) {
	t.Parallel()
	started := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := &servers{lives: []life{
		{server: 0, started: started, healthy: started.Add(time.Second)},
		{server: 1, ahead: time.Hour, started: started.Add(2 * time.Second), healthy: started.Add(3 * time.Second)},
	}}
	if number, known := s.find("some_host_2026_01_02T04_04_07_500000"); !known || number != 1 {
		t.Errorf("got server %d, %t, want 1", number, known)
	}
	for _, client := range []string{"", "host", "some_host_2026_01_02T03_04_06_500000"} {
		if number, known := s.find(client); known {
			t.Errorf("%q is server %d, want none", client, number)
		}
	}
}
