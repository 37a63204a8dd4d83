package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"ringback/db"
	"ringback/db/dbtest"
	"ringback/jobs/clients"
	"ringback/work/fingerprint"
)

// sealingKey is a SECRETS_KEY.
const sealingKey = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

// runClient runs `ringback client …` and returns its output.
func runClient(t *testing.T, databaseURL string, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	environ := environment(databaseURL, map[string]string{"SECRETS_KEY": sealingKey})
	if err := run(t.Context(), append([]string{"client"}, args...), environ, &out, io.Discard, works); err != nil {
		t.Fatalf("ringback client %q: %v", args, err)
	}
	return out.String()
}

var issued = regexp.MustCompile(`key +(rbk_\S+)\nsecret +(whsec_\S+)\n`)

// issueTo adds or rotates a client.
func issueTo(t *testing.T, databaseURL, action, client string) clients.Credentials {
	t.Helper()
	out := runClient(t, databaseURL, action, client)
	match := issued.FindStringSubmatch(out)
	if match == nil {
		t.Fatalf("ringback client %s: got %q, want a key and a secret", action, out)
	}
	return clients.Credentials{Key: match[1], Secret: match[2]}
}

// statusOf returns the status of a read with an API key.
func (p *program) statusOf(t *testing.T, path, key string) int {
	t.Helper()
	return p.statusWithin(t.Context(), t, path, key)
}

func (p *program) statusWithin(ctx context.Context, t *testing.T, path, key string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+key)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}

// postAs posts with an API key, and returns the answer, whose body is closed.
func (p *program) postAs(t *testing.T, key, path, body string) *http.Response {
	t.Helper()
	request, err := http.NewRequest(http.MethodPost, p.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+key)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response
}

// acceptAs posts an async request with an API key.
func (p *program) acceptAs(t *testing.T, key, callbackURL string) {
	t.Helper()
	if got := p.postAs(t, key, "/async", asyncBody(`{"text":"x"}`, callbackURL)); got.StatusCode != http.StatusAccepted {
		t.Fatalf("POST /async: got %s, want 202", got.Status)
	}
}

// signatures takes callbacks and tells of each whether a secret verifies it.
type signatures struct {
	*receiver
	verified chan map[string]bool // by name of the secret
}

func newSignatures(t *testing.T, secrets map[string]string) *signatures {
	t.Helper()
	s := &signatures{verified: make(chan map[string]bool, 100)}
	s.receiver = newReceiver(t, nil)
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("reading a callback: %v", err)
		}
		told := map[string]bool{}
		for name, secret := range secrets {
			webhook, err := standardwebhooks.NewWebhook(secret)
			told[name] = err == nil && webhook.Verify(body, r.Header) == nil
		}
		s.verified <- told
	})
	return s
}

func (s *signatures) want(t *testing.T, what string, want map[string]bool) {
	t.Helper()
	if got := <-s.verified; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: got %v verified, want %v", what, got, want)
	}
}

func TestCallbacksAreSignedForTheirClient(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	acme := issueTo(t, database, "add", "acme")
	other := issueTo(t, database, "add", "other")
	p := startHere(t, database, map[string]string{"SECRETS_KEY": sealingKey}, fingerprint.Do)
	r := newSignatures(t, map[string]string{"acme": acme.Secret, "other": other.Secret, "local": clients.LocalSecret})
	p.acceptAs(t, acme.Key, r.URL)
	r.want(t, "acme's", map[string]bool{"acme": true, "other": false, "local": false})
	p.acceptAs(t, other.Key, r.URL)
	r.want(t, "other's", map[string]bool{"acme": false, "other": true, "local": false})
	p.accept(t, `{"text":"x"}`, r.URL)
	r.want(t, "that without a key, in local mode", map[string]bool{"acme": false, "other": false, "local": true})
}

