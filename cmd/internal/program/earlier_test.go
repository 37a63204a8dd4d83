package program

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// newClone returns a repository whose commits are the given server programs.
func newClone(t *testing.T, programs ...string) (repository string) {
	t.Helper()
	repository = t.TempDir()
	folder := filepath.Join(repository, "cmd", "server")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) {
		t.Helper()
		if _, err := Output(exec.CommandContext(t.Context(), "git", append([]string{"-C", repository}, args...)...)); err != nil {
			t.Fatal(err)
		}
	}
	run("init", "--quiet")
	for _, program := range programs {
		for path, content := range map[string]string{"go.mod": "module earlier\n", "cmd/server/main.go": program} {
			if err := os.WriteFile(filepath.Join(repository, path), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		run("add", "--all")
		run("-c", "user.name=Test", "-c", "user.email=test@example.org", "commit", "--quiet", "--message", "A server")
	}
	return repository
}

const (
	earlierServer = "package main\n\nfunc main() { println(\"earlier\") }\n"
	ourServer     = "package main\n\nfunc main() { println(\"ours\") }\n"
	brokenServer  = "package main\n\nfunc main() { no }\n"
)

func TestBuildEarlier(t *testing.T) {
	t.Parallel()
	repository := newClone(t, earlierServer, brokenServer, ourServer)
	path, err := BuildEarlier(t.Context(), repository, "HEAD~2", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	said, err := exec.Command(path).CombinedOutput()
	if err != nil || string(said) != "earlier\n" {
		t.Errorf("the program: got %q, %v, want the earlier one", said, err)
	}
	if _, err := BuildEarlier(t.Context(), repository, "HEAD~1", t.TempDir()); err == nil || !strings.Contains(err.Error(), "main.go:3") {
		t.Errorf("a server that can't be built: got %v, want the compiler's error", err)
	}
	if path, err := BuildEarlier(t.Context(), repository, "HEAD~3", t.TempDir()); !errors.Is(err, ErrNoCommit) {
		t.Errorf("a commit that isn't there: got %q, %v, want %v", path, err, ErrNoCommit)
	}
}
