package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"ringback/db/dbtest"
	"ringback/jobs/clients"
)

// typed runs a command line and returns its output and its error.
func typed(ctx context.Context, environ map[string]string, args ...string) (stdout, stderr string, err error) {
	var out, errOut bytes.Buffer
	err = run(ctx, args, environ, &out, &errOut, works)
	return out.String(), errOut.String(), err
}

const anID = "01a20bd7-2978-722f-bf9b-7fdc9ae0399b"

func TestWrongUsageIsToldBeforeAnythingBegins(t *testing.T) {
	t.Parallel()
	ended, end := context.WithCancel(t.Context()) // a command that begins all the same ends at once
	end()
	for args, want := range map[string]string{
		"--colour":                "unknown flag: --colour",
		"--role=king":             "must be all, api or worker",
		"--role=king client list": "must be all, api or worker",
		"serve x":                 "unknown",
		"king":                    `unknown command "king"`,
		"reqests":                 "do you mean requests?",
		"migrate x":               "unknown",
		"healthcheck x":           "unknown",
		"version x":               "unknown",
		"client":                  "client must be followed by one of add, disable, list, reseal, rotate, set",
		"client rename a":         `not "rename"`,
		"client add":              "the name of a client is missing",
		"client add a b":          `unknown argument "b"`,
		"client list a":           "unknown",
		"client reseal a":         "unknown",
		"client set a":            "at least one limit",
		"client set":              "the name of a client is missing",
		"client show":             "the name of a client is missing",
		"client set a --speed 5":  "unknown flag: --speed",
		"client set a --rate 0":   "must be from 1 to 1000000, or the word default",
		"client add a --rate 5":   "unknown flag: --rate",
		"client set a --callbacks a.example.com,https://b.example.com": "must be a host, host:port or *.suffix",
		"client set a --unfinished 10000001":                           "must be from 1 to 10000000",
		"client set a --dead-letters 1KiB":                             "must be from 1 to 10000000",
		"client set a --storage 0GiB":                                  "must be at least 1",
		"receiver":                                                     "receiver must be followed by one of allow, deny, forget, list",
		"receiver block a.example.com":                                 `not "block"`,
		"receiver deny":                                                "takes one host, not 0",
		"receiver deny a.example.com b.com":                            "takes one host, not 2",
		"client set a --callbacks hooks.a.test":                        `not "hooks.a.test": The host name in the callback URL must not end in test, which is reserved: no public host has such a name (RFC 2606, RFC 6761).`,
		"receiver deny https://a.example.com":                          "a receiver must be a host",
		"receiver deny hooks.a.example":                                `not "hooks.a.example": The host name in the callback URL must not end in example, which is reserved`,
		"receiver deny a.example.com --rate 5":                         "unknown flag: --rate",
		"receiver allow a.com --rate 0":                                "must be from 0.01 to 1000000 callbacks a second",
		"receiver allow a.com --rate -1":                               "must be from 0.01 to 1000000 callbacks a second",
		"receiver allow a.com --rate NaN":                              "must be from 0.01 to 1000000 callbacks a second",
		"receiver allow a.com --concurrency 0":                         "must be from 1 to 10000 callbacks at a time",
		"receiver deny [::1":                                           "a receiver must be a host",
		"receiver deny ::1]":                                           "a receiver must be a host",
		"receiver deny [127.0.0.1]":                                    "a receiver must be a host",
		"receiver deny hoo\u212as.example.com":                         "a receiver must be a host",
		"help king":                                                    `there is no command "king" to explain`,
		"help client king":                                             `there is no command "client king" to explain`,
		"completion":                                                   "completion must be followed by one of bash, fish, powershell, zsh",
		"completion king":                                              `not "king"`,
		"receiver list x":                                              "unknown",
		"requests":                                                     "requests must be followed by one of cancel, discard, list, redeliver, show, tail",
		"requests list --status done":                                  "must be accepted, succeeded, failed, expired or cancelled",
		"requests list --limit 0":                                      "must be a whole number from 1 to 10000",
		"requests list --limit 5x":                                     "must be a whole number from 1 to 10000",
		"requests list --from yesterday":                               "must be a time such as 2026-11-24T00:00:00Z, or how long ago",
		"requests list --cursor x":                                     "must be the cursor that an earlier command ended with",
		"requests list x":                                              "unknown",
		"requests list --url localhost:8080":                           "must be a URL such as",
		"requests show":                                                "the id of a request is missing",
		"requests show x":                                              `"x" is not the id of a request`,
		"requests show " + anID + " " + anID:                           "takes one id",
		"requests tail --interval 1ms":                                 "must be a duration from 200ms to 1h",
		"requests tail x":                                              "unknown",
		"requests cancel":                                              "the id of a request is missing",
		"requests redeliver":                                           "takes ids of requests, or one of --callback-host, --from, --to and --all",
		"requests redeliver --all=false":                               "takes ids of requests, or one of",
		"requests redeliver --dry-run":                                 "takes ids of requests, or one of",
		"requests redeliver --all --rate 101":                          "must be a whole number from 1 to 100",
		"requests redeliver --callback-host=":                          "must not be empty",
		"requests redeliver --from=":                                   "must be a time such as",
		"requests redeliver --to 0001-01-01T00:00:00Z":                 "must be a time such as",
		"requests discard --callback-host=":                            "must not be empty",
		"requests discard --to 0001-01-01T00:00:00Z":                   "must be a time such as",
		"requests list --work=":                                        "must not be empty",
		"requests list --key=":                                         "must not be empty",
		"requests discard --all " + anID:                               "--all is for requests that are picked by a filter",
		"requests discard --callback dead":                             "unknown flag: --callback",
		"listen x":                                                     "unknown",
		"listen --addr=":                                               "must not be empty",
		"listen --secret=":                                             "must not be empty",
		"listen --forward-to localhost:3000":                           "must be a URL such as",
		"listen --secret nonsense":                                     "--secret must be whsec_ and the base64",
		"listen --addr 127.0.0.1":                                      `"--addr" flag: must be host:port`,
		"listen --addr http://127.0.0.1:9999":                          `"--addr" flag: must be host:port`,
		"listen --addr *:9999":                                         `"--addr" flag: must be host:port`,
		"listen --addr 127.0.0.1:99999":                                `"--addr" flag: must be host:port`,
		"listen --forward-to http://127.0.0.1:99999/":                  "must be a URL such as",
		"listen --forward-to http://127.0.0.1/#f":                      "must be a URL such as",
		"requests list --url http://127.0.0.1:99999":                   "must be a URL such as",
		"requests list --json=perhaps":                                 `"--json" flag: must be true or false`,
		"requests redeliver --all --dry-run=no":                        `"--dry-run" flag: must be true or false`,
		"serve --dev=on":                                               `"--dev" flag: must be true or false`,
		"client add acme/x":                                            "a client's name must be",
		"client show *":                                                "a client's name must be",
		"receiver deny [fe80::1%eth0]":                                 "a receiver must be a host",
		"receiver deny [fe80::1%eth0]:443":                             "a receiver must be a host",
		"works x":                                                      "unknown",
	} {
		// An address where nobody answers, and settings that can't be read: neither is looked at.
		environ := map[string]string{"RINGBACK_URL": "http://127.0.0.1:1", "WORKERS": "none"}
		stdout, stderr, err := typed(ended, environ, strings.Fields(args)...)
		if !errors.Is(err, errUsage) || exitStatus(err) != 2 || stdout != "" || !strings.Contains(stderr, want) || !strings.Contains(stderr, "--help") {
			t.Errorf("ringback %s: got %v, %q and %q, want wrong usage with %q", args, err, stdout, stderr, want)
		}
	}
}