func TestRotationSignsWithBothSecretsAndTakesBothKeys(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	before := issueTo(t, database, "add", "acme")
	p := startHere(t, database, map[string]string{"SECRETS_KEY": sealingKey}, fingerprint.Do)
	after := issueTo(t, database, "rotate", "acme")
	r := newSignatures(t, map[string]string{"before": before.Secret, "after": after.Secret})
	until(t, func() bool { return p.statusOf(t, "/requests", after.Key) == http.StatusOK }, func() string { return "the new key to work" })
	for _, key := range []string{before.Key, after.Key} {
		p.acceptAs(t, key, r.URL)
		r.want(t, "after a rotation", map[string]bool{"before": true, "after": true})
	}
}

func TestDisabledClientCannotCallButIsCalledBack(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	acme := issueTo(t, database, "add", "acme")
	// It only accepts, so that the callback is still owed.
	api := startProcess(t, database, map[string]string{"SECRETS_KEY": sealingKey}, "--role=api")
	r := newSignatures(t, map[string]string{"acme": acme.Secret})
	api.acceptAs(t, acme.Key, r.URL)
	runClient(t, database, "disable", "acme")
	until(t, func() bool { return api.statusOf(t, "/requests", acme.Key) == http.StatusUnauthorized }, func() string { return "the key to be refused" })
	startProcess(t, database, map[string]string{"SECRETS_KEY": sealingKey}, "--role=worker")
	r.want(t, "after it was disabled", map[string]bool{"acme": true})
}

func TestListShowsClientsAndNoSecrets(t *testing.T) {
	t.Parallel()
	database := dbtest.NewEmpty(t) // the first client comes before the first start
	if err := run(t.Context(), []string{"client", "list"}, environment(database, nil), io.Discard, io.Discard, works); err == nil || !strings.Contains(err.Error(), "ringback migrate") {
		t.Errorf("without a schema: got %v, want the remedy", err)
	}
	if err := run(t.Context(), []string{"migrate"}, environment(database, nil), io.Discard, io.Discard, works); err != nil {
		t.Fatal(err)
	}
	acme := issueTo(t, database, "add", "acme")
	runClient(t, database, "disable", "acme")
	runClient(t, database, "reseal")
	got := runClient(t, database, "list")
	fields := strings.Fields(strings.Split(got, "\n")[1])
	if len(fields) != 11 || fields[0] != "acme" || fields[2] != "-" || fields[3] == "-" || fields[4] != "sealed" {
		t.Errorf("got %q, want acme, disabled and sealed", got)
	}
	if strings.Contains(got, acme.Key) || strings.Contains(got, acme.Secret) {
		t.Errorf("%q tells what is shown once", got)
	}
}

