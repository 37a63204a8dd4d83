// Command storm loads a running Ringback with sync and async requests at a
// fixed rate, receives the callbacks itself and tells whether every
// acknowledged request was called back.
//
// It is an open loop: a request leaves on schedule whether or not earlier ones
// have answered, and its latency counts from the intended send time, so that a
// server that freezes can't hide it.
//
// Exit status: 0 when every acknowledged request was called back; 1 when one
// was not, when a callback carried another request's id, or when no request
// was answered ok; 2 for a wrong flag or a target that doesn't answer; 130
// after a second interrupt.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

const (
	exitOK      = 0
	exitBroken  = 1
	exitUsage   = 2
	exitAborted = 130 // what shells report for a process that SIGINT ended
)

func main() {
	os.Exit(run(untilSignal(), os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// untilSignal returns a context that the first SIGINT or SIGTERM cancels; the
// second one ends the process.
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

// run is the whole program: it returns the exit status. Once ctx is done it
// sends nothing more, waits for what is under way and reports.
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
	sender := newSender(config)
	if err := sender.checkTarget(ctx); err != nil {
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	summary, err := newStorm(config, sender).run(ctx, stderr)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	summary.print(stdout)
	return summary.exitStatus()
}
