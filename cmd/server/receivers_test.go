package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"ringback/db/dbtest"
	"ringback/work/fingerprint"
)

// runReceiver runs `ringback receiver …` and returns its output.
func runReceiver(t *testing.T, databaseURL string, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	if err := run(t.Context(), append([]string{"receiver"}, args...), environment(databaseURL, nil), &out, io.Discard, works); err != nil {
		t.Fatalf("ringback receiver %q: %v", args, err)
	}
	return out.String()
}

func listReceivers(t *testing.T, databaseURL string) map[string]listedReceiver {
	t.Helper()
	var rows []listedReceiver
	if err := json.Unmarshal([]byte(runReceiver(t, databaseURL, "list", "--json")), &rows); err != nil {
		t.Fatal(err)
	}
	receivers := map[string]listedReceiver{}
	for _, row := range rows {
		receivers[row.Receiver] = row
	}
	return receivers
}

func TestOperatorDeniesAReceiver(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	p := startHere(t, database, nil, fingerprint.Do)
	var paused atomic.Bool
	paused.Store(true)
	r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
		if paused.Load() {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	id := p.accept(t, `{"text":"x"}`, r.URL)
	r.next(t)
	if told := runReceiver(t, database, "deny", "127.0.0.1"); !strings.Contains(told, "denied") {
		t.Errorf("got %q, want it to say what it did", told)
	}
	until(t, func() bool {
		status, answer, err := p.post("/async", asyncBody(`{"text":"x"}`, r.URL))
		return err == nil && status == http.StatusUnprocessableEntity && answer.problem == "/problems/invalid-callback-url"
	}, func() string { return "requests that name it to be refused" })
	dead := p.waitFor(t, id, "a dead letter", func(r request) bool { return r.CallbackState == "dead" })
	if last := dead.Attempts[len(dead.Attempts)-1]; last.Outcome != "not_sent" {
		t.Errorf("got %+v, want not_sent as the last outcome", dead.Attempts)
	}
	if status, answer, err := p.post("/requests/"+id+"/redeliver", ""); err != nil || status != http.StatusUnprocessableEntity || answer.problem != "/problems/invalid-callback-url" {
		t.Errorf("redelivering: got %d %s, %v, want it refused", status, answer.problem, err)
	}
	if status, body, _ := p.call(t, "POST", "/requests/"+id+"/redeliver", nil, nil); status != http.StatusUnprocessableEntity || !strings.Contains(body, "denied") {
		t.Errorf("redelivering on the page: got %d, want it refused", status)
	}

	host := strings.TrimSuffix(strings.TrimPrefix(r.URL, "http://"), "/")
	if _, body, _ := p.call(t, "GET", "/dead-letters/redeliver?client=local&host="+host, nil, nil); !strings.Contains(body, "may not go there any more, and would stay") {
		t.Errorf("the question on the page of dead letters: got %s, want to hear of the refusal", body)
	}

	paused.Store(false)
	runReceiver(t, database, "forget", "127.0.0.1")
	until(t, func() bool {
		status, _, err := p.post("/async", asyncBody(`{"text":"x"}`, r.URL))
		return err == nil && status == http.StatusAccepted
	}, func() string { return "requests that name it to be accepted again" })
}

// A decision on a host is for all its ports, and a later one on a port goes before it.
func TestADecisionOnAHostReplacesThoseOnItsPorts(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	words := func() map[string]string {
		said := map[string]string{}
		for name, row := range listReceivers(t, database) {
			said[name] = row.Word
		}
		return said
	}
	for _, test := range []struct {
		command []string
		told    string
		want    map[string]string
	}{
		{[]string{"allow", "192.0.2.1:9105"}, "allowed any rate.", map[string]string{"192.0.2.1:9105": "allowed"}},
		{[]string{"allow", "192.0.2.10:9105"}, "allowed any rate.", map[string]string{"192.0.2.1:9105": "allowed", "192.0.2.10:9105": "allowed"}},
		{[]string{"deny", "192.0.2.1"}, "replaces: 1.", map[string]string{"192.0.2.1": "denied", "192.0.2.10:9105": "allowed"}},
		{[]string{"allow", "192.0.2.1:80"}, "allowed any rate.", map[string]string{"192.0.2.1": "denied", "192.0.2.1:80": "allowed", "192.0.2.10:9105": "allowed"}},
		{[]string{"forget", "192.0.2.1"}, "forgotten: it was denied, decisions on its ports: 1.", map[string]string{"192.0.2.10:9105": "allowed"}},
		{[]string{"allow", "[2001:db8::1]:443"}, "allowed any rate.", map[string]string{"192.0.2.10:9105": "allowed", "[2001:db8::1]:443": "allowed"}},
		{[]string{"deny", "2001:db8::1"}, "replaces: 1.", map[string]string{"192.0.2.10:9105": "allowed", "[2001:db8::1]": "denied"}},
	} {
		if told := runReceiver(t, database, test.command...); !strings.Contains(told, test.told) {
			t.Errorf("%q: got %q, want %q", test.command, told, test.told)
		}
		if got := words(); !maps.Equal(got, test.want) {
			t.Errorf("after %q: got %v, want %v", test.command, got, test.want)
		}
	}
}

func TestOperatorAllowsAReceiver(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	var underWay atomic.Int64
	release := make(chan struct{})
	r := newReceiver(t, func(_ http.ResponseWriter, call *http.Request) {
		underWay.Add(1)
		defer underWay.Add(-1)
		select {
		case <-release:
		case <-call.Context().Done(): // the attempt was given up
		}
	})
	t.Cleanup(func() { close(release) }) // before the receiver waits for its calls
	target, err := url.Parse(r.URL)
	if err != nil {
		t.Fatal(err)
	}
	runReceiver(t, database, "allow", target.Host, "--rate", "500", "--concurrency=3")
	p := startHere(t, database, map[string]string{"WORKERS": "40"}, fingerprint.Do)
	reaches := func(count int64) {
		t.Helper()
		until(t, func() bool {
			if underWay.Load() < count {
				p.accept(t, `{"text":"x"}`, r.URL)
			}
			return underWay.Load() == count
		}, func() string { return fmt.Sprintf("%d callbacks at a time, got %d", count, underWay.Load()) })
	}
	reaches(3) // a stranger gets one
	runReceiver(t, database, "allow", target.Host, "--rate", "500", "--concurrency=5")
	reaches(5) // the running server has heard of it
	if got := listReceivers(t, database)[target.Host]; got.Word != "allowed" || got.WordRate != 500 || got.WordMost != 5 {
		t.Errorf("got %+v, want it allowed 500 a second, 5 at a time", got)
	}
	if got := runReceiver(t, database, "list"); !strings.Contains(got, "allowed 500/s, 5 at a time") {
		t.Errorf("got %q, want it allowed", got)
	}
}

func TestReceiversAreListedWithWhatTheyTake(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	p := startHere(t, database, nil, fingerprint.Do)
	good := newReceiver(t, nil)
	busy := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	failing := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	p.accept(t, `{"text":"x"}`, good.URL)
	p.accept(t, `{"text":"x"}`, failing.URL)
	id := p.accept(t, `{"text":"x"}`, busy.URL)
	good.next(t)
	busy.next(t)
	p.waitFor(t, id, "the reason", func(r request) bool { return r.WaitsFor == "receiver_paused" })
	var got map[string]listedReceiver
	until(t, func() bool {
		got = listReceivers(t, database)
		return len(got) == 3
	}, func() string { return "three receivers to be listed" })
	if row := got[good.URL]; row.Rate < 20 || row.InFlight < 1 || row.Breaker != "closed" || row.LastOutcome != "delivered" {
		t.Errorf("the good one: got %+v", row)
	}
	if row := got[busy.URL]; row.ClosedUntil.IsZero() || row.Rate != 0 || row.LastOutcome != "throttled" {
		t.Errorf("the busy one: got %+v", row)
	}
	if row := got[failing.URL]; row.Rate != 0 || row.LastOutcome != "http_status" {
		t.Errorf("the failing one: got %+v", row)
	}
	table := runReceiver(t, database, "list")
	if lines := strings.Split(table, "\n"); len(lines) != 5 || !strings.HasPrefix(lines[0], "RECEIVER") {
		t.Errorf("got %q, want a table of three", table)
	}
	for url, takes := range map[string]string{good.URL: "yes", busy.URL: "of some clients", failing.URL: "not yet"} {
		if !regexp.MustCompile(`(?m)^` + url + ` .*  ` + takes + `  `).MatchString(table) {
			t.Errorf("%s: got %q, want it to say %s", url, table, takes)
		}
		if got[url].Takes != takes {
			t.Errorf("%s: got %q in JSON, want %s", url, got[url].Takes, takes)
		}
		_, page, _ := p.call(t, http.MethodGet, "/receivers", nil, nil)
		row := regexp.MustCompile(`(?s)<tr>\s*<td><code>` + url + `</code>.*?</tr>`).FindString(page)
		if !strings.Contains(row, ">"+takes+"<") || strings.Contains(row, "closed") || strings.Contains(row, "open") {
			t.Errorf("%s: got %q, want the page to say %s", url, row, takes)
		}
	}
}

func TestADeniedReceiverIsListedAsOneThatTakesNothing(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	p := startHere(t, database, nil, fingerprint.Do)
	runReceiver(t, database, "deny", "a.example.com")
	runReceiver(t, database, "allow", "b.example.com:8443", "--rate=4")
	const sql = `
		INSERT INTO callback_origins (origin, openings, expires_at, saved_at, rate, in_flight, answered_from, last_outcome)
		SELECT origin, 0, now() + interval '1 day', now(), 77, 5, '{192.0.2.0/24}', 'delivered'
		FROM unnest('{https://a.example.com:443,https://b.example.com:443,https://b.example.com:8443}'::text[]) AS origin`
	if _, err := dbtest.Pool(t, database).Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
	for receiver, want := range map[string]listedReceiver{
		"https://a.example.com:443":  {Word: "denied", Takes: "no"},
		"https://b.example.com:443":  {Takes: "yes", Rate: 77, InFlight: 5, Breaker: "closed"},
		"https://b.example.com:8443": {Word: "allowed", WordRate: 4, Takes: "yes", Rate: 77, InFlight: 5, Breaker: "closed"},
		"a.example.com":              {Word: "denied"},
	} {
		got := listReceivers(t, database)[receiver]
		want.Receiver, want.LastOutcome, want.SavedAt = receiver, got.LastOutcome, got.SavedAt
		if got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	if table := runReceiver(t, database, "list"); !regexp.MustCompile(`(?m)^https://a.example.com:443 +denied +- +- +no +- +delivered `).MatchString(table) {
		t.Errorf("got %q, want the denied receiver to take nothing", table)
	}
	_, page, _ := p.call(t, http.MethodGet, "/receivers", nil, nil)
	row := regexp.MustCompile(`(?s)<tr>\s*<td><code>https://a.example.com:443</code>.*?</tr>`).FindString(page)
	if !strings.Contains(row, ">no<") || !strings.Contains(row, "denied") || strings.Contains(row, ">77") {
		t.Errorf("got %q, want the page to say that it takes nothing", row)
	}
	if row = regexp.MustCompile(`(?s)<tr>\s*<td><code>a.example.com</code>.*?</tr>`).FindString(page); strings.Contains(row, "any rate") {
		t.Errorf("got %q, want no rate of a denied receiver", row)
	}
}

func TestListsSayHowManyReceiversTheyLeaveOut(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	p := startHere(t, database, nil, fingerprint.Do)
	runReceiver(t, database, "deny", "z.example.com")
	const sql = `
		INSERT INTO callback_origins (origin, openings, expires_at, saved_at)
		SELECT 'https://a-' || n || '.example:443', 0, now() + interval '1 day', now() - n * interval '1 second'
		FROM generate_series(1, 1001) AS n`
	if _, err := dbtest.Pool(t, database).Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
	_, page, _ := p.call(t, http.MethodGet, "/receivers", nil, nil)
	for name, text := range map[string]string{"list": runReceiver(t, database, "list"), "page": page} {
		for part, want := range map[string]bool{"2 more, saved before these, are left out": true, "z.example.com": true, "https://a-1001.": false, "https://a-1000.": false, "https://a-999.": true} {
			if got := strings.Contains(text, part); got != want {
				t.Errorf("%s: says %q: %v, want %v", name, part, got, want)
			}
		}
	}
	if got := len(listReceivers(t, database)); got != 1002 {
		t.Errorf("in JSON: got %d receivers, want all", got)
	}
}

func TestReadReceiver(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][2]string{
		"hooks.example.com":      {"hooks.example.com", ""},
		"Hooks.Example.COM:8443": {"hooks.example.com", "8443"},
		"127.0.0.1:9999":         {"127.0.0.1", "9999"},
		"2001:db8::1":            {"2001:db8::1", ""},
		"[2001:db8::1]:443":      {"2001:db8::1", "443"},
		"localhost":              {"localhost", ""},
		"::ffff:192.0.2.1":       {"192.0.2.1", ""}, // callback URLs name it so
	} {
		host, port, err := readReceiver(text)
		if err != nil || host != want[0] || port != want[1] {
			t.Errorf("%s: got %s and %s, %v, want %s", text, host, port, err, want)
		}
	}
	for _, text := range []string{"", "https://a.example.com", "a.example.com:0", "a.example.com:99999", "a.example.com:https", "a b", "[fe80::1%eth0]", "[fe80::1%eth0]:443"} {
		if host, port, err := readReceiver(text); err == nil {
			t.Errorf("%q: got %s and %s, want an error", text, host, port)
		}
	}
}
