package api_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"ringback/api"
	"ringback/work"
	"ringback/work/fingerprint"
)

type pair struct {
	A int `json:"a"`
	B int `json:"b"`
}

// offerTwo offers the sample, by default, and a sum.
func offerTwo(t *testing.T) func(*api.Config) {
	t.Helper()
	sum := work.Typed(func(_ context.Context, in pair) (int, error) { return in.A + in.B, nil })
	sum.Limit, sum.Retry.Times, sum.Timeout = 3, -1, time.Second
	return offer(t, "fingerprint", work.Set{"fingerprint": fingerprint.Work, "sum": sum})
}

func offer(t *testing.T, standard string, set work.Set) func(*api.Config) {
	t.Helper()
	catalog, err := work.NewCatalog(set, standard, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return func(c *api.Config) { c.Catalog = catalog }
}

func TestNamedWorks(t *testing.T) {
	t.Parallel()
	s := newService(t, offerTwo(t))

	t.Run("AreDoneAtTheirAddresses", func(t *testing.T) {
		t.Parallel()
		for path, want := range map[string]string{"/sync/sum": "sum", "/sync/fingerprint": "fingerprint", "/sync": "fingerprint"} {
			body := map[string]string{"sum": `{"input":{"a":1,"b":2}}`, "fingerprint": syncBody}[want]
			answer := s.call(t, "POST", path, body)
			got := decode[map[string]jsontext.Value](t, answer, http.StatusOK)
			if row := s.located(t, answer); row.Work != want || string(got["work"]) != `"`+want+`"` {
				t.Errorf("%s: got work %s, stored %q, want %q", path, got["work"], row.Work, want)
			}
			if want == "sum" && string(got["result"]) != "3" {
				t.Errorf("%s: got %s, want 3", path, got["result"])
			}
		}
		answer := s.call(t, "POST", "/async/sum", `{"input":{"a":1,"b":2},"callback_url":"`+hook+`"}`)
		decode[map[string]any](t, answer, http.StatusAccepted)
		if row := s.located(t, answer); row.Work != "sum" || string(row.Input) != `{"a":1,"b":2}` {
			t.Errorf("async: got %q with %s, want the sum's", row.Work, row.Input)
		}
	})

	t.Run("AreListed", func(t *testing.T) {
		t.Parallel()
		got := decode[map[string]any](t, s.call(t, "GET", "/works", ""), http.StatusOK)
		var schema any
		if err := json.Unmarshal(fingerprint.Work.Schema, &schema); err != nil {
			t.Fatal(err)
		}
		integer := map[string]any{"type": "integer"}
		want := map[string]any{"default": "fingerprint", "works": []any{
			map[string]any{"name": "fingerprint", "schema": schema, "timeout_ms": 10000.0, "retries": 5.0, "deterministic": true, "state": "up"},
			map[string]any{"name": "sum", "timeout_ms": 1000.0, "limit": 3.0, "retries": 0.0, "deterministic": false, "state": "up", "schema": map[string]any{
				"type": "object", "additionalProperties": false, "required": []any{"a", "b"},
				"properties": map[string]any{"a": integer, "b": integer},
			}},
		}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// A client learns what its own requests would meet, and no more.
func TestWorksTellTheirState(t *testing.T) {
	t.Parallel()
	fault := work.Retry(&work.Error{Code: "away", Message: "secret"}, 0)
	adjust := failing(t, true, func(context.Context, jsontext.Value) (jsontext.Value, error) { return nil, fault })
	s := newService(t, func(c *api.Config) {
		adjust(c)
		keyed(map[string]string{"a": "alice", "b": "bob"})(c)
	})
	type state struct {
		State        string
		Since, Until time.Time
	}
	ask := func(s *service, key string) (got struct{ Works []state }) {
		t.Helper()
		answer := s.call(t, "GET", "/works", "", "Authorization", strings.TrimSuffix("Bearer "+key, "Bearer "))
		if err := json.Unmarshal(answer.body, &got, json.MatchCaseInsensitiveNames(true)); err != nil || len(got.Works) != 1 {
			t.Fatalf("got %d, %s, %v", answer.status, answer.body, err)
		}
		if strings.Contains(string(answer.body), "secret") {
			t.Errorf("the cause is told: %s", answer.body)
		}
		return got
	}
	of := func(key string) state { return ask(s, key).Works[0] }
	call := func(key string) {
		s.wantProblem(t, s.call(t, "POST", "/sync", syncBody, "Authorization", "Bearer "+key), http.StatusServiceUnavailable, "unavailable")
	}
	if got := of("a"); got != (state{State: "up"}) {
		t.Errorf("before: got %+v, want it up", got)
	}
	for range 5 { // in a row
		call("a")
	}
	alice := of("a")
	if alice.State != "down" || alice.Since.IsZero() || alice.Since.Nanosecond() != 0 {
		t.Errorf("alice, who saw it: got %+v, want it down since then", alice)
	}
	if got := of("b"); got != (state{State: "up"}) {
		t.Errorf("bob, who saw nothing: got %+v, want it up", got)
	}
	call("b")
	if got := of("b"); got.State != "down" || got.Since.Before(alice.Since) {
		t.Errorf("bob, once he saw it: got %+v, want it down since then, which was after %v", got, alice.Since)
	}

	fault = work.Retry(&work.Error{Code: "busy", Message: "secret"}, time.Minute)
	paused := newService(t, failing(t, true, func(context.Context, jsontext.Value) (jsontext.Value, error) { return nil, fault }))
	before := time.Now()
	paused.call(t, "POST", "/sync", syncBody)
	got := ask(paused, "").Works[0]
	if got.State != "paused" || !got.Since.IsZero() || got.Until.Before(before.Add(time.Minute-time.Second)) {
		t.Errorf("after a Retry-After: got %+v, want it paused until then", got)
	}
}

func TestNamedWorksRefuse(t *testing.T) {
	t.Parallel()
	s := newService(t, offerTwo(t))
	for _, path := range []string{"/sync/none", "/async/none", "/sync/", "/async/a/b"} {
		s.wantProblem(t, s.call(t, "POST", path, syncBody), http.StatusNotFound, "not-found")
	}
	for path, rest := range map[string]string{"/sync/sum": "", "/async/sum": `,"callback_url":"` + hook + `"`} {
		answer := s.call(t, "POST", path, `{"input":{"a":"1","c":1}`+rest+`}`)
		s.wantProblem(t, answer, http.StatusUnprocessableEntity, "invalid-input", "#/input/a", "#/input/b", "#/input/c")
	}
	if got := s.stored(t); got != 0 {
		t.Errorf("stored: got %d, want nothing", got)
	}
}

func TestListingByWork(t *testing.T) {
	t.Parallel()
	s := newService(t, offerTwo(t))
	want := s.located(t, s.call(t, "POST", "/sync/sum", `{"input":{"a":1,"b":2}}`))
	s.call(t, "POST", "/sync", syncBody)
	s.call(t, "POST", "/async", asyncBody)
	type page struct {
		Requests []map[string]any `json:"requests"`
	}
	got := decode[page](t, s.call(t, "GET", "/requests?work=sum", ""), http.StatusOK)
	if len(got.Requests) != 1 || got.Requests[0]["id"] != want.ID.String() || got.Requests[0]["work"] != "sum" {
		t.Errorf("got %+v, want the sum alone", got)
	}
	for query, want := range map[string]int{"work=fingerprint": 2, "work=fingerprint&mode=sync": 1, "work=gone": 0, "work=fingerprint&status=accepted": 1} {
		if got := decode[page](t, s.call(t, "GET", "/requests?"+query, ""), http.StatusOK); len(got.Requests) != want {
			t.Errorf("%s: got %d, want %d", query, len(got.Requests), want)
		}
	}
	s.wantProblem(t, s.call(t, "GET", "/requests?work=No", ""), http.StatusBadRequest, "invalid-parameter", "work")
}

func TestIdempotencyKeyIsForOneWork(t *testing.T) {
	t.Parallel()
	echo := work.Work{Do: func(_ context.Context, call work.Call) (jsontext.Value, error) { return call.Input, nil }}
	set := work.Set{"one": echo, "two": echo}
	s := newService(t, offer(t, "one", set))
	const key = "Idempotency-Key"
	first := s.located(t, s.call(t, "POST", "/sync", syncBody, key, "k"))
	for path, wantReplay := range map[string]bool{"/sync": true, "/sync/one": true, "/sync/two": false, "/async": false} {
		answer := s.call(t, "POST", path, syncBody, key, "k")
		if replayed := answer.header.Get("Idempotent-Replayed") == "true"; replayed != wantReplay && path != "/async" {
			t.Errorf("%s: got %d, replayed %v, want %v", path, answer.status, replayed, wantReplay)
		}
		if !wantReplay && answer.status != http.StatusUnprocessableEntity {
			t.Errorf("%s: got %d, want 422", path, answer.status)
		}
	}

	// As the previous version stored it.
	if _, err := s.pool.Exec(t.Context(), "UPDATE requests SET work = NULL WHERE id = $1", first.ID); err != nil {
		t.Fatal(err)
	}
	if got := s.call(t, "POST", "/sync", syncBody, key, "k"); got.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("of the version before: got %d, want it replayed", got.status)
	}
	if _, err := s.pool.Exec(t.Context(), "UPDATE requests SET work = 'one' WHERE id = $1", first.ID); err != nil {
		t.Fatal(err)
	}
	url := s.pool.Config().ConnString()
	other := newServiceAt(t, url, url, offer(t, "two", set))
	other.wantProblem(t, other.call(t, "POST", "/sync", syncBody, key, "k"), http.StatusUnprocessableEntity, "idempotency-key-reused")
}
