package main

import (
	"encoding/json"
	"math"
	"testing"

	"ringback/work"
)

func TestWorkload(t *testing.T) {
	t.Parallel()
	load, err := parseWorkload("text=20..40,rounds=exp:100,delay=5ms")
	if err != nil {
		t.Fatal(err)
	}
	author := newAuthor(load)
	seen := make(map[string]bool)
	rounds := 0.0
	for number := range 2000 {
		raw := author.appendInput(nil, author.order(number))
		if _, err := work.Check(raw); err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		var input work.Input
		if err := json.Unmarshal(raw, &input); err != nil {
			t.Fatal(err)
		}
		if len(input.Text) < 20 || len(input.Text) > 40 || input.Delay != 5 {
			t.Fatalf("got %d bytes and %d ms, want 20 to 40 and 5", len(input.Text), input.Delay)
		}
		if seen[input.Text] {
			t.Fatalf("the text %q came twice", input.Text)
		}
		seen[input.Text] = true
		rounds += float64(input.Rounds) / 2000
	}
	if math.Abs(rounds-100) > 10 {
		t.Errorf("mean of the rounds: got %v, want 100", rounds)
	}
	if again := newAuthor(load); string(again.appendInput(nil, again.order(7))) != string(author.appendInput(nil, author.order(7))) {
		t.Error("the same seed gives another input")
	}
}

func TestSmallestAndLargestText(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, work.MaxTextBytes} {
		load := defaultWorkload()
		load.text = fixed(size)
		author := newAuthor(load)
		if got := len(author.appendText(nil, author.order(123_456))); got != size {
			t.Errorf("got %d bytes, want %d", got, size)
		}
	}
}

func TestParseWorkloadRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "text", "text=0", "text=65537", "text=9..5", "text=exp:5..9", "rounds=-1", "rounds=x", "delay=5", "delay=31s", "size=3",
	} {
		if load, err := parseWorkload(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, load)
		}
	}
}
