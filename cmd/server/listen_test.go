package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"ringback/db/dbtest"
	"ringback/jobs/clients"
	"ringback/work/fingerprint"
)

// startListen runs `ringback listen` on a port of its own.
func startListen(t *testing.T, environ map[string]string, args ...string) (l *background, url string) {
	t.Helper()
	l = start(t, environ, append([]string{"listen", "--addr", "127.0.0.1:0"}, args...)...)
	return l, receiving.FindStringSubmatch(line(t, l.notes, "listening on"))[1]
}

func TestListenPrintsWhatIsSigned(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), nil, fingerprint.Do)
	l, url := startListen(t, nil)
	id := p.accept(t, `{"text":"x"}`, url)
	line(t, l.lines, `{"type":"request.succeeded"`, id)
	p.waitFor(t, id, "delivered", func(r request) bool { return r.CallbackState == "delivered" })
	p.ask(t, "requests", "redeliver", id)
	line(t, l.notes, "req_"+id+" came again, answered 204")

	if got := deliver(t, url, clients.LocalSecret, "req_1", "{\"a\":\"\x1b[2J\"}"); got.StatusCode != http.StatusNoContent {
		t.Errorf("signed: got %s, want 204", got.Status)
	}
	if got := line(t, l.lines, `{"a":`); strings.Contains(got, "\x1b") {
		t.Errorf("got %q, want no control characters", got)
	}
	if got := deliver(t, url, "whsec_"+strings.Repeat("A", 32), "req_2", "{}"); got.StatusCode != http.StatusUnauthorized {
		t.Errorf("signed by somebody else: got %s, want 401", got.Status)
	}
	line(t, l.notes, "/hook: refused with 401")
	if got := deliver(t, url, clients.LocalSecret, "req_3", strings.Repeat("x", 128<<10+1)); got.StatusCode != http.StatusBadRequest {
		t.Errorf("too large: got %s, want 400", got.Status)
	}
	for method, want := range map[string]int{http.MethodGet: http.StatusMethodNotAllowed, http.MethodOptions: http.StatusNoContent} {
		call, err := http.NewRequest(method, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		call.Header.Set("WebHook-Request-Origin", "ringback.example.com")
		response, err := http.DefaultClient.Do(call)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if granted := response.Header.Get("WebHook-Allowed-Origin"); response.StatusCode != want || (granted == "ringback.example.com") != (method == http.MethodOptions) {
			t.Errorf("%s: got %s and %q", method, response.Status, granted)
		}
	}
	if err := l.stop(); err != nil {
		t.Errorf("got %v, want the end", err)
	}
}

func TestListenForwards(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), nil, fingerprint.Do)
	webhook, err := standardwebhooks.NewWebhook(clients.LocalSecret)
	if err != nil {
		t.Fatal(err)
	}
	status := http.StatusServiceUnavailable
	r := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, call *http.Request) {
		body, err := io.ReadAll(call.Body)
		if err != nil || webhook.Verify(body, call.Header) != nil || call.URL.Path != "/mine" || !strings.HasPrefix(call.UserAgent(), "Ringback/") {
			t.Errorf("forwarded: got %s %v, %v, want it as it was sent", call.URL, call.Header, err)
		}
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(status)
		status = http.StatusOK // attempts follow each other
	}))
	defer r.Close()
	l, url := startListen(t, nil, "--forward-to", r.URL+"/mine", "--json")
	id := p.accept(t, `{"text":"x"}`, url)
	first := line(t, l.lines, `"webhook_id":"req_`+id, `"status":503`, `"path":"/hook"`, `"body":{"type":`)
	if strings.Contains(first, "repeated") {
		t.Errorf("got %s, want it for the first time", first)
	}
	line(t, l.lines, `"status":200`, `"repeated":true`)
	last := p.waitFor(t, id, "delivered", func(r request) bool { return r.CallbackState == "delivered" })
	if len(last.Attempts) != 2 || last.Attempts[0].Outcome != "throttled" {
		t.Errorf("got %+v, want the receiver's answer and then success", last.Attempts)
	}

	r.Close()
	if got := deliver(t, url, clients.LocalSecret, "req_1", "{}"); got.StatusCode != http.StatusBadGateway {
		t.Errorf("where nobody listens: got %s, want 502", got.Status)
	}
	line(t, l.notes, "forwarding to "+r.URL)
}

func TestListenTakesTheSecretOfAClient(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{"nonsense", "whsec_nonsense", "whsec_", "whsec_!"} {
		if _, _, err := typed(t.Context(), map[string]string{"RINGBACK_SECRET": secret}, "listen", "--addr", "127.0.0.1:0"); err == nil || strings.Contains(err.Error(), "nonsense") || !strings.Contains(err.Error(), "RINGBACK_SECRET must be") {
			t.Errorf("%q: got %v, want an error that doesn't tell it", secret, err)
		}
	}
	mine := "whsec_" + strings.Repeat("B", 32)
	_, url := startListen(t, map[string]string{"RINGBACK_SECRET": clients.LocalSecret}, "--secret", mine)
	if got := deliver(t, url, mine, "req_1", "{}"); got.StatusCode != http.StatusNoContent {
		t.Errorf("got %s, want 204", got.Status)
	}
	if got := deliver(t, url, clients.LocalSecret, "req_1", "{}"); got.StatusCode != http.StatusUnauthorized {
		t.Errorf("got %s, want 401", got.Status)
	}
	if _, _, err := typed(t.Context(), nil, "listen", "--addr", strings.TrimPrefix(strings.TrimSuffix(url, "/hook"), "http://")); err == nil || !strings.Contains(err.Error(), "listening for callbacks (--addr)") {
		t.Errorf("at a port that is taken: got %v", err)
	}
}