func TestClientsHaveLimitsOfTheirOwn(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	acme, other := issueTo(t, database, "add", "acme"), issueTo(t, database, "add", "other")
	r := newReceiver(t, nil)
	p := startStrict(t, environment(database, map[string]string{
		"CLIENT_RATE": "100", "SECRETS_KEY": sealingKey, "CALLBACK_ALLOW_CIDRS": "127.0.0.0/8", "CALLBACK_PORTS": "80",
	}))
	policyOf := func(key string) string {
		return p.postAs(t, key, "/sync", `{"input":{"text":"x"}}`).Header.Get("RateLimit-Policy")
	}
	told := runClient(t, database, "set", "acme", "--rate", "7", "--unfinished=8", "--per-destination", "9", "--storage", "10GiB", "--dead-letters", "11", "--callbacks", "Hooks.example.com, *.acme.example.com:8443")
	for _, want := range []string{"rate             7\n", "storage          10 GiB\n", "callbacks        hooks.example.com,*.acme.example.com:8443\n", "three seconds"} {
		if !strings.Contains(told, want) {
			t.Errorf("set: got %q, want it to hold %q", told, want)
		}
	}
	if shown := runClient(t, database, "show", "acme"); !strings.HasPrefix(told, shown) {
		t.Errorf("show: got %q, want what set told: %q", shown, told)
	}
	if shown := runClient(t, database, "show", "other"); !strings.Contains(shown, "unfinished       10000 (default)\n") || !strings.Contains(shown, "storage          20 GiB (default)\n") {
		t.Errorf("show: got %q for other, want the settings' limits", shown)
	}
	const own = `"rate";q=14;w=2, "unfinished";q=8;qu="concurrent-requests", "destination";q=9;qu="concurrent-requests", "storage";q=10737418240;qu="content-bytes", "dead-letters";q=11`
	until(t, func() bool { return policyOf(acme.Key) == own }, func() string { return "acme's limits in " + policyOf(acme.Key) })
	if got := policyOf(other.Key); !strings.HasPrefix(got, `"rate";q=200;w=2, "unfinished";q=10000;`) {
		t.Errorf("other: got %s, want the settings'", got)
	}
	if got := p.postAs(t, acme.Key, "/async", asyncBody(`{"text":"x"}`, r.URL)); got.StatusCode != http.StatusUnprocessableEntity {
		t.Errorf("another host: got %s, want 422", got.Status)
	}
	p.acceptAs(t, other.Key, r.URL)
	r.next(t)

	want := []map[string]any{
		{"name": "acme", "rate": 7., "unfinished": 8., "per_destination": 9., "storage": 10737418240., "dead_letters": 11., "callbacks": []any{"hooks.example.com", "*.acme.example.com:8443"}, "secret": "sealed"},
		{"name": "other", "secret": "sealed"},
	}
	var listed []map[string]any
	if err := json.Unmarshal([]byte(runClient(t, database, "list", "--json")), &listed); err != nil {
		t.Fatal(err)
	}
	for _, client := range listed {
		delete(client, "created_at")
	}
	if !reflect.DeepEqual(listed, want) {
		t.Errorf("list: got %v, want %v", listed, want)
	}
	if got := strings.Join(strings.Fields(strings.Split(runClient(t, database, "list"), "\n")[1])[4:], " "); got != "sealed 7 8 9 10 GiB 11 hooks.example.com,*.acme.example.com:8443" {
		t.Errorf("list: got %q for acme", got)
	}

	runClient(t, database, "set", "acme", "--rate", "default", "--callbacks", "default")
	until(t, func() bool { return strings.HasPrefix(policyOf(acme.Key), `"rate";q=200;w=2, "unfinished";q=8;`) }, func() string { return "the rate of the settings again" })
	until(t, func() bool {
		status := p.postAs(t, acme.Key, "/async", asyncBody(`{"text":"x"}`, r.URL)).StatusCode
		return status == http.StatusAccepted // not 422, and 429 only until the rate has room again
	}, func() string { return "a callback to any host" })
	r.next(t)
}

func TestCallbackIsHeldToTheHostsOfItsClientWhenItIsSent(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	acme := issueTo(t, database, "add", "acme")
	settings := map[string]string{"SECRETS_KEY": sealingKey}
	api := startProcess(t, database, settings, "--role=api", "--dev") // it only accepts
	r := newReceiver(t, nil)
	api.acceptAs(t, acme.Key, r.URL)
	runClient(t, database, "set", "acme", "--callbacks", "hooks.example.com")
	startProcess(t, database, settings, "--role=worker", "--dev")
	const refused = `
		SELECT outcome || ': ' || cause || ', ' || callback_state || ', ' || (next_attempt_at IS NOT NULL)::text
		FROM request_trace
		WHERE outcome IS NOT NULL
		LIMIT 1`
	var got string
	pool := dbtest.Pool(t, database)
	until(t, func() bool { return pool.QueryRow(t.Context(), refused).Scan(&got) == nil }, func() string { return "an attempt" })
	if want := "connection_failed: URL not allowed: The callbacks of this client may go to certain hosts only, and the host and port of the callback URL are not among them. The operator names them (ringback client set --callbacks)., pending, true"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if len(r.deliveries) != 0 {
		t.Error("it was sent")
	}
	// The refusal of one client's host tells nothing about the receiver.
	api.accept(t, `{"text":"x"}`, r.URL)
	r.next(t)
	runClient(t, database, "set", "acme", "--callbacks", "127.0.0.1")
	r.next(t)
}

