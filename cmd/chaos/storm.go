package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// stormCounts is what its report says that is held against the service. (It
// calls a run broken, too, in which it was never answered, since that shows
// nothing; where the database is away for long, that is no fault.)
type stormCounts struct {
	Acked         int    `json:"acked"`
	Delivered     int    `json:"delivered"`
	Ambiguous     int    `json:"ambiguous"`
	Missing       int    `json:"missing"`
	Mismatched    int    `json:"mismatched"`
	BadSignatures int    `json:"bad_signatures"`
	OutOfOrder    int    `json:"out_of_order"`
	Verdict       string `json:"verdict"` // empty when it found nothing broken
}

func (c stormCounts) broken() bool { return c.Missing+c.Mismatched+c.BadSignatures+c.OutOfOrder > 0 }

// stormExit are the statuses of storm that mean that it ran to its end.
const (
	stormOK     = 0
	stormBroken = 1
)

// runStorm sends a modest load at one server for as long as the faults last,
// and waits as long as we would for the callbacks.
func runStorm(ctx context.Context, path, target, databaseURL string, rate int, length, patience time.Duration) (stormCounts, error) {
	folder, err := os.MkdirTemp("", "chaos-")
	if err != nil {
		return stormCounts{}, fmt.Errorf("making a folder for storm's report: %w", err)
	}
	defer os.RemoveAll(folder)
	file := filepath.Join(folder, "storm.json")
	command := exec.CommandContext(ctx, path, "-target", target, "-json", file, "-profile", "steady",
		"-rate", fmt.Sprint(rate), "-duration", length.String(), "-drain", patience.String(), "-database-url", databaseURL,
		"-timeout", "30s", "-work", "text=200,rounds=100,delay=0..300ms")
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGINT) }
	command.WaitDelay = 5 * time.Second
	output, err := command.Output()
	var ended *exec.ExitError
	if err != nil && !(errors.As(err, &ended) && ended.ExitCode() == stormBroken) {
		return stormCounts{}, fmt.Errorf("running storm: %w: %s", err, output)
	}
	counts, readErr := readStorm(file)
	if counts.broken() {
		counts.Verdict = string(output)
	}
	return counts, readErr
}

func readStorm(file string) (stormCounts, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return stormCounts{}, fmt.Errorf("reading storm's report: %w", err)
	}
	var report struct {
		Async stormCounts `json:"async"`
	}
	if err := json.Unmarshal(content, &report); err != nil {
		return stormCounts{}, fmt.Errorf("reading storm's report: %w", err)
	}
	return report.Async, nil
}
