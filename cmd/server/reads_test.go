package main

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"ringback/db/dbtest"
)

// TestSlowReadsOfOneClientHoldUpNobody lets one client read a locked table from forty
// connections, and checks that another client's calls succeed meanwhile.
func TestSlowReadsOfOneClientHoldUpNobody(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := dbtest.Pool(t, database+"&idle_in_transaction_session_timeout=0") // the lock is held for as long as it takes
	greedy, other := issueTo(t, database, "add", "greedy").Key, issueTo(t, database, "add", "other").Key
	p := startRun(t, []string{"--role=api"}, environment(database, map[string]string{
		"SECRETS_KEY": sealingKey, "CLIENT_READ_RATE": "1000000", // so that nothing but the slots is in the way
	}), works)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	if _, err := tx.Exec(t.Context(), "LOCK TABLE dead_letters IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}

	const slow = "/requests?callback=dead"
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var readers sync.WaitGroup
	var answered [600]atomic.Int64 // by status
	for range 40 {
		readers.Go(func() {
			for ctx.Err() == nil {
				answered[p.statusWithin(impatiently(t.Context()), t, slow, greedy)].Add(1)
			}
		})
	}
	blocked := func() (count int) {
		const sql = `
			SELECT count(*)
			FROM pg_locks
			WHERE database = (SELECT oid FROM pg_database WHERE datname = current_database())
			  AND relation = 'dead_letters'::regclass
			  AND NOT granted`
		if err := pool.QueryRow(t.Context(), sql).Scan(&count); err != nil {
			t.Fatal(err)
		}
		return count
	}
	until(t, func() bool { return blocked() > 0 && answered[http.StatusTooManyRequests].Load() > 0 }, func() string { return "reads that are blocked, and refused" })

	for range 5 {
		for path, body := range map[string]string{
			"/sync":  `{"input":{"text":"x"}}`,
			"/async": asyncBody(`{"text":"x"}`, "https://hooks.example.com/"),
		} {
			answer := p.postAs(t, other, path, body)
			if answer.StatusCode >= http.StatusBadRequest {
				t.Errorf("POST %s: got %d", path, answer.StatusCode)
			}
			location := answer.Header.Get("Location")
			for _, path := range []string{location, "/requests", "/requests?status=failed", "/requests?callback=waiting", "/healthz"} {
				if status := p.statusOf(t, path, other); status != http.StatusOK {
					t.Errorf("GET %s: got %d", path, status)
				}
			}
		}
	}
	if got := answered[http.StatusOK].Load(); got != 0 {
		t.Errorf("got %d slow reads that were answered meanwhile, want none: nothing held anybody up", got)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { return answered[http.StatusOK].Load() > 0 }, func() string { return "a read that is answered" })
	stop()
	readers.Wait()
	if log := p.log.String(); strings.Contains(log, `"status":500`) {
		t.Error("want no error of ours in the log")
	}
}
