package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"ringback/db/dbtest"
	"ringback/work/fingerprint"
)

// The pages tell what the alerts RingbackNobodyWorks and RingbackSecretUnreadable tell, with
// their remedies.
func TestPagesTellOfAlerts(t *testing.T) {
	t.Parallel()

	t.Run("ThatNobodyWorksUntilAProcessDoes", func(t *testing.T) {
		t.Parallel()
		database := dbtest.New(t)
		p := startRun(t, []string{"--dev", "--role=api"}, environment(database, nil), works)
		r := newReceiver(t, nil)
		b := openBrowser(t, p)
		b.open(t, "/")
		if got := b.text(t, "#alarms"); got != "" {
			t.Errorf("got %q before a request waits, want nothing", got)
		}
		if _, body, _ := p.call(t, "GET", "/", nil, nil); !strings.Contains(body, `<tbody id="processes"><tr><td>none</td></tr></tbody>`) || !strings.Contains(body, " UTC by this process") {
			t.Errorf("got %s, want that no process works, and whose time it is", body)
		}
		p.accept(t, `{"text":"x"}`, r.URL)
		b.open(t, "/")
		b.do(t, chromedp.WaitVisible("#alarms .alarm", chromedp.ByQuery))
		if got := b.text(t, "#alarms"); !strings.Contains(got, "no process works") || !strings.Contains(got, "--role=worker") {
			t.Errorf("got %q, want that no process works, with the remedy", got)
		}
		if found := b.seriousFindings(t); len(found) > 0 {
			t.Errorf("got %s", strings.Join(found, "\n"))
		}
		p.awaitLine(t, "level=WARN msg=nobody_works remedy=\"start a process with --role=worker")
		startRun(t, []string{"--dev", "--role=worker"}, environment(database, nil), works)
		r.next(t)
		b.do(t, chromedp.WaitNotPresent("#alarms .alarm", chromedp.ByQuery))
		p.awaitLine(t, "msg=nobody_works_over")
		b.wantNothingWrong(t)
	})

	t.Run("ThatAQueueIsPausedUntilItIsResumed", func(t *testing.T) {
		t.Parallel()
		database := dbtest.New(t)
		p := startRun(t, []string{"--dev"}, environment(database, nil), works)
		pool := dbtest.Pool(t, database)
		pause := func(at string) {
			t.Helper()
			until(t, func() bool { // the process makes the row
				tag, err := pool.Exec(t.Context(), "UPDATE river_queue SET paused_at = "+at+" WHERE name = 'work'")
				return err == nil && tag.RowsAffected() == 1
			}, func() string { return "the queue" })
		}
		pause("now()")
		p.awaitLine(t, "level=WARN msg=queue_paused remedy=\"resume in River UI what somebody paused: ")
		p.awaitMetric(t, `ringback_queue_paused{queue="work"} 1`)
		p.awaitMetric(t, `ringback_queue_paused{queue="callback"} 0`)
		b := openBrowser(t, p)
		b.open(t, "/")
		b.do(t, chromedp.WaitVisible("#alarms .alarm", chromedp.ByQuery))
		if got := b.text(t, "#alarms"); !strings.Contains(got, "paused the queue work") {
			t.Errorf("got %q, want that the queue is paused", got)
		}
		pause("NULL")
		b.do(t, chromedp.WaitNotPresent("#alarms .alarm", chromedp.ByQuery))
		p.awaitLine(t, "msg=queue_paused_over")
		p.awaitMetric(t, `ringback_queue_paused{queue="work"} 0`)
		b.wantNothingWrong(t)
	})

	t.Run("ThatNoClientMayCallUntilAClientMay", func(t *testing.T) {
		t.Parallel()
		database := dbtest.New(t)
		p := startStrict(t, environment(database, map[string]string{"SECRETS_KEY": sealingKey}))
		p.awaitLine(t, `"level":"WARN","msg":"no_clients","remedy":"add a client with ringback client add NAME`)
		b := openBrowser(t, p)
		b.open(t, "/")
		if got := b.text(t, "#alarms"); !strings.Contains(got, "No client may call") || !strings.Contains(got, "ringback client add NAME") {
			t.Errorf("got %q, want that no client may call, with the remedy", got)
		}
		issueTo(t, database, "add", "acme")
		b.do(t, chromedp.WaitNotPresent("#alarms .alarm", chromedp.ByQuery))
		p.awaitLine(t, `"msg":"no_clients_over"`)
		b.wantNothingWrong(t)
		with := startStrict(t, environment(database, map[string]string{"SECRETS_KEY": sealingKey}))
		local := startRun(t, []string{"--dev", "--role=api"}, environment(dbtest.New(t), nil), works)
		for _, p := range []*program{with, local} {
			if log := p.log.String(); strings.Contains(log, "no_clients") {
				t.Errorf("with a client, or in local mode: got the line\n%s", log)
			}
		}
	})

	t.Run("ThatTheSecretOfAClientCannotBeOpened", func(t *testing.T) {
		t.Parallel()
		database := dbtest.New(t)
		issueTo(t, database, "add", "acme")
		p := startStrict(t, environment(database, map[string]string{"SECRETS_KEY": "b3RoZXItc2VjcmV0LWtleS1vZi0zMi1ieXRlcy0xMjM="}))
		b := openBrowser(t, p)
		b.open(t, "/")
		if got := b.text(t, "#alarms"); !strings.Contains(got, "of the client acme") || !strings.Contains(got, "SECRETS_KEY") {
			t.Errorf("got %q, want that acme's secret can't be opened, with the remedy", got)
		}
		b.wantNothingWrong(t)
	})

	t.Run("ThatATableIsLockedAServiceIsDownAndCallsAreRefused", func(t *testing.T) {
		t.Parallel()
		database := dbtest.New(t)
		key := issueTo(t, database, "add", "acme").Key
		p := startStrict(t, environment(database, map[string]string{
			"SECRETS_KEY": sealingKey, "WORKS": writeTemp(t, `{"away": {"url": "http://127.0.0.1:9/"}}`), "CALLBACK_ALLOW_CIDRS": "127.0.0.0/8", "CALLBACK_PORTS": "80",
		}))
		b := openBrowser(t, p)
		b.open(t, "/")
		for range 6 {
			if got := p.statusOf(t, "/requests", "nobodys"); got != http.StatusUnauthorized {
				t.Errorf("a call without a key that is known: got %d, want 401", got)
			}
		}
		b.do(t, chromedp.WaitVisible(`//p[@class="alarm"][contains(., "calls in two minutes were refused with 401")]`))
		for range 5 {
			p.postAs(t, key, "/sync/away", `{"input":{}}`)
		}
		b.do(t, chromedp.WaitVisible(`//p[@class="alarm"][contains(., "work away is down")]`))
		tx, err := dbtest.Pool(t, database).Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(context.Background())
		if _, err := tx.Exec(t.Context(), "LOCK TABLE callback_attempts IN SHARE MODE"); err != nil {
			t.Fatal(err)
		}
		p.acceptAs(t, key, newReceiver(t, nil).URL)
		remedy := fmt.Sprintf("end the session that holds the lock on callback_attempts: SELECT pg_terminate_backend(%d)", tx.Conn().PgConn().PID())
		b.do(t, chromedp.WaitVisible(`//p[@class="alarm"][contains(., "A table is locked: `+remedy+`. It is locked by pid ")]`))
		until(t, func() bool {
			for line := range strings.Lines(p.log.String()) {
				if strings.Contains(line, `"msg":"answers_not_recorded"`) {
					return strings.Contains(line, remedy)
				}
			}
			return false
		}, func() string { return "a line answers_not_recorded with the holder" })
		if found := b.seriousFindings(t); len(found) > 0 {
			t.Errorf("got %s", strings.Join(found, "\n"))
		}
		if got := b.text(t, "#jobs"); !strings.Contains(got, "scheduled") || !strings.Contains(got, "waits for its time") {
			t.Errorf("got %q, want the states explained", got)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.do(t, chromedp.WaitNotPresent(`//p[@class="alarm"][contains(., "A table is locked")]`))
		b.wantNothingWrong(t)
	})

	t.Run("ThatASecretCannotBeOpened", func(t *testing.T) {
		t.Parallel()
		database := dbtest.New(t)
		p := startHere(t, database, nil, fingerprint.Do)
		issueTo(t, database, "add", "sealed") // with a key that the server lacks
		b := openBrowser(t, p)
		until(t, func() bool {
			b.open(t, "/clients")
			return strings.Contains(b.text(t, "tbody"), "ringback client rotate sealed")
		}, func() string { return "the mark of a client's secret, got " + b.text(t, "tbody") })
		if got := b.text(t, "tbody"); strings.Contains(got, "rotate local") || !strings.Contains(got, "SECRETS_KEY") {
			t.Errorf("got %q, want the sealed client alone marked, with the remedy", got)
		}
		if found := b.seriousFindings(t); len(found) > 0 {
			t.Errorf("got %s", strings.Join(found, "\n"))
		}
		b.wantNothingWrong(t)
	})
}
