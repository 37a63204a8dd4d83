package main

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"ringback/db/dbtest"
	"ringback/jobs/clients"
	"ringback/work/fingerprint"
)

// example is the receiver that README shows, running.
type example struct {
	url     string
	printed chan string // lines
}

var receiving = regexp.MustCompile(`listening on (\S+)`)

func startExample(t *testing.T, secret string) *example {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "receiver")
	if out, err := exec.Command("go", "build", "-o", binary, "../receiver").CombinedOutput(); err != nil {
		t.Fatalf("building the receiver: %v\n%s", err, out)
	}
	command := exec.Command(binary)
	command.Env = append(os.Environ(), "RECEIVER_ADDR=127.0.0.1:0", "RINGBACK_SECRET="+secret)
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	line, err := bufio.NewReader(stderr).ReadString('\n')
	match := receiving.FindStringSubmatch(line)
	if match == nil {
		t.Fatalf("the receiver said %q, %v, want where it listens", line, err)
	}
	e := &example{match[1], make(chan string, 100)}
	go func() {
		for scanner := bufio.NewScanner(stdout); scanner.Scan(); {
			e.printed <- scanner.Text()
		}
	}()
	return e
}

// post sends a callback of a test's own.
func (e *example) post(t *testing.T, id, secret, body string) int {
	t.Helper()
	return deliver(t, e.url, secret, id, body).StatusCode
}

// deliver sends a signed callback, and returns the answer.
func deliver(t *testing.T, url, secret, id, body string) *http.Response {
	t.Helper()
	webhook, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	signature, err := webhook.Sign(id, now, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("webhook-id", id)
	request.Header.Set("webhook-timestamp", fmt.Sprint(now.Unix()))
	request.Header.Set("webhook-signature", signature)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response
}

func TestReceiverOfReadme(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	acme := issueTo(t, database, "add", "acme")
	e := startExample(t, acme.Secret)
	p := startHere(t, database, map[string]string{"SECRETS_KEY": sealingKey}, fingerprint.Do)

	p.acceptAs(t, acme.Key, e.url)
	if got := <-e.printed; !strings.Contains(got, `"type":"request.succeeded"`) {
		t.Errorf("got %s, want the callback", got)
	}
	id := p.accept(t, `{"text":"x"}`, e.url)
	last := p.waitFor(t, id, "an attempt", func(r request) bool { return len(r.Attempts) > 0 })
	if got := last.Attempts[0]; got.HTTPStatus != http.StatusUnauthorized {
		t.Errorf("a callback that is signed for another client: got %+v, want it refused", got)
	}
	if got := e.post(t, "req_1", clients.LocalSecret, "forged"); got != http.StatusUnauthorized {
		t.Errorf("forged: got %d, want 401", got)
	}
	for _, id := range []string{"req_1", "req_1", "req_2"} {
		if got := e.post(t, id, acme.Secret, id); got != http.StatusNoContent {
			t.Errorf("%s: got %d, want 204", id, got)
		}
	}
	if first, second := <-e.printed, <-e.printed; first != "req_1" || second != "req_2" {
		t.Errorf("printed %q and %q, want each callback once", first, second)
	}
}

func TestReadmeHasTheReceiver(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("../receiver/main.go")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../jobs/webhook/README.md")
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(source), "func (r *receiver) ServeHTTP")
	if at < 0 || !strings.Contains(string(readme), "```go\n"+string(source)[at:]+"```") {
		t.Error("jobs/webhook/README.md doesn't hold the last function of cmd/receiver/main.go")
	}
}
