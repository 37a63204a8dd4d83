// Command storm loads a running Ringback with sync and async requests along a rate curve,
// receives the callbacks itself and tells whether every acknowledged request was called
// back.
//
// It is an open loop: a request is sent on schedule whether or not earlier requests were
// answered, and its latency counts from the intended send time, so that a server that
// freezes can't hide that.
//
// Exit status:
//   - 0: every acknowledged request was called back.
//   - 1: a callback is missing, is out of order, or has a wrong id, result or signature; a
//     request could not be sent in time; an endpoint answered no request ok, or fewer requests
//     were answered ok than were rejected, failed or got no answer.
//   - 2: a flag is wrong, or the target doesn't answer or wants another API key.
//   - 99: an objective of -slo was missed, or nothing was measured for it.
//   - 130: a second interrupt, or the first before the run had begun.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"ringback/cmd/internal/load"
)

const (
	exitOK      = 0
	exitBroken  = 1
	exitUsage   = 2
	exitMissed  = 99  // an objective of -slo
	exitAborted = 130 // the shells' status for a process that SIGINT ended
)

func main() {
	tune()
	os.Exit(run(untilSignal(), os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// tune replaces the runtime's defaults, since storm shares the machine, often with the server.
// The variables GOMAXPROCS and GOGC go first.
func tune() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(load.Threads())
	}
	// The ledger is most of the heap, and has no pointers: frequent collections cost little,
	// and rare collections would let garbage grow to the same size.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(25)
	}
}

// untilSignal returns a context that the first SIGINT or SIGTERM cancels; the second
// signal ends the process.
func untilSignal() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		<-signals
		os.Exit(exitAborted)
	}()
	return ctx
}

// run is the program, and returns the exit status. Once ctx is done it sends nothing more,
// waits for outstanding callbacks and reports.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	config, err := parseConfig(args, getenv)
	if errors.Is(err, flag.ErrHelp) {
		printUsage(stdout)
		return exitOK
	}
	if err != nil {
		fmt.Fprintf(stderr, "%v\nstorm -h lists the flags\n", err)
		return exitUsage
	}
	found, err := storm(ctx, config, stderr)
	switch {
	case errors.Is(err, load.ErrInterrupted):
		fmt.Fprintln(stderr, err)
		return exitAborted
	case err != nil:
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	return finish(found, config, stdout, stderr)
}

// storm does the run. An error is worded for the person who typed the command.
func storm(ctx context.Context, config config, w io.Writer) (*load.Findings, error) {
	run, err := load.New(ctx, config.Config)
	if err != nil {
		return nil, err
	}
	defer run.Close()
	if err := errors.Join(checkWritable(config.jsonFile), checkWritable(config.htmlFile)); err != nil {
		return nil, err
	}
	stop := watch(ctx, run, w)
	found, err := run.Do(ctx)
	stop()
	if err == nil {
		found.Objectives = config.objectives.check(&found.Report)
	}
	return found, err
}

// finish prints and saves the report.
func finish(found *load.Findings, config config, stdout, stderr io.Writer) int {
	save := func(w io.Writer) error { return writeHTML(w, found) }
	err := saveTo(config.htmlFile, save)
	if config.jsonFile == "-" {
		err = errors.Join(err, found.WriteJSON(stdout))
	} else {
		var summary bytes.Buffer
		printSummary(&summary, &found.Report)
		_, printed := stdout.Write(summary.Bytes()) // a verdict that can't be printed is an error
		err = errors.Join(err, printed, saveTo(config.jsonFile, found.WriteJSON))
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	return exitStatus(&found.Report)
}

// checkWritable finds out before a run whether its report can be kept.
func checkWritable(path string) error {
	if path == "" || path == "-" {
		return nil
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("opening the report: %w", err)
	}
	return file.Close()
}

// saveTo writes a file, unless path is empty.
func saveTo(path string, write func(io.Writer) error) error {
	if path == "" {
		return nil
	}
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	if err := errors.Join(write(file), file.Close()); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}
