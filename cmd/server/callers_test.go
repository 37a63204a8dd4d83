package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"ringback/db/dbtest"
	"ringback/work/fingerprint"
)

// ask runs a callers' command against a server, and returns its output.
func (p *program) ask(t *testing.T, args ...string) string {
	t.Helper()
	out, errOut, err := typed(t.Context(), callerOf(p, ""), args...)
	if err != nil {
		t.Fatalf("ringback %q: got %q, %q, %v", args, out, errOut, err)
	}
	return out
}

// line waits for a line that holds all of some words, and returns it.
func line(t *testing.T, lines chan string, words ...string) string {
	t.Helper()
	for deadline := time.After(dbtest.Patience); ; {
		select {
		case line, open := <-lines:
			if !open {
				t.Fatalf("the command ended before it said %q", words)
			}
			missing := false
			for _, word := range words {
				missing = missing || !strings.Contains(line, word)
			}
			if !missing {
				return line
			}
		case <-deadline:
			t.Fatalf("waited in vain for a line with %q", words)
		}
	}
}

func TestRequestsAreListedAndShown(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), nil, fingerprint.Do)
	r := newReceiver(t, nil)
	id := p.accept(t, `{"text":"hello"}`, r.URL+"/hook")
	r.next(t)
	p.waitFor(t, id, "delivered", func(r request) bool { return r.CallbackState == "delivered" })
	for range 3 {
		p.served(t, "/sync", `{"input":{"text":"x"}}`, http.StatusOK)
	}

	shown := p.ask(t, "requests", "show", id)
	for _, want := range []string{"request   " + id, "work      fingerprint", "status    succeeded", "callback  delivered", `"words":1`, "  accepted\n", "  callback attempt 1 delivered\n"} {
		if !strings.Contains(shown, want) {
			t.Errorf("show: got %q, want %q in it", shown, want)
		}
	}
	if again := p.ask(t, "requests", "show", "req_"+strings.ToUpper(id)); again != shown {
		t.Errorf("show by the webhook-id: got %q, want %q", again, shown)
	}
	var whole struct {
		ID    string
		Input struct{ Text string }
	}
	if err := json.Unmarshal([]byte(p.ask(t, "requests", "show", id, "--json")), &whole); err != nil || whole.ID != id || whole.Input.Text != "hello" {
		t.Errorf("show --json: got %+v, %v", whole, err)
	}

	for args, want := range map[string]int{
		"": 4, "--limit 2": 2, "--mode async": 1, "--mode sync --limit 100": 3, "--status failed": 0, "--callback delivered": 1,
		"--from 1h": 4, "--to 1h": 0, "--to 2999-01-01T00:00:00Z": 4, "--work fingerprint": 4, "--callback-host 127.0.0.1:1": 0,
	} {
		if got := p.listed(t, strings.Fields(args)...).Requests; len(got) != want {
			t.Errorf("list %s: got %d requests, want %d", args, len(got), want)
		}
		table := p.ask(t, append([]string{"requests", "list"}, strings.Fields(args)...)...)
		if got := strings.Count(table, "\n"); got != want+1 || !strings.HasPrefix(table, "ID ") {
			t.Errorf("list %s: got %q, want %d lines under a head", args, table, want)
		}
	}
	first := p.listed(t, "--limit", "3")
	rest := p.listed(t, "--cursor", first.NextCursor)
	if len(first.Requests) != 3 || len(rest.Requests) != 1 || rest.Requests[0].ID != id || rest.NextCursor != "" {
		t.Errorf("got %+v and then %+v, want the oldest after the others", first, rest)
	}
	_, note, err := typed(t.Context(), callerOf(p, ""), "requests", "list", "--limit", "3")
	if err != nil || !strings.Contains(note, "--cursor "+first.NextCursor) {
		t.Errorf("list: got %q, %v, want how to go on", note, err)
	}
	if got := p.ask(t, "__complete", "requests", "show", ""); !strings.Contains(got, id+"\tasync succeeded delivered\n") {
		t.Errorf("completion: got %q, want the id", got)
	}
}

