// The server answers sync and async requests, and works the async requests off from its
// queue. The same program is the command line of operators and of callers.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/caarlos0/env/v11"

	"ringback/work"
)

func main() {
	// net/http writes there the text that a receiver sends unasked.
	log.SetOutput(io.Discard)
	// A log that nobody reads any more is no reason to end.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), endings()...)
	context.AfterFunc(ctx, stop) // the first signal stops the server, a second signal ends the process at once
	if os.Getenv("GOGC") == "" {
		// The live heap is small, and a request's allocations are soon garbage: collecting less
		// often gave 7 % more throughput, for some 50 MiB.
		debug.SetGCPercent(400)
	}
	obeyCgroup(env.ToMap(os.Environ()), os.DirFS("/"))
	err := run(ctx, os.Args[1:], env.ToMap(os.Environ()), os.Stdout, os.Stderr, works)
	if err == nil {
		return
	}
	// Who closed the pipe that a listing goes to has seen enough.
	if silent := errors.Is(err, errUsage) || errors.Is(err, syscall.EPIPE); !silent {
		tell(os.Stderr, "ringback: %v\n", err)
	}
	os.Exit(exitStatus(err))
}

// exitStatus is 2 for wrong usage and 1 for a failure.
func exitStatus(err error) int {
	if errors.Is(err, errUsage) {
		return 2
	}
	return 1
}

// endings are the signals that end the process once it has drained. A process that was
// started to outlive its terminal, as by nohup, ignores SIGHUP and goes on to.
func endings() []os.Signal {
	if signal.Ignored(syscall.SIGHUP) {
		return []os.Signal{os.Interrupt, syscall.SIGTERM}
	}
	return []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP}
}

// tell writes the last message, and waits for its reader for a moment at most.
func tell(out io.Writer, format string, args ...any) {
	buffer := newLogBuffer(out)
	fmt.Fprintf(buffer, format, args...)
	buffer.flush()
}

// run is the program: it does the command that args name, which is to serve until
// ctx ends where they name none, and returns when all is drained.
func run(ctx context.Context, args []string, environ map[string]string, stdout, stderr io.Writer, set work.Set) error {
	line := commandLine{environ: environ, set: set}
	return line.execute(ctx, args, stdout, stderr)
}
