package sample

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"ringback/work/fingerprint"
)

func TestPatternRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "text", "text=0", "text=65537", "text=9..5", "text=exp:5..9", "rounds=-1", "rounds=x", "delay=5", "delay=31s", "size=3",
	} {
		if pattern, err := ParsePattern(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, pattern)
		}
	}
}

func TestPatternSaysAllOfIt(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"text=77,rounds=5,delay=20ms": "text=77,rounds=5,delay=20ms",
		"delay=0s..1s":                "text=200,rounds=0,delay=0s..1s",
	} {
		if got, err := ParsePattern(text); err != nil || got.String() != want {
			t.Errorf("%s: got %q, %v, want %q", text, got, err, want)
		}
	}
}

func TestResultIsThatOfTheWork(t *testing.T) {
	t.Parallel()
	input := InputJSON("some words", 3, time.Hour)
	var asked fingerprint.Input
	if err := json.Unmarshal(input, &asked); err != nil || asked.Text != "some words" || asked.Delay != 3_600_000 {
		t.Errorf("got %+v, %v, want some words and an hour's delay", asked, err)
	}
	asked.Delay = 0
	encoded, err := json.Marshal(asked)
	if err != nil {
		t.Fatal(err)
	}
	want, err := fingerprint.Do(t.Context(), encoded)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Result(t.Context(), input); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}
