package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/receivers"
	"ringback/jobs/clients"
)

func TestRunRefuses(t *testing.T) {
	t.Parallel()

	t.Run("all mistakes together", func(t *testing.T) {
		t.Parallel()
		output := runStorm(t, "-rate", "0", "-drain", "soon", "-nonsense", "-connections=0", "extra",
			"-work", "text=1000000,cores=4", "-timeout", "-1s", "-duration", "0s", "-api-key", "a\nb")
		output.want(t, exitUsage, "flag -rate:", "flag -drain:", "-nonsense", "flag -connections:",
			`unexpected argument "extra"`, "text: want", "cores: want", "flag -timeout:", "flag -duration:", "API key")
		if got, want := strings.Count(output.stderr, "\n"), 11; got != want {
			t.Errorf("lines on stderr: got %d, want %d", got, want)
		}
	})

	t.Run("no request at all, or too many", func(t *testing.T) {
		t.Parallel()
		runStorm(t, "-rate", "1", "-duration", "100ms").want(t, exitUsage, "makes 0 requests")
		runStorm(t, "-rate", "20000", "-duration", "1h").want(t, exitUsage, "makes 72000000 requests")
	})

	t.Run("what can't mean what it says", func(t *testing.T) {
		t.Parallel()
		runStorm(t, "-mix", "sync=1,sync=2").want(t, exitUsage, "sync stands twice")
		runStorm(t, "-receivers", "ok=1,slow=1,ok=2").want(t, exitUsage, "ok stands twice")
		runStorm(t, "-work", "text=1,text=2").want(t, exitUsage, "text stands twice")
		runStorm(t, "-mix", "sync=1,async=0", "-ordering-keys", "5").want(t, exitUsage, "-ordering-keys: -mix sends no async requests")
		runStorm(t, "-rate", "10", "-duration", "1s", "-ordering-keys", "5").want(t, exitUsage,
			"-ordering-keys 5: the run makes 5 async requests, no two of which would have the same key")
		runStorm(t, "-mix", "sync=1,async=0", "-receivers", "slow=1").want(t, exitUsage, "-receivers: -mix sends no async requests")
		for _, name := range []string{"-secret", "-api-key", "-html"} {
			runStorm(t, name, "").want(t, exitUsage, "flag "+name+": want a text that is not empty")
		}
		runStormPlainly(t, "-json", "").want(t, exitUsage, "flag -json: want a text that is not empty")
		runStorm(t, "-seed", "1e3").want(t, exitUsage, "flag -seed: want a whole number from 0 to")
		runStorm(t, "-html", "-").want(t, exitUsage, "flag -html: want a file")
		runStorm(t, "-target", "http://127.0.0.1:99999").want(t, exitUsage, "flag -target: want a port from 1 to 65535")
	})

	t.Run("target that is not on loopback", func(t *testing.T) {
		t.Parallel()
		for _, target := range []string{
			"http://192.0.2.1:8080", "http://example.com", "http://127.0.0.1.example.com", "http://0.0.0.0:8080", "http://localho\u017ft:8080",
		} {
			runStorm(t, "-target", target).want(t, exitUsage, "not a loopback address")
		}
		for _, target := range []string{
			"ftp://127.0.0.1", "127.0.0.1:8080", "http://127.0.0.1/x", "http://me@127.0.0.1", "http://127.0.0.1?x", "http://",
		} {
			runStorm(t, "-target", target).want(t, exitUsage, "want http://host:port and nothing more")
		}
		for _, target := range []string{"http://localhost:1/", "http://[::1]:1", "http://127.0.0.2", "http://LOCALHOST:1", "http://localhost.:1"} {
			if _, err := parseTarget(target); err != nil || !load.IsLoopback(target) {
				t.Errorf("%s: got %v, on loopback: %v, want no error, and true", target, err, load.IsLoopback(target))
			}
		}
	})

	t.Run("target where nobody listens", func(t *testing.T) {
		t.Parallel()
		server := httptest.NewServer(http.NotFoundHandler())
		server.Close()
		runStorm(t, "-target", server.URL).want(t, exitUsage,
			"nothing answers at "+server.URL+": start the server with `make run` first, or name another with -target\n")
	})

	t.Run("target that is something else", func(t *testing.T) {
		t.Parallel()
		server := httptest.NewServer(http.NotFoundHandler())
		defer server.Close()
		runStorm(t, "-target", server.URL).want(t, exitUsage, "answers GET /healthz with status 404")
	})

	t.Run("target that wants an API key", func(t *testing.T) {
		t.Parallel()
		mux := http.NewServeMux()
		mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
		mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				t.Errorf("storm sent %s, want no request", r.URL.Path)
			}
			w.WriteHeader(http.StatusUnauthorized)
		})
		server := httptest.NewServer(mux)
		defer server.Close()
		runStorm(t, "-target", server.URL, "-rate", "200", "-duration", "100ms").want(t, exitUsage,
			server.URL+" takes requests with a valid API key only (401): -api-key or RINGBACK_API_KEY gives the key\n")
	})

	t.Run("nothing when asked for help", func(t *testing.T) {
		t.Parallel()
		runStorm(t, "-h").want(t, exitOK, "-rate requests", "(default 200)", "$RINGBACK_API_KEY")
	})
}

func TestConfigTakesTheKeyFromTheEnvironment(t *testing.T) {
	t.Parallel()
	getenv := func(name string) string { return map[string]string{"RINGBACK_API_KEY": "from env"}[name] }
	for want, args := range map[string][]string{"from env": nil, "from flag": {"-api-key", "from flag"}} {
		config, err := parseConfig(args, getenv)
		if err != nil || config.APIKey != want {
			t.Errorf("parseConfig(%q): got key %q and error %v, want %q", args, config.APIKey, err, want)
		}
	}
}

func TestLocalSecretIsThatOfTheServer(t *testing.T) {
	t.Parallel()
	if receivers.LocalSecret != clients.LocalSecret {
		t.Errorf("got %q, want %q", receivers.LocalSecret, clients.LocalSecret)
	}
}