// A client whose secret was sealed with another key stops neither the start nor others.
func TestSecretThatCannotBeReadIsItsClientsAlone(t *testing.T) {
	t.Parallel()
	const otherKey = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="
	database := dbtest.New(t)
	acme := issueTo(t, database, "add", "acme")
	var out bytes.Buffer
	if err := run(t.Context(), []string{"client", "add", "other"}, environment(database, map[string]string{"SECRETS_KEY": otherKey}), &out, io.Discard, works); err != nil {
		t.Fatal(err)
	}
	other := issued.FindStringSubmatch(out.String())
	r := newReceiver(t, nil)
	p := startStrict(t, environment(database, map[string]string{"SECRETS_KEY": otherKey, "CALLBACK_ALLOW_CIDRS": "127.0.0.0/8", "CALLBACK_PORTS": "80"}))
	if got := p.probe("/readyz"); got != http.StatusOK {
		t.Errorf("/readyz: got %d, want 200", got)
	}
	if got := p.postAs(t, acme.Key, "/async", asyncBody(`{"text":"x"}`, r.URL)); got.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("POST /async of acme: got %s, want 503", got.Status)
	}
	p.awaitLine(t, `"msg":"client_secret_unreadable","client":"acme"`)
	p.awaitMetric(t, `ringback_http_refusals_total{reason="client_secret"} 1`)
	p.acceptAs(t, other[1], r.URL)
	r.next(t)
}

func TestOpenAddressNeedsAClient(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	environ := environment(database, map[string]string{"HTTP_ADDR": "0.0.0.0:0", "SECRETS_KEY": sealingKey})
	err := run(t.Context(), nil, environ, io.Discard, io.Discard, works)
	if err == nil || !strings.Contains(err.Error(), "client add") {
		t.Errorf("without a client: got %v, want an error that says how to add one", err)
	}
	issueTo(t, database, "add", "acme")
	runClient(t, database, "disable", "acme")
	if again := run(t.Context(), nil, environ, io.Discard, io.Discard, works); again == nil {
		t.Error("with a disabled client alone: got no error")
	}
}

func TestLogsTellNeitherKeysNorSecrets(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	acme := issueTo(t, database, "add", "acme")
	p := startHere(t, database, map[string]string{"SECRETS_KEY": sealingKey, "LOG_LEVEL": "DEBUG"}, fingerprint.Do)
	r := newSignatures(t, map[string]string{"acme": acme.Secret})
	p.acceptAs(t, acme.Key, r.URL)
	r.want(t, "acme's", map[string]bool{"acme": true})
	p.statusOf(t, "/requests", "rbk_wrong-key")
	if err := p.waitStopped(t); err != nil {
		t.Error(err)
	}
	log := p.log.String()
	for what, secret := range map[string]string{"key": acme.Key, "secret": acme.Secret, "wrong key": "rbk_wrong-key", "SECRETS_KEY": sealingKey} {
		if strings.Contains(log, secret) {
			t.Errorf("the log tells the %s", what)
		}
	}
	if !strings.Contains(log, "client=acme") {
		t.Error("the log doesn't name the client")
	}
}

func TestQuotasCountOutsideLocalMode(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	acme := issueTo(t, database, "add", "acme")
	environ := environment(database, map[string]string{"CLIENT_RATE": "1", "CLIENT_UNFINISHED": "1", "SECRETS_KEY": sealingKey})
	p := startStrict(t, environ)
	var last *http.Response
	until(t, func() bool {
		last = p.postAs(t, acme.Key, "/sync", `{"input":{"text":"x"}}`)
		return last.StatusCode == http.StatusTooManyRequests
	}, func() string { return "a call over the rate" })
	if got, want := last.Header.Get("RateLimit-Policy"), `"rate";q=2;w=2, "unfinished";q=1;`; !strings.HasPrefix(got, want) {
		t.Errorf("RateLimit-Policy: got %q, want it to begin with %q", got, want)
	}
	if got := p.postAs(t, "", "/sync", "").StatusCode; got != http.StatusUnauthorized {
		t.Errorf("without a key: got %d, want 401", got)
	}
}

