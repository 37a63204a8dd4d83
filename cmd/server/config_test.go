package main

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"strings"
	"testing"

	"ringback/work"
)

func TestReadConfig(t *testing.T) {
	t.Parallel()
	const key, other = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODk="
	tests := []struct {
		name    string
		environ []string
		options options
		want    []string // what the error holds; empty for none
	}{
		{"Defaults", nil, options{}, nil},
		{"LocalMode", nil, options{dev: true}, nil},
		{"PublicAddress", []string{"HTTP_ADDR=0.0.0.0:8080"}, options{}, nil},
		{"SecretsKeys", []string{"SECRETS_KEY=" + key + ", " + other}, options{}, nil},
		{"NoAdminPages", []string{"ADMIN_ADDR=none"}, options{}, nil},
		{"PublicAddressInLocalMode", []string{"HTTP_ADDR=0.0.0.0:8080"}, options{dev: true}, []string{"loopback address with --dev"}},
		{"PublicAdminAddress", []string{"ADMIN_ADDR=0.0.0.0:8081"}, options{}, []string{"ADMIN_ADDR must be a loopback"}},
		{"ShortSecretsKey", []string{"SECRETS_KEY=" + key + ",c2hvcnQ="}, options{}, []string{"SECRETS_KEY must be 32 bytes in base64"}},
		{"SeveralMistakes", []string{"WORKERS=0", "SYNC_LIMIT=0", "ASYNC_LIMIT=-1", "WORK_TIMEOUT=0s", "JOB_RETENTION=1s", "STOP_TIMEOUT=0s", "HTTP_ADDR=x"}, options{},
			[]string{"WORKERS", "SYNC_LIMIT", "ASYNC_LIMIT", "WORK_TIMEOUT", "JOB_RETENTION", "STOP_TIMEOUT", "HTTP_ADDR"}},
		{"SecretsKeyThatIsNotBase64", []string{"SECRETS_KEY=" + key + "!"}, options{}, []string{"SECRETS_KEY must be 32 bytes in base64"}},
		{"PortOutOfRange", []string{"HTTP_ADDR=127.0.0.1:99999"}, options{}, []string{"HTTP_ADDR must be host:port"}},
		{"DatabaseURL", []string{"DATABASE_URL=postgres://u:secret@[", "WORKERS=0"}, options{}, []string{"DATABASE_URL must be", "WORKERS must be"}},
		{"SomeThatParseAndSomeThatDoNot", []string{"WORKERS=-1", "WORK_TIMEOUT=5", "LOG_LEVEL=loud"}, options{}, []string{"WORKERS", "WORK_TIMEOUT", "LOG_LEVEL"}},
		{"SeveralThatDoNotParse", []string{"WORKERS=many", "WORK_TIMEOUT=soon"}, options{}, []string{"WORKERS must be a whole number", "WORK_TIMEOUT must be a duration"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := readConfig(parsedEnvironment(test.environ...), test.options)
			if (err == nil) != (len(test.want) == 0) {
				t.Fatalf("readConfig(%q): got %v, want an error with %q", test.environ, err, test.want)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("readConfig(%q): got %v, want an error with %q", test.environ, err, want)
				}
			}
			if err != nil && (strings.Contains(err.Error(), key) || strings.Contains(err.Error(), "secret")) {
				t.Errorf("the error %q tells a secret", err)
			}
		})
	}
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		args    []string
		want    error
		wantOut string
	}{
		{"Help", []string{"--help"}, flag.ErrHelp, "`DATABASE_URL`"},
		{"UnknownFlag", []string{"--colour"}, errUsage, "colour"},
		{"UnknownRole", []string{"--role=king"}, errUsage, "king"},
		{"UnknownCommand", []string{"serve"}, errUsage, "serve"},
		{"UnknownClientCommand", []string{"client", "rename", "a"}, errUsage, "rename"},
		{"ClientCommandMissing", []string{"client"}, errUsage, "add, list"},
		{"ClientNameMissing", []string{"client", "add"}, errUsage, "takes 1 names, not 0"},
		{"ClientNameTooMany", []string{"client", "list", "a"}, errUsage, "takes 0 names, not 1"},
	}
	for _, test := range tests {
		var out bytes.Buffer
		err := run(t.Context(), test.args, nil, &out, &out, work.Do)
		if !errors.Is(err, test.want) || !strings.Contains(out.String(), test.wantOut) {
			t.Errorf("%s: run(%q): got %v and %q, want %v and %q", test.name, test.args, err, out.String(), test.want, test.wantOut)
		}
	}
	err := run(t.Context(), []string{"healthcheck"}, map[string]string{"HTTP_ADDR": "127.0.0.1:1"}, io.Discard, io.Discard, work.Do)
	if err == nil {
		t.Error("healthcheck of a server that isn't there: got no error")
	}
}

func TestReadmeHasTheSettings(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), settingsTable()) {
		t.Errorf("README.md doesn't hold this table:\n%s", settingsTable())
	}
}
