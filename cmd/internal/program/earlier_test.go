package program

import (
	"context"
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
		if _, err := git(t.Context(), repository, args...); err != nil {
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

func wantNoWorktree(t *testing.T, repository, folder string) {
	t.Helper()
	list, err := git(t.Context(), repository, "worktree", "list", "--porcelain")
	if err != nil || strings.Count(list, "worktree ") != 1 {
		t.Errorf("got worktrees %q, %v, want the clone alone", list, err)
	}
	if _, err := os.Stat(filepath.Join(folder, "tree")); !os.IsNotExist(err) {
		t.Errorf("the folder of the worktree: got %v, want it gone", err)
	}
}

func TestBuildEarlier(t *testing.T) {
	t.Parallel()

	t.Run("BuildsTheCommitAndLeavesNoWorktree", func(t *testing.T) {
		t.Parallel()
		repository, folder := newClone(t, earlierServer, ourServer), t.TempDir()
		path, err := BuildEarlier(t.Context(), repository, "HEAD~1", folder)
		if err != nil {
			t.Fatal(err)
		}
		said, err := exec.Command(path).CombinedOutput()
		if err != nil || string(said) != "earlier\n" {
			t.Errorf("the program: got %q, %v, want the earlier one", said, err)
		}
		wantNoWorktree(t, repository, folder)
	})

	t.Run("LeavesNoneWhereTheBuildFails", func(t *testing.T) {
		t.Parallel()
		repository, folder := newClone(t, brokenServer), t.TempDir()
		if _, err := BuildEarlier(t.Context(), repository, "HEAD", folder); err == nil || !strings.Contains(err.Error(), "main.go:3") {
			t.Errorf("got %v, want the compiler's error", err)
		}
		wantNoWorktree(t, repository, folder)
	})

	t.Run("LeavesNoneWhenInterrupted", func(t *testing.T) {
		t.Parallel()
		repository, folder := newClone(t, earlierServer), t.TempDir()
		ctx, interrupt := context.WithCancel(t.Context())
		err := inWorktree(ctx, repository, "HEAD", filepath.Join(folder, "tree"), func(tree string) error {
			if _, err := os.Stat(filepath.Join(tree, "go.mod")); err != nil {
				t.Error(err)
			}
			interrupt()
			return ctx.Err()
		})
		if err == nil {
			t.Error("got no error")
		}
		wantNoWorktree(t, repository, folder)
	})
}
