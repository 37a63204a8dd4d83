package main

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

// beforeHandOver is the last commit whose jobs all waited for River to fetch
// them.
const beforeHandOver = "2e258fb9023d451809e3e48e97637def0738fa29"

// buildBefore builds the server of the earlier commit that ours is compared
// with, into a folder. Where the clone doesn't hold that commit, the comparison is
// left out.
func (b *bench) buildBefore(ctx context.Context, folder string) error {
	if b.against == "" || !b.wants("e2e") {
		return nil
	}
	commit, err := git(ctx, ".", "rev-parse", "--verify", "--quiet", b.against+"^{commit}")
	if err != nil {
		b.say("e2e_ratio_before is left out: this clone doesn't hold the commit %s (-against)", b.against)
		return ctx.Err()
	}
	b.say("building the server of %.12s, to compare with", commit)
	b.before, err = buildEarlier(ctx, ".", commit, folder)
	return err
}

// buildEarlier builds the server of a commit in a worktree of its own, which is
// gone when it returns, and returns the program's path.
func buildEarlier(ctx context.Context, repository, commit, folder string) (path string, err error) {
	if path, err = filepath.Abs(filepath.Join(folder, "ringback-before")); err != nil {
		return "", fmt.Errorf("naming the earlier server: %w", err)
	}
	return path, inWorktree(ctx, repository, commit, filepath.Join(filepath.Dir(path), "tree"), func(tree string) error {
		build := exec.CommandContext(ctx, "go", "build", "-tags", "nomsgpack", "-trimpath", "-o", path, "./cmd/server")
		build.Dir, build.Env = tree, append(os.Environ(), "CGO_ENABLED=0")
		if output, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("building the server of %s: %w: %s", commit, errors.Join(ctx.Err(), err), output)
		}
		return nil
	})
}

// inWorktree checks a commit out for as long as do runs. The worktree goes also
// when ctx has ended.
func inWorktree(ctx context.Context, repository, commit, tree string, do func(tree string) error) error {
	_, err := git(ctx, repository, "-c", "core.hooksPath=/dev/null", "worktree", "add", "--quiet", "--detach", tree, commit)
	if err != nil {
		return err // git takes back what it had begun
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