func TestExitStatus(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]int{"version": 0, "--help": 0, "client set --help": 0, "healthcheck": 1, "requests list": 1, "king": 2} {
		command := exec.Command(os.Args[0], strings.Fields(args)...)
		command.Env = append(os.Environ(), asProgram+"=1", "HTTP_ADDR=127.0.0.1:1", "RINGBACK_URL=http://127.0.0.1:1")
		var stdout, stderr bytes.Buffer
		command.Stdout, command.Stderr = &stdout, &stderr
		_ = command.Run() // the status tells
		if got := command.ProcessState.ExitCode(); got != want || (want == 0) != (stderr.Len() == 0) || (want == 0) != (stdout.Len() > 0) {
			t.Errorf("ringback %s: got status %d, %q and %q, want %d", args, got, stdout.String(), stderr.String(), want)
		}
	}
}

func TestOutputThatNobodyReadsIsNoMatter(t *testing.T) {
	t.Parallel()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	reader.Close()
	defer writer.Close()
	command := exec.Command(os.Args[0], "version", "--json")
	command.Env = append(os.Environ(), asProgram+"=1")
	var stderr bytes.Buffer
	command.Stdout, command.Stderr = writer, &stderr
	_ = command.Run() // the status tells
	if got := command.ProcessState.ExitCode(); got != 1 || stderr.Len() > 0 {
		t.Errorf("got status %d and %q, want 1 and silence", got, stderr.String())
	}
}