func TestLocalModeHasNoQuotas(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), map[string]string{
		"CLIENT_RATE": "1", "CLIENT_UNFINISHED": "1", "DESTINATION_UNFINISHED": "1", "CLIENT_STORAGE": "1", "CLIENT_DEAD_LETTERS": "1",
	}, fingerprint.Do)
	r := newReceiver(t, nil)
	for range 5 { // more than a burst
		p.accept(t, `{"text":"x","delay_ms":1000}`, r.URL)
	}
}

// A command on a database whose schema is missing or old names the remedy, and ends with
// an error.
func TestCommandsBeforeMigrate(t *testing.T) {
	t.Parallel()
	empty, old := dbtest.NewEmpty(t), dbtest.New(t)
	if _, err := dbtest.Pool(t, old).Exec(t.Context(), "UPDATE schema_migrations SET version = 15"); err != nil {
		t.Fatal(err)
	}
	for version, database := range map[string]string{"0": empty, "15": old} {
		for _, command := range [][]string{
			{"client", "add", "acme"},
			{"client", "rotate", "acme"},
			{"client", "list"},
			{"client", "show", "acme"},
			{"client", "disable", "acme"},
			{"client", "reseal"},
			{"receiver", "list"},
			{"receiver", "deny", "hooks.example.com"},
			{"receiver", "allow", "hooks.example.com"},
			{"receiver", "forget", "hooks.example.com"},
		} {
			var out bytes.Buffer
			err := run(t.Context(), command, environment(database, map[string]string{"SECRETS_KEY": sealingKey}), &out, io.Discard, works)
			if err == nil || !strings.Contains(err.Error(), "has version "+version+",") || !strings.Contains(err.Error(), "run ringback migrate first") || strings.Contains(err.Error(), "\n") || out.Len() > 0 {
				t.Errorf("%q at version %s: got %v and %q, want one sentence with the remedy", command, version, err, out.String())
			}
		}
	}
}

func TestADatabaseThatIsAwayIsNamed(t *testing.T) {
	t.Parallel()
	const address = "127.0.0.1:1" // where nobody listens
	away := "postgres://ringback:hunter2@" + address + "/hooks?sslmode=disable"
	for _, command := range [][]string{{"client", "list"}, {"receiver", "list"}, {"migrate"}} {
		err := run(t.Context(), command, environment(away, nil), io.Discard, io.Discard, works)
		if err == nil || !strings.Contains(err.Error(), "connection refused: DATABASE_URL names postgres://ringback@"+address+"/hooks: start that database") ||
			!strings.Contains(err.Error(), "`make up`") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: got %v, want the database without its password, and what starts one", command, err)
		}
	}
	config, err := readConfig(map[string]string{}, options{readsOnly: true}, works)
	if err != nil {
		t.Fatal(err)
	}
	refused := db.CheckServer(t.Context(), away)
	if got := config.tried(refused); !strings.HasSuffix(got.Error(), "DATABASE_URL is not set, so postgres://ringback@127.0.0.1:5433/ringback was tried, which `make up` starts") {
		t.Errorf("without DATABASE_URL: got %v, want the default, and what starts it", got)
	}
	other, err := url.Parse(dbtest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	other.Path = "/ringback_not_there"
	err = run(t.Context(), []string{"client", "list"}, environment(other.String(), nil), io.Discard, io.Discard, works)
	if err == nil || !strings.Contains(err.Error(), "does not exist (SQLSTATE 3D000): DATABASE_URL names postgres://") || !strings.HasSuffix(err.Error(), "/ringback_not_there") {
		t.Errorf("of a server that answers: got %v, want the database alone", err)
	}
}
