package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"ringback/db/dbtest"
	"ringback/jobs/clients"
	"ringback/work"
)

// sealingKey is a SECRETS_KEY.
const sealingKey = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

// runClient runs `ringback client …` and returns what it prints.
func runClient(t *testing.T, databaseURL string, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	environ := environment(databaseURL, map[string]string{"SECRETS_KEY": sealingKey})
	if err := run(t.Context(), append([]string{"client"}, args...), environ, &out, io.Discard, work.Do); err != nil {
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

// statusOf is that of a read with an API key.
func (p *program) statusOf(t *testing.T, path, key string) int {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, p.url+path, nil)
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
	p := startHere(t, database, map[string]string{"SECRETS_KEY": sealingKey}, work.Do)
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
	p := startHere(t, database, map[string]string{"SECRETS_KEY": sealingKey}, work.Do)
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
	acme := issueTo(t, database, "add", "acme")
	runClient(t, database, "disable", "acme")
	runClient(t, database, "reseal")
	got := runClient(t, database, "list")
	fields := strings.Fields(strings.Split(got, "\n")[1])
	if len(fields) != 5 || fields[0] != "acme" || fields[2] != "-" || fields[3] == "-" || fields[4] != "sealed" {
		t.Errorf("got %q, want acme, disabled and sealed", got)
	}
	if strings.Contains(got, acme.Key) || strings.Contains(got, acme.Secret) {
		t.Errorf("%q tells what is shown once", got)
	}
}

func TestOpenAddressNeedsAClient(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	environ := environment(database, map[string]string{"HTTP_ADDR": "0.0.0.0:0"})
	err := run(t.Context(), nil, environ, io.Discard, io.Discard, work.Do)
	if err == nil || !strings.Contains(err.Error(), "client add") {
		t.Errorf("without a client: got %v, want an error that says how to add one", err)
	}
	issueTo(t, database, "add", "acme")
	runClient(t, database, "disable", "acme")
	if again := run(t.Context(), nil, environ, io.Discard, io.Discard, work.Do); again == nil {
		t.Error("with a disabled client alone: got no error")
	}
}

func TestLogsTellNeitherKeysNorSecrets(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	acme := issueTo(t, database, "add", "acme")
	p := startHere(t, database, map[string]string{"SECRETS_KEY": sealingKey, "LOG_LEVEL": "DEBUG"}, work.Do)
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
	p := startHere(t, dbtest.New(t), map[string]string{"CLIENT_RATE": "1", "CLIENT_UNFINISHED": "1", "DESTINATION_UNFINISHED": "1"}, work.Do)
	r := newReceiver(t, nil)
	for range 5 { // more than a burst
		p.accept(t, `{"text":"x","delay_ms":1000}`, r.URL)
	}
}
