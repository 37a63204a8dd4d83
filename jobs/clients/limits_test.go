package clients

import (
	"slices"
	"strings"
	"testing"
	"time"

	"ringback/db"
	"ringback/db/dbtest"
)

func TestLimits(t *testing.T) {
	t.Parallel()
	defaults := Limits{Rate: 50, Unfinished: 100, PerDestination: 10, Storage: 1 << 30, DeadLetters: 1000}

	t.Run("AreTheClientsOwnAndElseTheDefaults", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		for _, name := range []string{"acme", "other"} {
			if _, err := Add(t.Context(), pool, nil, name, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		d := open(t, pool.Config().ConnString(), nil)
		set := func(change func(*db.Client)) {
			t.Helper()
			if _, err := Set(t.Context(), pool, "acme", change); err != nil {
				t.Fatal(err)
			}
			d.refresh(t.Context())
		}
		set(func(c *db.Client) {
			c.Rate, c.Storage, c.Callbacks = 500, 1<<40, []string{"a.example.com", "*.b.example.com"}
		})
		set(func(c *db.Client) { c.Unfinished, c.PerDestination, c.DeadLetters = 5000, 600, 7 })
		if got, want := d.Limits("acme", defaults), (Limits{Rate: 500, Unfinished: 5000, PerDestination: 600, Storage: 1 << 40, DeadLetters: 7}); got != want {
			t.Errorf("acme: got %+v, want %+v", got, want)
		}
		if got, want := d.Callbacks("acme"), []string{"a.example.com", "*.b.example.com"}; !slices.Equal(got, want) {
			t.Errorf("acme's hosts: got %q, want %q", got, want)
		}
		for _, name := range []string{"other", Local, "nobody"} {
			if got, hosts := d.Limits(name, defaults), d.Callbacks(name); got != defaults || hosts != nil {
				t.Errorf("%s: got %+v and %q, want the defaults and all hosts", name, got, hosts)
			}
		}
		set(func(c *db.Client) { c.Rate, c.Callbacks = 0, nil })
		if got, want := d.Limits("acme", defaults), (Limits{Rate: 50, Unfinished: 5000, PerDestination: 600, Storage: 1 << 40, DeadLetters: 7}); got != want || d.Callbacks("acme") != nil {
			t.Errorf("taken back: got %+v and %q, want %+v and all hosts", got, d.Callbacks("acme"), want)
		}
	})

	t.Run("AreThoseOfADisabledClientToo", func(t *testing.T) {
		t.Parallel()
		s, err := newSnapshot([]db.Client{{Name: "acme", KeyHash: make([]byte, 32), DisabledAt: morning, Callbacks: []string{"a.example.com"}}}, nil)
		if err != nil || !slices.Equal(s.callbacks["acme"], []string{"a.example.com"}) {
			t.Errorf("got %q, %v, want its host: callbacks that it is owed are still sent", s.callbacks, err)
		}
	})

	t.Run("AreNobodysWhereThereIsNoSuchClient", func(t *testing.T) {
		t.Parallel()
		if _, err := Set(t.Context(), dbtest.NewPool(t), "nobody", func(*db.Client) {}); err == nil || !strings.Contains(err.Error(), "no client nobody: ringback client list names all") {
			t.Errorf("got %v, want an error that says so", err)
		}
	})
}
