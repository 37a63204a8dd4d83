// Package stage runs a tool: it puts up what the tool needs, such as folders and databases, and
// takes it down again.
package stage

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
	"time"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/postgres"
)

// Main runs a tool as the process. The first SIGINT or SIGTERM ends ctx, the second ends the
// process at once. An error other than flag.ErrHelp makes the exit status 1.
func Main(name string, run func(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// Stage takes down all that was put up on it when it ends, the last first. Like a test with
// testing.T, a stage ends at the first error, and only its own goroutine may call its methods.
type Stage struct {
	Ctx  context.Context
	err  error
	down []func() error
}

// On runs do on a new stage.
func On(ctx context.Context, do func(*Stage)) error {
	s := &Stage{Ctx: ctx}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		do(s)
	}()
	<-ended
	for _, takeDown := range slices.Backward(s.down) {
		s.err = errors.Join(s.err, takeDown())
	}
	return s.err
}

// Scene runs do on a stage within s. An error names what the scene is about.
func (s *Stage) Scene(about string, do func(*Stage)) {
	if err := On(s.Ctx, do); err != nil {
		s.Must(fmt.Errorf("%s: %w", about, err))
	}
}

// Must ends the stage where there is an error.
func (s *Stage) Must(err error) {
	if err != nil {
		s.err = err
		runtime.Goexit()
	}
}

// AtEnd takes something down when the stage ends.
func (s *Stage) AtEnd(takeDown func() error) { s.down = append(s.down, takeDown) }

// Pause ends the stage where its context ends first.
func (s *Stage) Pause(d time.Duration) {
	if !load.Pause(s.Ctx, d) {
		s.Must(s.Ctx.Err())
	}
}

// Until returns when isSo returns true, and ends the stage where that takes longer than
// patience.
func (s *Stage) Until(what string, patience time.Duration, isSo func() bool) {
	deadline := time.Now().Add(patience)
	for !isSo() {
		if s.Pause(10 * time.Millisecond); time.Now().After(deadline) {
			s.Must(fmt.Errorf("waiting for %s took more than %v", what, patience))
		}
	}
}

// Folder returns a new folder, which is removed when the stage ends.
func (s *Stage) Folder() string {
	folder, err := os.MkdirTemp("", "ringback-")
	s.Must(err)
	s.AtEnd(func() error { return os.RemoveAll(folder) })
	return folder
}

// Database makes a database of a server, as a copy of another if template isn't empty.
func (s *Stage) Database(server *postgres.Server, name, template string) postgres.Database {
	d, err := server.Create(s.Ctx, name, template)
	s.Must(err)
	s.AtEnd(func() error { return server.Drop(s.Ctx, d) })
	return d
}
