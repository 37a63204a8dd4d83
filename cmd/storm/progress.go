package main

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"ringback/cmd/internal/load"
)

const interruptedText = "interrupted: sending stops, answers and callbacks are waited for; again to quit at once"

// watch prints a line a second about a run, until stop is called.
func watch(ctx context.Context, run *load.Run, w io.Writer) (stop func()) {
	finished := make(chan struct{})
	var printing sync.WaitGroup
	printing.Go(func() { printProgress(ctx, run, w, finished) })
	return func() {
		close(finished)
		printing.Wait()
	}
}

func printProgress(ctx context.Context, run *load.Run, w io.Writer, finished <-chan struct{}) {
	select {
	case <-run.Started():
	case <-finished:
	}
	second := time.NewTicker(time.Second)
	defer second.Stop()
	interrupted := ctx.Done()
	var last load.Snapshot
	for {
		select {
		case <-finished:
			return
		case <-interrupted:
			interrupted = nil // so that the text is printed once
			fmt.Fprintln(w, interruptedText)
		case <-second.C:
			last = run.Snapshot(ctx, last)
			fmt.Fprintln(w, line(last))
		}
	}
}

func line(s load.Snapshot) string {
	return fmt.Sprintf("%4.0fs  offered %.0f/s  sent %.0f/s  in flight %d  waiting %d  ok %d  shed %d  failed %d  delivered %d of %d  oldest %s  left %s",
		s.Elapsed.Seconds(), s.Offered, s.Achieved, s.InFlight, s.Waiting, s.OK, s.Shed, s.Failed,
		s.Delivered, s.Acked, s.Oldest.Round(time.Second/10), s.Remaining.Round(time.Second/10))
}
