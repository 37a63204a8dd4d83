package upstream

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"ringback/jobs/webhook"
	"ringback/work"
)

// TestExamples runs the services that README.md points to.
func TestExamples(t *testing.T) {
	t.Parallel()
	for program, example := range map[string]string{"python3": "examples/words.py", "node": "examples/words.js"} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath(program); err != nil {
				t.Skip("there is no " + program + ", which make test installs where it may")
			}
			secret := webhook.NewSecret()
			url := start(t, secret, program, example, "0")
			var secrets, others Secrets
			for s, text := range map[*Secrets]string{&secrets: secret, &others: webhook.NewSecret()} {
				if err := s.UnmarshalText([]byte(text)); err != nil {
					t.Fatal(err)
				}
			}
			for _, test := range []struct {
				name    string
				secrets Secrets
				call    work.Call
				want    string // the result, or the error
			}{
				{"Answers", secrets, work.Call{RequestID: "a", Attempt: 1, Input: jsontext.Value(`{"text":"one two three"}`)}, `{"words":3,"attempt":1}`},
				{"AnswersTheSameAgain", secrets, work.Call{RequestID: "a", Attempt: 2, Input: jsontext.Value(`{"text":"one two three"}`)}, `{"words":3,"attempt":1}`},
				{"KnowsOneOfTwoSecrets", append(others[:1:1], secrets...), work.Call{RequestID: "b", Attempt: 1, Input: jsontext.Value(`{"text":""}`)}, `{"words":0,"attempt":1}`},
				{"RefusesOtherSignatures", others, work.Call{RequestID: "c", Attempt: 1, Input: jsontext.Value(`{"text":"x"}`)}, CodeFailed + ": The service that does the work answered 401."},
				{"RefusesUnsignedCalls", nil, work.Call{RequestID: "c", Attempt: 1, Input: jsontext.Value(`{"text":"x"}`)}, CodeFailed + ": The service that does the work answered 401."},
				{"RefusesOtherInput", secrets, work.Call{RequestID: "c", Attempt: 1, Input: jsontext.Value(`{"text":7}`)}, work.CodeRefused + ": No text. text must be a string."},
			} {
				w := New(Config{URL: url, Secrets: test.secrets})
				w.Timeout = time.Minute
				outcome, err := work.Run(t.Context(), w, test.call)
				if err != nil {
					t.Fatal(err)
				}
				got := strings.ReplaceAll(string(outcome.Result), " ", "")
				if outcome.Error != nil {
					got = outcome.Error.Error()
				}
				if got != test.want {
					t.Errorf("%s: got %s, want %s", test.name, got, test.want)
				}
			}
		})
	}
}

// TestExamplesThatFinishLater is TestExamples for an example that answers 202. Its first reports are
// answered as by a service that is just away.
func TestExamplesThatFinishLater(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("there is no python3, which make test installs where it may")
	}
	secret := webhook.NewSecret()
	url := start(t, secret, "python3", "examples/later.py", "0")
	var secrets Secrets
	if err := secrets.UnmarshalText([]byte(secret)); err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int64
	reports := make(chan string, 10)
	ringback := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch {
		case calls.Add(1) == 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.URL.Path == "/work/over":
			w.WriteHeader(http.StatusGone)
			reports <- "over"
		default:
			w.WriteHeader(http.StatusNoContent)
			reports <- r.URL.Path + " " + string(body)
		}
	})
	begin := func(secrets Secrets, token string) work.Outcome {
		w := New(Config{URL: url, Secrets: secrets})
		w.Timeout = time.Minute
		outcome, err := work.Run(t.Context(), w, work.Call{
			RequestID: "a", Attempt: 1, Input: jsontext.Value(`{"text":"one two"}`), FinishURL: ringback.URL + "/work/" + token,
		})
		if err != nil {
			t.Fatal(err)
		}
		return outcome
	}
	if got := begin(nil, "t"); got.Elsewhere || got.Error == nil {
		t.Errorf("unsigned: got %+v, want it refused", got)
	}
	if got := begin(secrets, "t"); !got.Elsewhere {
		t.Errorf("got %+v, want that it goes on", got)
	}
	for _, want := range []string{
		`/work/t {"progress": {"done": 0, "of": 2}}`, `/work/t {"progress": {"done": 1, "of": 2}}`, `/work/t {"result": {"words": 2}}`,
	} {
		if got := <-reports; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if begin(secrets, "over"); <-reports != "over" {
		t.Error("want a report on what is over")
	}
	begin(secrets, "next")
	if got := <-reports; got != `/work/next {"progress": {"done": 0, "of": 2}}` {
		t.Errorf("got %s, want that nothing follows on what is over", got)
	}
}

// start runs a service until the test ends, and returns the URL that it prints.
func start(t *testing.T, secret, program string, args ...string) (url string) {
	t.Helper()
	command := exec.Command(program, args...)
	command.Env = append(os.Environ(), "WORK_SECRET="+secret)
	command.Stderr = t.Output()
	out, err := command.StdoutPipe()
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
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%s printed no address: %v", program, err)
	}
	return strings.TrimSpace(line)
}