func TestEveryCommandExplainsItself(t *testing.T) {
	t.Parallel()
	var check func(command *cobra.Command)
	check = func(command *cobra.Command) {
		if name := command.Name(); name == "help" || name == "completion" || command.Hidden {
			return
		}
		args := append(strings.Fields(command.CommandPath())[1:], "--help")
		help, _, err := typed(t.Context(), nil, args...)
		switch {
		case err != nil:
			t.Errorf("%s --help: got %v", command.CommandPath(), err)
		case command.Short == "" || strings.HasSuffix(command.Short, "."):
			t.Errorf("%s: got %q as the line that says what it does", command.CommandPath(), command.Short)
		case !strings.Contains(help, "--json"):
			t.Errorf("%s --help: got %q, want it to name --json", command.CommandPath(), help)
		case strings.Contains(command.Use, " ") && !command.HasSubCommands() && !strings.Contains(help, "Examples:"):
			t.Errorf("%s --help: got %q, want an example", command.CommandPath(), help)
		}
		for _, child := range command.Commands() {
			check(child)
		}
	}
	check((&commandLine{set: works}).root())
}

func TestHelpHasTheSettings(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"--help", "-h", "help", "serve --help"} {
		help, _, err := typed(t.Context(), map[string]string{"RINGBACK_API_KEY": "rbk_secret"}, strings.Fields(args)...)
		if err != nil || !strings.Contains(help, settingsTable()) {
			t.Errorf("ringback %s: got %q, %v, want every setting", args, help, err)
		}
	}
	help, _, err := typed(t.Context(), map[string]string{"RINGBACK_API_KEY": "rbk_secret"}, "requests", "list", "--help")
	if err != nil || strings.Contains(help, "rbk_secret") {
		t.Errorf("got %q, %v, want no key in it", help, err)
	}
}

var commandsOfHelp = regexp.MustCompile(`(?s)To serve:\n.*?\n\nFlags:`)

func TestReadmeHasTheCommands(t *testing.T) {
	t.Parallel()
	help, _, err := typed(t.Context(), nil, "--help")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.TrimSuffix(commandsOfHelp.FindString(help), "\n\nFlags:")
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	if want == "" || !strings.Contains(string(readme), "```\n"+want+"\n```") {
		t.Errorf("README.md doesn't hold the commands of ringback --help:\n%s", want)
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish"} {
		script, _, err := typed(t.Context(), nil, "completion", shell)
		if err != nil || !strings.Contains(script, "ringback __complete") && !strings.Contains(script, "__complete") {
			t.Fatalf("%s: got %q, %v, want a script", shell, script, err)
		}
		if _, err := exec.LookPath(shell); err != nil {
			continue // fish and zsh are seldom there, and their scripts are the library's
		}
		check := exec.Command(shell, "-n")
		check.Stdin = strings.NewReader(script)
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("%s -n: %v\n%s", shell, err, out)
		}
	}
	for args, want := range map[string]string{
		"":                                  "requests\tList, follow",
		"--role\n":                          "worker\n",
		"requests\nlist\n--status\n":        "succeeded\n",
		"requests\nredeliver\n--callback\n": "delivered\n",
		"client\n":                          "rotate\tPrint",
	} {
		got, _, err := typed(t.Context(), nil, append([]string{"__complete"}, strings.Split(args, "\n")...)...)
		if err != nil || !strings.Contains(got, want) {
			t.Errorf("after %q: got %q, %v, want %q", args, got, err, want)
		}
	}
}

