package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// schedule says when requests leave: at a constant rate, whatever the answers.
type schedule struct {
	rate     float64 // a second
	duration time.Duration
}

func newSchedule(config config) schedule { return schedule{config.rate, config.duration} }

func (s schedule) total() int { return int(math.Round(s.rate * s.duration.Seconds())) }

// at returns when request n leaves, counted from the start of the run.
func (s schedule) at(n int) time.Duration {
	return time.Duration(float64(n) / s.rate * float64(time.Second))
}

// storm is one run.
type storm struct {
	config   config
	schedule schedule
	sender   *sender
	receiver *receiver
	lanes    [2]*lane // requests take turns: even ones are sync, odd ones async
}

func newStorm(config config, sender *sender) *storm {
	schedule := newSchedule(config)
	receiver := newReceiver(schedule.total() / len(storm{}.lanes))
	return &storm{config, schedule, sender, receiver, [2]*lane{newLane(sync200()), newLane(async202())}}
}

// run sends, waits for the answers, then for the callbacks still due, and
// returns what happened. Once ctx is done it sends nothing more. Its error
// means that callbacks can't be received here.
func (s *storm) run(ctx context.Context, progress io.Writer) (summary, error) {
	if err := s.receiver.listen(); err != nil {
		return summary{}, fmt.Errorf("listening for callbacks: %w", err)
	}
	defer s.receiver.close()
	start := time.Now()
	stopProgress := s.startProgress(ctx, progress, start)
	defer stopProgress()

	var requests errgroup.Group
	requests.SetLimit(s.config.maxInFlight)
	sending := s.launch(ctx, &requests, start)
	_ = requests.Wait() // they return no errors: how they ended is in the lanes
	s.drain()
	return s.summarize(sending, time.Since(start)), nil
}

// launch starts every request at its intended send time, without waiting for
// earlier ones, and returns how long it took to send them all.
func (s *storm) launch(ctx context.Context, requests *errgroup.Group, start time.Time) time.Duration {
	finishing := context.WithoutCancel(ctx) // what has left is waited for, whatever happens
	var sending time.Duration
	for n := range s.schedule.total() {
		intended := start.Add(s.schedule.at(n))
		if !waitUntil(ctx, intended) {
			break
		}
		started := requests.TryGo(func() error {
			s.send(finishing, n, intended)
			return nil
		})
		if !started {
			s.lanes[n%2].leaveOut()
		}
		// A request takes up its interval: the last one of ten at 10/s leaves
		// after 0.9 s, and that is 10/s all the same.
		sending = time.Since(start) + s.schedule.at(1)
	}
	return sending
}

// waitUntil returns false when ctx is done. A moment that is past is not
// waited for, so that a generator that fell behind catches up.
func waitUntil(ctx context.Context, moment time.Time) bool {
	timer := time.NewTimer(time.Until(moment))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
	return ctx.Err() == nil
}

// send makes request n, from departure to what the answer means.
func (s *storm) send(ctx context.Context, n int, intended time.Time) {
	lane, slot := s.lanes[n%2], n/2
	isAsync := n%2 == 1
	callbackURL := ""
	if isAsync {
		callbackURL = s.receiver.expect(slot, intended)
	}
	lane.depart(time.Since(intended))
	answer := s.sender.post(ctx, lane.endpoint, n, callbackURL)
	lane.record(answer, time.Since(intended))
	if isAsync {
		s.receiver.settle(slot, answer)
	}
}

// drain waits until nothing is due any more, but not longer than configured.
// All requests have been answered by then.
func (s *storm) drain() {
	select {
	case <-s.receiver.allCalledBack():
	case <-time.After(s.config.drain):
	}
}

// startProgress prints a line a second until the function it returns is called.
func (s *storm) startProgress(ctx context.Context, w io.Writer, start time.Time) (stop func()) {
	finished := make(chan struct{})
	var printing sync.WaitGroup
	printing.Go(func() {
		s.printProgress(ctx, w, start, finished)
	})
	return func() {
		close(finished)
		printing.Wait()
	}
}

func (s *storm) printProgress(ctx context.Context, w io.Writer, start time.Time, finished <-chan struct{}) {
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
			sent, answered := s.lanes[0].progress()
			asyncSent, asyncAnswered := s.lanes[1].progress()
			sent, answered = sent+asyncSent, answered+asyncAnswered
			fmt.Fprintf(w, "%4.0fs  sent %d  in flight %d  answered %d  called back %d\n",
				time.Since(start).Seconds(), sent, sent-answered, answered, s.receiver.progress())
		}
	}
}

func (s *storm) summarize(sending, elapsed time.Duration) summary {
	summary := summary{
		target:    s.config.target,
		drain:     s.config.drain,
		elapsed:   elapsed,
		offered:   s.config.rate,
		sync:      s.lanes[0].tally,
		async:     s.lanes[1].tally,
		callbacks: s.receiver.tally(),
	}
	if sending > 0 {
		summary.achieved = float64(summary.sync.sent+summary.async.sent) / sending.Seconds()
	}
	return summary
}
