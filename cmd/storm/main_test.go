package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets a test run the program itself, signals included.
func TestMain(m *testing.M) {
	if os.Getenv("STORM_TEST_RUNS_MAIN") != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestInterrupt(t *testing.T) {
	t.Parallel()

	t.Run("once ends sending and reports", func(t *testing.T) {
		t.Parallel()
		ctx, interrupt := context.WithCancel(t.Context())
		service := start(t, &service{onAsync: func(n int, job job, w http.ResponseWriter) {
			job.callBack(job.id, "succeeded")
			if n == 5 {
				interrupt()
				<-time.After(50 * time.Millisecond) // slow work: its answer is waited for all the same
			}
			accept(job, w)
		}})
		output := runStormUntil(t, ctx, "-target", service.url, "-duration", "1h", "-rate", "100")
		output.want(t, exitOK, "interrupted:", "steady, interrupted after ", "ept its word")
		if got := output.report; got.Sync.Sent != got.Sync.OK || got.Async.Sent != got.Async.OK || !got.Interrupted {
			t.Errorf("want no request to fail because of the interrupt, got\n%s", output.stdout)
		}
	})

	t.Run("by one signal", func(t *testing.T) {
		t.Parallel()
		service := start(t, &service{})
		file := filepath.Join(t.TempDir(), "report.json")
		program, stderr := startProgram(t, against(service, "-duration", "1m", "-json", file)...)
		interrupt(t, program)
		rest, err := io.ReadAll(stderr)
		if err != nil {
			t.Fatal(err)
		}
		_ = program.Wait()
		if got := program.ProcessState.ExitCode(); got != exitOK {
			t.Errorf("exit status: got %d, want %d\n%s", got, exitOK, rest)
		}
		if !strings.Contains(string(rest), interruptedText) {
			t.Errorf("%q is missing in\n%s", interruptedText, rest)
		}
		got := reportOf(t, file)
		if !got.Interrupted || got.Async.Acked == 0 || got.Async.Delivered != got.Async.Acked || got.Sync.OK != got.Sync.Sent {
			t.Errorf("got %+v, want all that was sent answered and called back", got)
		}
	})

	t.Run("before the target has answered ends at once", func(t *testing.T) {
		t.Parallel()
		ctx, interrupt := context.WithCancel(t.Context())
		asked, release := make(chan struct{}), make(chan struct{})
		target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			close(asked)
			<-release
		}))
		t.Cleanup(target.Close)
		defer close(release)
		go func() {
			<-asked
			interrupt()
		}()
		var stderr bytes.Buffer
		if got := run(ctx, []string{"-target", target.URL, "-timeout", "10m"}, func(string) string { return "" }, io.Discard, &stderr); got != exitAborted || !strings.Contains(stderr.String(), "interrupted before the run began") {
			t.Errorf("got status %d with %q, want %d", got, stderr.String(), exitAborted)
		}
	})

	t.Run("twice ends at once", func(t *testing.T) {
		t.Parallel()
		service := start(t, &service{onAsync: func(_ int, job job, w http.ResponseWriter) { accept(job, w) }})
		program, stderr := startProgram(t, against(service, "-duration", "1m")...)
		interrupt(t, program)
		readUntil(t, stderr, "interrupted:")
		interrupt(t, program)
		_ = program.Wait()
		if got := program.ProcessState.ExitCode(); got != exitAborted {
			t.Errorf("exit status: got %d, want %d", got, exitAborted)
		}
	})
}

// startProgram runs storm as a process, and returns when it is under way.
func startProgram(t *testing.T, args ...string) (*exec.Cmd, io.Reader) {
	t.Helper()
	program := exec.CommandContext(t.Context(), os.Args[0], args...)
	program.Env = append(os.Environ(), "STORM_TEST_RUNS_MAIN=1")
	stderr, err := program.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	readUntil(t, stderr, "in flight") // a line of progress
	return program, stderr
}

func interrupt(t *testing.T, program *exec.Cmd) {
	t.Helper()
	if err := program.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
}

// readUntil reads up to a phrase, byte by byte so as not to read on.
func readUntil(t *testing.T, from interface{ Read([]byte) (int, error) }, phrase string) {
	t.Helper()
	var read []byte
	for next := make([]byte, 1); !strings.HasSuffix(string(read), phrase); {
		if _, err := from.Read(next); err != nil {
			t.Fatalf("waiting for %q after %q: %v", phrase, read, err)
		}
		read = append(read, next[0])
	}
}
