package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// A Go program reads the clock from a page that the kernel maps into it. No preloaded
// library, no time namespace and no traced system call gets in between. So a server with
// another clock is built with a changed time.Now, by the go command's overlay: the
// service's own code stays the same.

// errNoSkew is a Go whose package time isn't as it is known here.
var errNoSkew = errors.New("no server can have a clock of its own with this version of Go")

// clockSetting tells a server built so by how many seconds its clock is ahead.
const clockSetting = "CHAOS_CLOCK"

// skewedNow changes the source of time.Now.
func skewedNow(source string) (string, error) {
	const imports, now = "import (\n", "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	if !strings.Contains(source, imports) || !strings.Contains(source, now) {
		return "", errNoSkew
	}
	source = strings.Replace(source, imports, imports+"\t\"syscall\"\n", 1)
	source = strings.Replace(source, now, now+"\tsec += ahead\n", 1)
	return source + `
var ahead = func() (seconds int64) {
	text, _ := syscall.Getenv("` + clockSetting + `")
	for _, digit := range text {
		if digit != '-' {
			seconds = 10*seconds + int64(digit-'0')
		}
	}
	if text != "" && text[0] == '-' {
		return -seconds
	}
	return seconds
}()
`, nil
}

// buildSkewed builds the server with that, into a folder.
func buildSkewed(ctx context.Context, folder string) (path string, err error) {
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("finding Go: %w", err)
	}
	original := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	source, err := os.ReadFile(original)
	if err != nil {
		return "", fmt.Errorf("reading package time: %w", err)
	}
	changed, err := skewedNow(string(source))
	if err != nil {
		return "", err
	}
	file, overlay := filepath.Join(folder, "time.go"), filepath.Join(folder, "overlay.json")
	replaced, err := json.Marshal(map[string]map[string]string{"Replace": {original: file}})
	if err = errors.Join(err, os.WriteFile(file, []byte(changed), 0o644), os.WriteFile(overlay, replaced, 0o644)); err != nil {
		return "", fmt.Errorf("changing package time: %w", err)
	}
	path = filepath.Join(folder, "ringback-skewed")
	build := exec.CommandContext(ctx, "go", "build", "-overlay", overlay, "-tags", "nomsgpack", "-trimpath", "-o", path, "./cmd/server")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building a server with another clock: %w: %s", err, output)
	}
	return path, nil
}

// skewServers lets the clocks of servers differ as planned, where they can.
func (t *trial) skewServers(ctx context.Context) (done func(), err error) {
	done = func() {}
	if t.plan.skewed() == 0 {
		return done, nil
	}
	folder, err := os.MkdirTemp("", "chaos-")
	if err != nil {
		return done, fmt.Errorf("making a folder for a server with another clock: %w", err)
	}
	done = func() { os.RemoveAll(folder) }
	t.say("  building a server whose clock is another one, which takes minutes the first time")
	t.skewedServer, err = buildSkewed(ctx, folder)
	if errors.Is(err, errNoSkew) {
		t.say("  not done: %s: %v", serverClocks, err)
		t.plan.Skews, err = nil, nil
	}
	for number, ahead := range t.plan.Skews {
		t.say("  the clock of server %d is %s ahead", number, ahead)
	}
	return done, err
}

// skewed is by how much the clock of some server differs.
func (p plan) skewed() (most time.Duration) {
	for _, ahead := range p.Skews {
		most = max(most, ahead.Abs())
	}
	return most
}
