// Command bench measures the service, side by side with an earlier commit and with River
// alone (bench river). Every measurement has a fresh database and processes of its own,
// variants take turns, and each figure is the median of the repetitions.
//
// It needs a Postgres whose role may create databases (DATABASE_URL), best without other
// users: counts per request are taken from the whole Postgres. scripts/bench.sh starts
// one.
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

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the first signal stops bench, a second signal ends the process at once
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run is the program. Its first argument may be river or work: the child processes of
// bench, for the comparison and for work over HTTP.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == "river" {
		return runRiver(ctx, args[1:], getenv, stdout, stderr)
	}
	if len(args) > 0 && args[0] == "work" {
		return runWork(ctx, args[1:])
	}
	options, err := readOptions(args, getenv, stderr)
	if err != nil {
		return err
	}
	return measure(ctx, options, stdout)
}
