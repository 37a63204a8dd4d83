package upstream

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
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
