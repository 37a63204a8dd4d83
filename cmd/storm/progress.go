package main

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"
)

// startProgress prints a line a second until the function it returns is called.
func (s *storm) startProgress(ctx context.Context, w io.Writer) (stop func()) {
	finished := make(chan struct{})
	var printing sync.WaitGroup
	printing.Go(func() {
		s.printProgress(ctx, w, finished)
	})
	return sync.OnceFunc(func() {
		close(finished)
		printing.Wait()
	})
}

func (s *storm) printProgress(ctx context.Context, w io.Writer, finished <-chan struct{}) {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	interrupted := ctx.Done()
	for {
		select {
		case <-finished:
			return
		case <-interrupted:
			interrupted = nil // said once
			fmt.Fprintln(w, "interrupted: sending stops, answers and callbacks are waited for; again to quit at once")
		case <-second.C:
			sync, async := s.ledger.sync.progress(), s.ledger.async.progress()
			fmt.Fprintf(w, "%4.0fs  answered %d  shed %d  called back %d\n", s.ledger.clock.now().Seconds(),
				sync.answered()+async.answered(), sync[shed]+async[shed], s.ledger.deliveredSoFar())
		}
	}
}

// counts are requests by outcome.
type counts [outcomes]int

func (c counts) answered() int {
	total := 0
	for outcome := ok; outcome < outcomes; outcome++ {
		total += c[outcome]
	}
	return total
}

func (l *lane) progress() counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts
}

func (l *ledger) deliveredSoFar() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.delivered
}
