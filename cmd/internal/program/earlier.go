package program

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ErrNoCommit means that the clone doesn't hold a commit.
var ErrNoCommit = errors.New("no such commit here")

// BuildEarlier builds the server of a commit in a folder, from a copy of the commit's tree, and
// returns the program's path, or ErrNoCommit. folder is an absolute path.
func BuildEarlier(ctx context.Context, repository, commit, folder string) (path string, err error) {
	find := exec.CommandContext(ctx, "git", "-C", repository, "rev-parse", "--verify", "--quiet", commit+"^{commit}")
	if find.Run() != nil {
		return "", cmp.Or(ctx.Err(), ErrNoCommit)
	}
	tree, packed := filepath.Join(folder, "tree"), filepath.Join(folder, "tree.tar")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return "", fmt.Errorf("making a folder for the earlier server: %w", err)
	}
	for _, command := range []*exec.Cmd{
		exec.CommandContext(ctx, "git", "-C", repository, "archive", "--output", packed, commit),
		exec.CommandContext(ctx, "tar", "-xf", packed, "-C", tree),
	} {
		if _, err := Output(command); err != nil {
			return "", errors.Join(ctx.Err(), err)
		}
	}
	path = filepath.Join(folder, "ringback-before")
	return path, Build(ctx, tree, path)
}

// Build builds the server of a checkout, with further flags of go build.
func Build(ctx context.Context, tree, path string, flags ...string) error {
	args := append([]string{"build", "-tags", "nomsgpack", "-trimpath", "-o", path}, flags...)
	build := exec.CommandContext(ctx, "go", append(args, "./cmd/server")...)
	build.Dir, build.Env = tree, append(os.Environ(), "CGO_ENABLED=0")
	_, err := Output(build)
	return errors.Join(ctx.Err(), err)
}

// Output runs a command and returns what it writes to stdout. An error holds what the command
// wrote to stderr.
func Output(command *exec.Cmd) ([]byte, error) {
	var said bytes.Buffer
	command.Stderr = &said
	output, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(command.Args, " "), err, bytes.TrimSpace(said.Bytes()))
	}
	return output, nil
}
