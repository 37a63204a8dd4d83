package load

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestWorkIsAskedForByItsNameWhereItIsNotTheDefault(t *testing.T) {
	t.Parallel()
	var told offers
	if err := json.Unmarshal([]byte(`{"default":"one","works":[{"name":"one"},{"name":"two"}]}`), &told); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"": "", "one": "", "two": "two"} {
		if got, err := told.choose(name); err != nil || got != want {
			t.Errorf("%q: got %q, %v, want %q", name, got, err, want)
		}
	}
	if got, err := told.choose("three"); err == nil {
		t.Errorf("work that isn't there: got %q", got)
	}
	if got, err := (offers{}).choose("one"); err != nil || got != "" {
		t.Errorf("a service that doesn't tell its work: got %q, %v, want the default", got, err)
	}
}

func TestPostTellsHowItFailed(t *testing.T) {
	t.Parallel()
	stuck := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-stuck }))
	t.Cleanup(slow.Close)
	t.Cleanup(func() { close(stuck) })
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for target, want := range map[string]answer{
		slow.URL: {outcome: ambiguous, reason: "timeout"},
		gone.URL: {outcome: failed, reason: "connection refused"},
	} {
		config := Defaults()
		config.Target, config.Timeout = target, time.Second // enough to connect on a busy machine
		config.Input = aText(t)
		if got := newClient(config).call(0, "", ""); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

// aText is a small input.
func aText(t *testing.T) Input {
	t.Helper()
	input, err := ParseInput(`{"text":"{{text}}"}`)
	if err != nil {
		t.Fatal(err)
	}
	return input
}
