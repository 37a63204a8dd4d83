package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"ringback/api/contract"
	"ringback/db/dbtest"
	"ringback/work/fingerprint"
)

// Each client runs its own tests against the real program. A proxy compares its calls and
// answers with the document.
func TestClientsOfTheDocument(t *testing.T) {
	t.Parallel()
	clients, err := filepath.Abs("../../api/clients")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("Python", func(t *testing.T) {
		t.Parallel()
		testClient(t, filepath.Join(clients, "python"), exec.Command("python3", "-B", "-m", "unittest", "test_ringback"))
	})
	// Compiled, which checks its types: a Node.js before 22.18 doesn't run them.
	t.Run("TypeScript", func(t *testing.T) {
		t.Parallel()
		source, out := filepath.Join(clients, "typescript"), t.TempDir()
		compiler := filepath.Join(clients, "..", "node_modules", ".bin", "tsc")
		if _, err := os.Stat(compiler); err != nil {
			t.Skip("there is no tsc, which make node installs where it can, or make test says so")
		}
		compile := exec.Command(compiler, "--project", source, "--outDir", out)
		if told, err := compile.CombinedOutput(); err != nil {
			t.Fatalf("tsc: %v\n%s", err, told)
		}
		manifest, err := os.ReadFile(filepath.Join(source, "package.json"))
		if err == nil {
			err = os.WriteFile(filepath.Join(out, "package.json"), manifest, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		testClient(t, out, exec.Command("node", "--test", "ringback.test.js"))
	})
}

func testClient(t *testing.T, folder string, tests *exec.Cmd) {
	t.Helper()
	p := startHere(t, dbtest.New(t), nil, fingerprint.Do)
	tests.Dir, tests.Env = folder, append(os.Environ(), "RINGBACK_URL="+through(t, p))
	if told, err := tests.CombinedOutput(); err != nil {
		t.Errorf("%v: %v\n%s", tests.Args, err, told)
	}
}

// through is the address of a proxy that compares calls and answers with the document.
func through(t *testing.T, p *program) string {
	t.Helper()
	target, err := url.Parse(p.url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Transport: contract.Transport{RoundTripper: http.DefaultTransport},
		Rewrite: func(call *httputil.ProxyRequest) {
			call.SetURL(target)
			if call.Out.Body == nil {
				return
			}
			body, err := io.ReadAll(call.Out.Body)
			if err != nil {
				t.Errorf("reading a call: %v", err)
			}
			call.Out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
			call.Out.Body, _ = call.Out.GetBody()
		},
	})
	t.Cleanup(proxy.Close)
	return proxy.URL
}
