package dbtest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Characters that a shell would interpret stay part of a checkout's path.
func TestPostgresInOddFolders(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a$HOME", "a`touch here`b", `a"b`, `a\b`, "a 'b'"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := filepath.Join(openFolder(t), name)
			copyScripts(t, root)
			port := freePort(t)
			run := func(args ...string) string {
				command := exec.Command("bash", append([]string{"scripts/postgres.sh"}, args...)...)
				command.Dir = root
				command.Env = append(withoutDatabase(), "POSTGRES=", "POSTGRES_PORT="+port, "POSTGRES_FOLDER=.postgres-test")
				var stderr bytes.Buffer
				command.Stderr = &stderr
				out, err := command.Output()
				if err != nil {
					t.Errorf("%s: %v\n%s", args, err, stderr.String())
				}
				return strings.TrimSpace(string(out))
			}
			t.Cleanup(func() { run("clean") })
			run("up")
			if got := run("psql", "-X", "-qAt", "-c", "SHOW idle_in_transaction_session_timeout"); got != "1min" {
				t.Errorf("a prompt's idle transactions: got %q, want them ended after 1min", got)
			}
			run("down")
			entries, err := os.ReadDir(root)
			if err != nil {
				t.Fatal(err)
			}
			for _, entry := range entries {
				if entry.Name() != "scripts" && entry.Name() != ".postgres-test" {
					t.Errorf("%s is there, want it not", entry.Name())
				}
			}
		})
	}
}

func TestPostgresAtNoPort(t *testing.T) {
	t.Parallel()
	root := checkout(t)
	for _, port := range []string{"0", "65536", "99999999999999999999", "05433", "5433x", " 5433", "-1"} {
		command := exec.Command("bash", "scripts/postgres.sh", "url")
		command.Dir = root
		command.Env = append(withoutDatabase(), "POSTGRES=", "POSTGRES_PORT="+port)
		out, err := command.CombinedOutput()
		if want := "POSTGRES_PORT must be a port from 1 to 65535, not " + port; err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%q: got %v and %s, want %s", port, err, out, want)
		}
	}
}

// Go tells in words of its own that it has no place for its caches.
func TestMakeWithoutAHome(t *testing.T) {
	t.Parallel()
	root := checkout(t)
	command := exec.Command("make", "-C", root, "--no-print-directory", "--eval", "caches: ; @go env GOCACHE GOMODCACHE", "caches")
	command.Env = []string{"PATH=" + os.Getenv("PATH")}
	out, err := command.CombinedOutput()
	for _, cache := range strings.Fields(string(out)) {
		if !strings.HasPrefix(cache, filepath.Join(root, "bin", ".home")+"/") {
			t.Errorf("got the caches %s, want both in bin", out)
		}
	}
	if err != nil || len(strings.Fields(string(out))) != 2 {
		t.Errorf("got %q, %v, want two caches", out, err)
	}
}

// openFolder is a temporary folder that the account of Postgres can enter.
func openFolder(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "ringback-odd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	return folder
}

func copyScripts(t *testing.T, root string) {
	t.Helper()
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(root, "scripts"), os.DirFS(filepath.Join(checkout(t), "scripts"))); err != nil {
		t.Fatal(err)
	}
}