type listing struct {
	Requests   []request
	NextCursor string `json:"next_cursor"`
}

func (p *program) listed(t *testing.T, args ...string) (got listing) {
	t.Helper()
	out := p.ask(t, append([]string{"requests", "list", "--json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("list %q: got %q, %v", args, out, err)
	}
	return got
}

// storeDead stores dead letters for 127.0.0.1:9.
func storeDead(t *testing.T, database, client string, count int) {
	t.Helper()
	const sql = `
		WITH dead AS (
			INSERT INTO requests (
				id, mode, client, status, input, result, callback_url, callback_state,
				work_job_id, callback_job_id, accepted_at, finished_at, settled_at
			)
			SELECT lpad(to_hex(n), 32, '0')::uuid, 'async', $2, 'succeeded', '1', '1', 'http://127.0.0.1:9/', 'dead', n, n, now(), now(), now()
			FROM generate_series(1, $1::int) AS n
			RETURNING client, id, accepted_at
		)
		INSERT INTO dead_letters (client, request_id, callback_host, accepted_at)
		SELECT client, id, '127.0.0.1:9', accepted_at
		FROM dead`
	if _, err := dbtest.Pool(t, database).Exec(t.Context(), sql, count, client); err != nil {
		t.Fatal(err)
	}
}

func TestListingsGoOnOverPagesThatHoldLittle(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	storeDead(t, database, "local", 1100)
	p := startHere(t, database, nil, fingerprint.Do)
	if got := p.listed(t, "--callback", "dead", "--limit", "250"); len(got.Requests) != 250 || got.NextCursor == "" {
		t.Errorf("got %d requests, want 250 of three pages", len(got.Requests))
	}
	// Nothing matches, and each page looks at 200 only.
	if got := p.listed(t, "--status", "succeeded", "--callback", "delivered"); len(got.Requests) != 0 || got.NextCursor != "" {
		t.Errorf("got %+v, want that there are none", got)
	}
	const page = "/requests?client=local&callback=dead&status=failed"
	if status, body, _ := p.call(t, "GET", page, nil, nil); status != 200 || !strings.Contains(body, "looked at, back to 1970-01-01 00:00:00.000") {
		t.Errorf("got %d %s, want a page that tells how far it has looked", status, body)
	}
}

func TestRequestsAreCancelledRedeliveredAndDiscarded(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	p := startHere(t, database, nil, fingerprint.Do)
	r := newReceiver(t, nil)
	id := p.accept(t, `{"text":"x"}`, r.URL)
	r.next(t)
	p.waitFor(t, id, "delivered", func(r request) bool { return r.CallbackState == "delivered" })
	if got := p.ask(t, "requests", "cancel", id); got != id+"  succeeded delivered: nothing was left to stop\n" {
		t.Errorf("cancel: got %q", got)
	}
	slow := p.accept(t, `{"text":"x","delay_ms":30000}`, r.URL)
	if got := p.ask(t, "requests", "cancel", slow); got != slow+"  cancelled cancelled: stopped work and callback\n" {
		t.Errorf("cancel: got %q", got)
	}
	if got := p.ask(t, "requests", "cancel", slow, "--json"); !strings.Contains(got, `"stopped":[]`) {
		t.Errorf("cancel --json: got %q", got)
	}
	if got := p.ask(t, "requests", "redeliver", id); got != id+"  succeeded pending\n" {
		t.Errorf("redeliver: got %q", got)
	}
	r.next(t)
	p.waitFor(t, id, "delivered", func(r request) bool { return r.CallbackState == "delivered" })
	if got := p.ask(t, "requests", "redeliver", "--callback", "delivered", "--from", "1h", "--rate", "100"); got != "1 of 1 redelivered.\n" {
		t.Errorf("redeliver by a filter: got %q", got)
	}
	r.next(t)

	// Several ids: the others are taken, and each failure is told.
	storeDead(t, database, "local", 1)
	dead := "00000000-0000-0000-0000-000000000001"
	out, _, err := typed(t.Context(), callerOf(p, ""), "requests", "discard", anID, slow, dead)
	if err == nil || exitStatus(err) != 1 || !strings.Contains(err.Error(), anID+": There is no such request (404 not-found)") || out != slow+"  cancelled cancelled\n"+dead+"  succeeded cancelled\n" {
		t.Errorf("discard: got %q, %v", out, err)
	}
}

func TestDeadLettersAreTakenInBulk(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	const count = 1001 // more than a single call takes
	storeDead(t, database, "local", count)
	p := startHere(t, database, nil, fingerprint.Do)
	for args, want := range map[string]string{
		"redeliver --all --dry-run":                                             "1001 would be redelivered.\n",
		"redeliver --callback-host 127.0.0.1:8 --rate 5":                        "0 of 0 redelivered.\n",
		"redeliver --to 2020-01-01T00:00:00Z":                                   "0 of 0 redelivered.\n",
		"discard --callback-host 127.0.0.1:9 --dry-run":                         "1001 would be discarded.\n",
		"discard --all --dry-run --json":                                        "{\"discarded\":0,\"matched\":1001}\n",
		"redeliver --from 1h --to 2020-01-01T00:00:00Z":                         "",
		"discard --all --cursor 00000000-0000-0000-0000-0000000003e8 --dry-run": "1 would be discarded.\n",
	} {
		out, _, err := typed(t.Context(), callerOf(p, ""), append([]string{"requests"}, strings.Fields(args)...)...)
		if out != want || (err == nil) != (want != "") {
			t.Errorf("%s: got %q, %v, want %q", args, out, err, want)
		}
	}
	if got := p.ask(t, "requests", "discard", "--callback-host", "127.0.0.1:9"); got != "1001 of 1001 discarded.\n" {
		t.Errorf("discard: got %q", got)
	}
	if got := p.listed(t, "--callback", "dead"); len(got.Requests) != 0 {
		t.Errorf("got %+v, want no dead letter left", got)
	}
}

func TestBulkTellsWhatWasRefused(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	acme := issueTo(t, database, "add", "acme")
	storeDead(t, database, "acme", 2)
	// Outside local mode no callback goes to loopback, even to a URL accepted before.
	p := startStrict(t, environment(database, map[string]string{"SECRETS_KEY": sealingKey, "CLIENT_READ_RATE": "1000"}))
	p.awaitStatus(t, "/readyz", http.StatusOK)
	out, note, err := typed(t.Context(), callerOf(p, acme.Key), "requests", "redeliver", "--all", "--dry-run")
	if err != nil || out != "0 would be redelivered.\n" || !strings.HasPrefix(note, "2 would be refused: ") {
		t.Errorf("dry run: got %q, %q and %v, want to hear of two refusals to come", out, note, err)
	}
	out, note, err = typed(t.Context(), callerOf(p, acme.Key), "requests", "redeliver", "--to", "2999-01-01T00:00:00Z")
	if err == nil || exitStatus(err) != 1 || !strings.HasPrefix(note, "2 refused: ") || out != "0 of 2 redelivered.\n" {
		t.Errorf("got %q, %q and %v, want to hear of two refusals", out, note, err)
	}
	out, _, err = typed(t.Context(), callerOf(p, acme.Key), "requests", "redeliver", "--callback", "dead", "--all", "--json")
	if err == nil || !strings.Contains(out, `"refused":[{"count":2,"problem":{"type":"/problems/invalid-callback-url"`) {
		t.Errorf("--json: got %q, %v", out, err)
	}
}

// The pages count as more reads than the client has.
func TestBulkWaitsForItsReads(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	acme := issueTo(t, database, "add", "acme")
	storeDead(t, database, "acme", 1001) // two pages
	p := startStrict(t, environment(database, map[string]string{"SECRETS_KEY": sealingKey, "CLIENT_READ_RATE": "60"}))
	p.awaitStatus(t, "/readyz", http.StatusOK)
	out, note, err := typed(t.Context(), callerOf(p, acme.Key), "requests", "discard", "--all", "--dry-run")
	if err != nil || out != "1001 would be discarded.\n" || note != "" {
		t.Errorf("got %q, %q and %v, want all of them and nothing to read", out, note, err)
	}
	p.awaitMetric(t, `ringback_http_problems_total{problem="quota-exceeded"} 1`)
}

func TestShowFollowsToTheEnd(t *testing.T) {
	t.Parallel()
	begun, finish := make(chan struct{}, 10), make(chan struct{})
	p := startHere(t, dbtest.New(t), nil, func(ctx context.Context, input jsontext.Value) (jsontext.Value, error) {
		begun <- struct{}{}
		select {
		case <-finish:
		case <-ctx.Done():
		}
		return fingerprint.Do(ctx, input)
	})
	answer := make(chan struct{})
	r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { <-answer })
	id := p.accept(t, `{"text":"x"}`, r.URL)
	<-begun
	plain, lines := start(t, callerOf(p, ""), "requests", "show", id, "--follow"), start(t, callerOf(p, ""), "requests", "show", "-f", id, "--json")
	line(t, plain.lines, "accepted")
	line(t, lines.lines, `"status":"accepted"`)
	close(finish)
	line(t, plain.lines, "work succeeded")
	line(t, lines.lines, `"status":"succeeded"`, `"callback_state":"pending"`)
	close(answer)
	line(t, plain.lines, "callback delivered")
	line(t, plain.lines, "status    succeeded")
	line(t, plain.lines, "callback  delivered")
	line(t, plain.lines, "result    {")
	line(t, lines.lines, `"callback_state":"delivered"`)
	for _, b := range []*background{plain, lines} {
		for range b.lines { // it ends by itself
		}
		if err := b.stop(); err != nil {
			t.Errorf("got %v, want the end", err)
		}
	}
}

func TestTailFollowsRequestsAndTheirEnds(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	p := startHere(t, database, nil, fingerprint.Do)
	answer := make(chan struct{})
	r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { <-answer })
	before := p.accept(t, `{"text":"before"}`, r.URL)
	tail := start(t, callerOf(p, ""), "requests", "tail", "--interval", "200ms")
	since := start(t, callerOf(p, ""), "requests", "tail", "--interval", "200ms", "--since", "1h", "--json")
	line(t, since.lines, before, `"callback_state":`)
	// Its first line shows that it has begun.
	var id string
	until(t, func() bool {
		id = p.accept(t, `{"text":"x"}`, r.URL)
		select {
		case first := <-tail.lines:
			return !strings.Contains(first, before) || !strings.Contains(first, "waiting")
		default:
			return false
		}
	}, func() string { return "a line of tail" })
	late := p.accept(t, `{"text":"x"}`, r.URL)
	line(t, tail.lines, late, "async")
	synchronous := p.served(t, "/sync", `{"input":{"text":"x"}}`, http.StatusOK)
	line(t, tail.lines, synchronous.ID, "sync", "succeeded")
	close(answer)
	line(t, tail.lines, "delivered", "http://127.0.0.1")
	for _, each := range []string{before, id, late} {
		p.waitFor(t, each, "delivered", func(r request) bool { return r.CallbackState == "delivered" })
	}
	line(t, since.lines, late, `"callback_state":"delivered"`)
	for _, b := range []*background{tail, since} {
		if err := b.stop(); err != nil {
			t.Errorf("got %v, want the end", err)
		}
	}
}