func TestVersionCommand(t *testing.T) {
	t.Parallel()
	plain, _, err := typed(t.Context(), nil, "version")
	if err != nil || !strings.HasPrefix(plain, "ringback "+version()+" (go") {
		t.Errorf("got %q, %v", plain, err)
	}
	var build struct{ Version, Go, Platform string }
	if out, _, err := typed(t.Context(), nil, "version", "--json"); err != nil || json.Unmarshal([]byte(out), &build) != nil || build.Version != version() {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestHealthcheckAndServe(t *testing.T) {
	t.Parallel()
	p := startRun(t, []string{"serve", "--dev", "--role", "api", "--json"}, environment(dbtest.New(t), nil), works)
	if log := p.log.String(); !strings.Contains(log, `"role":"api"`) {
		t.Errorf("got %q, want an API in JSON", log)
	}
	environ := map[string]string{"HTTP_ADDR": strings.TrimPrefix(p.url, "http://")}
	until(t, func() bool {
		out, _, err := typed(t.Context(), environ, "healthcheck", "--json")
		return err == nil && out == "{\"healthy\":true}\n"
	}, func() string { return "the server to be healthy" })
	if out, _, err := typed(t.Context(), environ, "healthcheck"); err != nil || out != "" {
		t.Errorf("got %q, %v, want silence", out, err)
	}
	if _, _, err := typed(t.Context(), map[string]string{"HTTP_ADDR": "127.0.0.1:1"}, "healthcheck"); err == nil || exitStatus(err) != 1 {
		t.Errorf("where nobody answers: got %v", err)
	}
}

func TestCommandsOnTheDatabasePrintJSON(t *testing.T) {
	t.Parallel()
	environ := environment(dbtest.NewEmpty(t), map[string]string{"SECRETS_KEY": sealingKey})
	answer := func(args ...string) map[string]any {
		t.Helper()
		out, _, err := typed(t.Context(), environ, append([]string{"--json"}, args...)...)
		var fields map[string]any
		if err == nil {
			err = json.Unmarshal([]byte(out), &fields)
		}
		if err != nil {
			t.Fatalf("ringback %q: got %q, %v", args, out, err)
		}
		return fields
	}
	if _, _, err := typed(t.Context(), environ, "client", "add", "acme"); err == nil || !strings.Contains(err.Error(), "ringback migrate") {
		t.Errorf("without a schema: got %v, want the remedy", err)
	}
	if got := answer("migrate"); got["migrated"] != true {
		t.Errorf("migrate: got %v", got)
	}
	for _, action := range []string{"add", "rotate"} {
		got := answer("client", action, "acme")
		if got["client"] != "acme" || !strings.HasPrefix(got["key"].(string), "rbk_") || !strings.HasPrefix(got["secret"].(string), "whsec_") || (got["overlap_until"] != nil) != (action == "rotate") {
			t.Errorf("%s: got %v", action, got)
		}
	}
	if got := answer("client", "set", "acme", "--rate", "7"); got["name"] != "acme" || got["rate"] != 7. {
		t.Errorf("set: got %v", got)
	}
	if got := answer("client", "reseal"); got["resealed"] != 1. {
		t.Errorf("reseal: got %v", got)
	}
	if got := answer("client", "disable", "acme"); got["client"] != "acme" || got["disabled"] != true {
		t.Errorf("disable: got %v", got)
	}
	if got := answer("receiver", "allow", "b.example.com:8443", "--rate", "5"); got["receiver"] != "b.example.com:8443" || got["word"] != "allowed" || got["allowed_rate"] != 5. {
		t.Errorf("allow: got %v", got)
	}
	if got := answer("receiver", "deny", "a.example.com"); got["word"] != "denied" {
		t.Errorf("deny: got %v", got)
	}
	if got := answer("receiver", "forget", "a.example.com"); got["receiver"] != "a.example.com" || got["word"] != nil {
		t.Errorf("forget: got %v", got)
	}
	for name, want := range map[string]string{"b.example.com:8443": "forgotten: it was allowed", "unknown.example.com": "nothing was stored of it"} {
		if stdout, _, err := typed(t.Context(), environ, "receiver", "forget", name); err != nil || !strings.HasPrefix(stdout, name+": "+want+".") {
			t.Errorf("forget %s: got %q, %v, want %q", name, stdout, err, want)
		}
	}
}

func TestAddingAClientNeedsTheSecretsKey(t *testing.T) {
	t.Parallel()
	environ := environment(dbtest.New(t), nil)
	for _, args := range []string{"client add acme", "client rotate acme", "client reseal", "serve"} {
		if _, _, err := typed(t.Context(), environ, strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), "SECRETS_KEY must be set") {
			t.Errorf("ringback %s: got %v, want the missing setting", args, err)
		}
	}
	if _, _, err := typed(t.Context(), environ, "--dev", "client", "add", "acme"); err != nil {
		t.Errorf("in local mode: got %v", err)
	}
	if out, _, err := typed(t.Context(), environ, "client", "list"); err != nil || !strings.Contains(out, "plain") {
		t.Errorf("list: got %q, %v", out, err)
	}
}

// background runs a command line until stop is called.
type background struct {
	lines chan string // of its output
	notes chan string // of the log lines beside it
	stop  func() error
}

func start(t *testing.T, environ map[string]string, args ...string) *background {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	b := &background{lines: make(chan string, 1000), notes: make(chan string, 1000)}
	ended := make(chan error, 1)
	out, errOut := lineWriter(b.lines), lineWriter(b.notes)
	go func() {
		ended <- run(ctx, args, environ, out, errOut, works)
		close(b.lines)
		close(b.notes)
	}()
	b.stop = func() error { cancel(); return <-ended }
	t.Cleanup(cancel)
	return b
}

// lineWriter is an output whose lines go to a channel.
type lineWriter chan string

func (l lineWriter) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		l <- strings.TrimSuffix(line, "\n")
	}
	return len(p), nil
}

var _ io.Writer = lineWriter(nil)

// callerOf is the environment of a caller: no database, and settings that no server
// could start with.
func callerOf(p *program, key string) map[string]string {
	return map[string]string{"RINGBACK_URL": p.url, "RINGBACK_API_KEY": key, "DATABASE_URL": "nonsense", "WORKERS": "none", "RINGBACK_SECRET": clients.LocalSecret}
}
