package main

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"ringback/work/fingerprint"
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
		if _, err := fingerprint.Check(raw); err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		var input fingerprint.Input
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
	for _, size := range []int{1, fingerprint.MaxTextBytes} {
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

func TestInputOfOtherWork(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "input.json")
	if err := os.WriteFile(file, []byte(`{"url":"https://example.com/{{text}}","size":[1,"{{text}}"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	load := defaultWorkload()
	var err error
	if load.input, err = parsePattern("@" + file); err != nil {
		t.Fatal(err)
	}
	author := newAuthor(load)
	seen := make(map[string]bool)
	for number := range 100 {
		raw := author.appendInput(nil, author.order(number))
		var input struct {
			URL  string `json:"url"`
			Size []any  `json:"size"`
		}
		if err := json.Unmarshal(raw, &input); err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		text := input.URL[len("https://example.com/"):]
		if len(text) != 200 || input.Size[1] != text || seen[text] {
			t.Fatalf("got %s, want 200 bytes of new text, twice", raw)
		}
		seen[text] = true
	}
	if pattern, err := parsePattern(`{"n":1}`); err != nil || pattern.String() != `{"n":1}` {
		t.Errorf("without a placeholder: got %q, %v, want it as it is", pattern, err)
	}
	for _, text := range []string{"", "{", "@" + file + ".not"} {
		if _, err := parsePattern(text); err == nil {
			t.Errorf("%q: got no error", text)
		}
	}
}
