package program

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// FindCommit returns the whole name of a commit, or an error where the clone doesn't
// hold it.
func FindCommit(ctx context.Context, repository, name string) (commit string, err error) {
	return git(ctx, repository, "rev-parse", "--verify", "--quiet", name+"^{commit}")
}

// BuildEarlier builds the server of a commit in a worktree of its own, which is
// gone when it returns, and returns the program's path.
func BuildEarlier(ctx context.Context, repository, commit, folder string) (path string, err error) {
	if path, err = filepath.Abs(filepath.Join(folder, "ringback-before")); err != nil {
		return "", fmt.Errorf("naming the earlier server: %w", err)
	}
	return path, inWorktree(ctx, repository, commit, filepath.Join(filepath.Dir(path), "tree"), func(tree string) error {
		return Build(ctx, tree, path)
	})
}

// Build builds the server of a checkout, with further flags of go build.
func Build(ctx context.Context, tree, path string, flags ...string) error {
	args := append([]string{"build", "-tags", "nomsgpack", "-trimpath", "-o", path}, flags...)
	build := exec.CommandContext(ctx, "go", append(args, "./cmd/server")...)
	build.Dir, build.Env = tree, append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building a server: %w: %s", errors.Join(ctx.Err(), err), output)
	}
	return nil
}

// inWorktree checks a commit out for as long as do runs. The worktree goes also
// when ctx has ended.
func inWorktree(ctx context.Context, repository, commit, tree string, do func(tree string) error) error {
	_, err := git(ctx, repository, "-c", "core.hooksPath=/dev/null", "worktree", "add", "--quiet", "--detach", tree, commit)
	if err != nil {
		return err // git removes an unfinished worktree
	}
	err = do(tree)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	_, removed := git(ctx, repository, "worktree", "remove", "--force", tree)
	return errors.Join(err, removed)
}

func git(ctx context.Context, repository string, args ...string) (output string, err error) {
	command := exec.CommandContext(ctx, "git", append([]string{"-C", repository}, args...)...)
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) } // which it cleans up after
	command.WaitDelay = 10 * time.Second
	answer, err := command.Output()
	if err != nil {
		var ended *exec.ExitError
		errors.As(err, &ended)
		return "", fmt.Errorf("git %s: %w%s", strings.Join(args, " "), err, stderrOf(ended))
	}
	return strings.TrimSpace(string(answer)), nil
}

func stderrOf(ended *exec.ExitError) string {
	if ended == nil || len(ended.Stderr) == 0 {
		return ""
	}
	return ": " + strings.TrimSpace(string(ended.Stderr))
}
