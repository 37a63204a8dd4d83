package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"ringback/db"
	"ringback/db/dbtest"
	"ringback/work/fingerprint"
)

func TestPoolerInSessionMode(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	through := dbtest.NewPooler(t, database, "session")
	p := startHere(t, through, nil, fingerprint.Do)
	r := newReceiver(t, nil)
	for range 20 {
		p.waitFor(t, p.accept(t, `{"text":"x"}`, r.URL), "delivered", func(r request) bool { return r.CallbackState == "delivered" })
	}
	pool, err := db.Open(t.Context(), through, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	var timeout, idle, plans string
	const sql = "SELECT current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout'), current_setting('plan_cache_mode')"
	if err := pool.QueryRow(t.Context(), sql).Scan(&timeout, &idle, &plans); err != nil {
		t.Fatal(err)
	}
	if timeout != "10s" || idle != "10s" || plans != "force_generic_plan" {
		t.Errorf("got timeouts of %s and %s, and %s, want them as without a pooler", timeout, idle, plans)
	}
	p.awaitLine(t, `msg=process_lock_not_held error="the session has no lock: a pooler such as PgBouncer stands between`)
	wantNoOrphans(t, database)
}

// Each way to send statements that a DATABASE_URL may ask for does.
func TestExecModes(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			database := dbtest.New(t)
			p, r := startHere(t, database+"&default_query_exec_mode="+mode, nil, fingerprint.Do), newReceiver(t, nil)
			l := startLoad(t, p, r.URL)
			l.awaitAcked(t, 30)
			expectAll(t, r, l.stop())
			if _, refused := l.counts(); refused != 0 || strings.Contains(p.log.String(), "status=500") {
				t.Errorf("got %d calls refused, want none, and no 500", refused)
			}
			wantNoOrphans(t, database)
		})
	}
}

func TestPoolerThatKeepsNoSessionIsRefused(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"transaction", "statement"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			through := dbtest.NewPooler(t, dbtest.New(t), mode)
			err := run(t.Context(), []string{"--dev"}, environment(through, nil), io.Discard, io.Discard, works)
			if err == nil || !strings.Contains(err.Error(), "pool_mode = session") {
				t.Errorf("got %v, want it refused with the remedy", err)
			}
		})
	}
}

// A role needs only a schema that it owns, and two installations may be in one database.
func TestTwoInstallationsInOneDatabase(t *testing.T) {
	t.Parallel()
	database := dbtest.NewEmpty(t)
	r := newReceiver(t, nil)
	ids := map[string]string{}
	programs := map[string]*program{}
	for _, name := range []string{"one", "two"} {
		programs[name] = startHere(t, ownSchema(t, database, name), nil, fingerprint.Do)
		ids[name] = programs[name].accept(t, `{"text":"`+name+`"}`, r.URL)
	}
	for name, p := range programs {
		p.waitFor(t, ids[name], "delivered", func(r request) bool { return r.CallbackState == "delivered" })
		for other, id := range ids {
			want := http.StatusNotFound
			if other == name {
				want = http.StatusOK
			}
			if got := p.probe("/requests/" + id); got != want {
				t.Errorf("%s: GET of the request of %s: got %d, want %d", name, other, got, want)
			}
		}
	}
	if err := db.CheckSchema(t.Context(), database); err == nil {
		t.Error("there is a schema in public, too")
	}
}

// Keys, hosts and clients are compared for being equal, and put into an order by
// Postgres alone.
func TestDatabaseInAnotherCollation(t *testing.T) {
	t.Parallel()
	database := dbtest.NewCollated(t)
	p := startHere(t, database, nil, fingerprint.Do)
	r := newReceiver(t, nil)
	acked := map[string]bool{}
	for n := range 3 {
		for _, key := range []string{"a", "A", "ä", "a-b", "ab", "a_b", "Z", "ß", "ss"} {
			body := fmt.Sprintf(`{"input":{"text":"x"},"callback_url":%q,"ordering_key":%q}`, r.URL, key)
			status, answer := http.StatusServiceUnavailable, request{}
			for status == http.StatusServiceUnavailable { // of a busy machine
				var err error
				if status, answer, err = p.postOnce("/async", body, fmt.Sprint("key ", n, len(acked))); err != nil {
					t.Fatal(err)
				}
			}
			if acked[answer.ID] = true; status != http.StatusAccepted {
				t.Fatalf("POST /async with %q: got %d, %+v", key, status, answer)
			}
		}
	}
	expectAll(t, r, acked)
	wantNoOrphans(t, database)
	host := strings.TrimPrefix(r.URL, "http://")
	p.awaitStatus(t, "/requests?callback=delivered&callback_host="+host, http.StatusOK)
}

// ownSchema makes a role that may nothing but use a schema of its own, and returns
// the URL by which it does.
func ownSchema(t *testing.T, database, name string) string {
	t.Helper()
	parsed, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	role := strings.TrimPrefix(parsed.Path, "/") + "_" + name // roles belong to all databases
	pool := dbtest.Pool(t, database)
	for _, sql := range []string{
		"CREATE ROLE " + role + " LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD 'secret'",
		"REVOKE CREATE ON SCHEMA public FROM PUBLIC",
		"CREATE SCHEMA " + name + " AUTHORIZATION " + role,
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	t.Cleanup(func() {
		for _, sql := range []string{"DROP OWNED BY " + role + " CASCADE", "DROP ROLE " + role} {
			if _, err := pool.Exec(context.Background(), sql); err != nil {
				t.Errorf("%s: %v", sql, err)
			}
		}
	})
	parsed.User = url.UserPassword(role, "secret")
	return parsed.String() + "&search_path=" + name
}
