// The server answers sync and async requests, and does the async ones from its queue. The
// same program is the command line of operators and of callers.
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
	// What net/http writes there is text that a receiver sent unasked.
	log.SetOutput(io.Discard)
	// A log that nobody reads any more is no reason to end.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), endings()...)
	context.AfterFunc(ctx, stop) // from the first signal on, a second one ends the process at once
	if os.Getenv("GOGC") == "" {
		// What lives is small, and what a request allocates is garbage soon: to
		// collect less often gave 7 % more throughput, for some 50 MiB.
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

// exitStatus is 2 for wrong usage and 1 for what failed.
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

// tell writes what there is to say at the end, and waits for its reader for a moment
// at most.
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
