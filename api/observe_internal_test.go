package api

import (
	"testing"
	"time"
)

func TestSeldomLines(t *testing.T) {
	t.Parallel()
	var lines seldomLines
	at := time.Unix(1_000, 0)
	passed := 0
	for range 1000 {
		if _, due := lines.take(at); due {
			passed++
		}
	}
	if passed != maxStrangersLines {
		t.Errorf("of a thousand at once: got %d lines, want %d", passed, maxStrangersLines)
	}
	if unlogged, due := lines.take(at.Add(time.Second)); !due || unlogged != 1000-maxStrangersLines {
		t.Errorf("a second later: got %v, after %d unlogged, want a line that counts the %d others", due, unlogged, 1000-maxStrangersLines)
	}
	if unlogged, due := lines.take(at.Add(time.Second)); !due || unlogged != 0 {
		t.Errorf("next: got %v, after %d unlogged, want a line after none", due, unlogged)
	}
}
