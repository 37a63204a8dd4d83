package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"ringback/cmd/internal/program"
)

// A Go program reads the clock from a page that the kernel maps into it, where no preloaded
// library, time namespace or traced system call changes it. So a server with another clock
// is built with a changed time.Now, by the go command's overlay. The service's own code stays
// the same.

// errNoSkew means that this Go's package time isn't the known one.
var errNoSkew = errors.New("no server can have a clock of its own with this version of Go")

// clockSetting tells such a server how far its clock is ahead, as a Go duration.
const clockSetting = "CHAOS_CLOCK"

// aheadSource is a file that is added to package time.
const aheadSource = `package time

import "syscall"

var ahead = func() (seconds int64) {
	text, _ := syscall.Getenv("` + clockSetting + `")
	by, _ := ParseDuration(text)
	return int64(by / Second)
}()
`

// skewedNow changes the source of time.Now.
func skewedNow(source string) (string, error) {
	const now = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	if !strings.Contains(source, now) {
		return "", errNoSkew
	}
	return strings.Replace(source, now, now+"\tsec += ahead\n", 1), nil
}

// buildSkewed builds a server with another clock into a folder, where this Go allows that.
func (t *trial) buildSkewed(folder string) {
	root, err := program.Output(exec.CommandContext(t.Ctx, "go", "env", "GOROOT"))
	t.Must(err)
	home := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	source, err := os.ReadFile(filepath.Join(home, "time.go"))
	t.Must(err)
	changed, err := skewedNow(string(source))
	if err != nil {
		t.say("  not done: %s: %v", serverClocks, err)
		t.plan.Skews = nil
		return
	}
	replaced := map[string]string{}
	for name, source := range map[string]string{"time.go": changed, "ahead.go": aheadSource} {
		replaced[filepath.Join(home, name)] = filepath.Join(folder, name)
		t.Must(os.WriteFile(filepath.Join(folder, name), []byte(source), 0o644))
	}
	encoded, err := json.Marshal(map[string]any{"Replace": replaced})
	overlay := filepath.Join(folder, "overlay.json")
	t.Must(errors.Join(err, os.WriteFile(overlay, encoded, 0o644)))
	t.first = filepath.Join(folder, "ringback-skewed")
	t.Must(program.Build(t.Ctx, ".", t.first, "-overlay", overlay))
}