func TestTailOutlivesItsServer(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	p := startHere(t, database, nil, fingerprint.Do)
	environ := callerOf(p, "")
	first := p.served(t, "/sync", `{"input":{"text":"x"}}`, http.StatusOK)
	tail := start(t, environ, "requests", "tail", "--interval", "200ms", "--since", "1h")
	line(t, tail.lines, first.ID)
	if err := p.waitStopped(t); err != nil {
		t.Fatal(err)
	}
	line(t, tail.notes, "trying again")
	again := startHere(t, database, map[string]string{"HTTP_ADDR": strings.TrimPrefix(p.url, "http://")}, fingerprint.Do)
	until(t, func() bool {
		status, _, err := again.post("/sync", `{"input":{"text":"y"}}`)
		return err == nil && status == http.StatusOK
	}, func() string { return "the server to be ready" })
	line(t, tail.lines, "sync", "succeeded")
	if err := tail.stop(); err != nil {
		t.Errorf("got %v, want the end", err)
	}
}

func TestProblemsAreToldInASentence(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	acme := issueTo(t, database, "add", "acme")
	p := startStrict(t, environment(database, map[string]string{"SECRETS_KEY": sealingKey, "CLIENT_READ_RATE": "1"}))
	p.awaitStatus(t, "/readyz", http.StatusOK)
	html := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved/requests":
			http.Redirect(w, r, "/", http.StatusFound)
		case "/html/requests":
			w.WriteHeader(http.StatusBadGateway)
		case "/escape/requests":
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusTeapot)
			_, _ = io.WriteString(w, `{"type":"/problems/tea","detail":"\u001b[2Jpot."}`)
			return
		}
		_, _ = io.WriteString(w, "<html>")
	}))
	defer html.Close()
	problem := func(address, key string, args ...string) string {
		t.Helper()
		out, _, err := typed(t.Context(), map[string]string{"RINGBACK_URL": address, "RINGBACK_API_KEY": key}, args...)
		if err == nil || out != "" || exitStatus(err) != 1 {
			t.Fatalf("ringback %q at %s: got %q, %v, want it to fail", args, address, out, err)
		}
		return err.Error()
	}
	for _, test := range []struct{ got, want string }{
		{problem(p.url, "", "requests", "list"), "(401 unauthorized): RINGBACK_API_KEY or --key gives the key"},
		{problem(p.url, "rbk_wrong", "works"), "(401 unauthorized)"},
		{problem("http://127.0.0.1:1", "", "requests", "list"), "no answer from 127.0.0.1:1 (RINGBACK_URL or --url): "},
		{problem(html.URL, "", "requests", "list"), "doesn't answer as Ringback does"},
		{problem(html.URL+"/moved", "", "requests", "list"), "the server gave no reason (302 Found)"},
		{problem(html.URL+"/html/", "", "requests", "list"), "the server gave no reason (502 Bad Gateway)"},
		{problem(html.URL+"/escape", "", "requests", "list"), "\ufffd[2Jpot (418 tea)"},
		{problem("nonsense", "", "requests", "list"), "RINGBACK_URL must be a URL such as"},
	} {
		if !strings.Contains(test.got, test.want) || strings.Contains(test.got, "\n") {
			t.Errorf("got %q, want %q in one line", test.got, test.want)
		}
	}
	// Flags go before the environment.
	if _, _, err := typed(t.Context(), map[string]string{"RINGBACK_URL": "nonsense", "RINGBACK_API_KEY": "rbk_wrong"}, "requests", "--url", p.url, "list", "--key", acme.Key); err != nil {
		t.Errorf("with flags: got %v", err)
	}
	var last string
	until(t, func() bool {
		_, _, err := typed(t.Context(), callerOf(p, acme.Key), "requests", "list")
		if err != nil {
			last = err.Error()
		}
		return err != nil
	}, func() string { return "a call over the rate" })
	if !regexp.MustCompile(`\(429 quota-exceeded, retry after [12]s\)`).MatchString(last) {
		t.Errorf("got %q, want when to try again", last)
	}
}

func TestWorksCommand(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), nil, fingerprint.Do)
	p.awaitStatus(t, "/readyz", http.StatusOK)
	if got := strings.Fields(p.ask(t, "works")); !strings.HasPrefix(strings.Join(got, " "), "NAME DEFAULT TIMEOUT AT A TIME RETRIES STATE fingerprint yes 40s - 5 up") {
		t.Errorf("got %q", got)
	}
	var works struct {
		Default string
		Works   []struct{ Schema map[string]any }
	}
	if err := json.Unmarshal([]byte(p.ask(t, "works", "--json")), &works); err != nil || works.Default != "fingerprint" || works.Works[0].Schema == nil {
		t.Errorf("got %+v, %v, want the schema", works, err)
	}
}
