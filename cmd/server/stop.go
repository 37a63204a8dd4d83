package main

import (
	"context"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// The longest that each step of stopping takes, apart from STOP_TIMEOUT.
const (
	leaveTime       = time.Second     // for callers to see that the process stops
	firstCallTime   = 2 * time.Second // for the first calls on connections
	interruptTime   = time.Second     // for calls that are interrupted
	jobsTime        = 3 * time.Second // for jobs that are interrupted, and for batches that wait for the database
	connectionsTime = time.Second     // for connections to the database, and the last traces
)

// longestStop is how long a stop takes at most. Kubernetes kills after 30 s.
func longestStop(timeout time.Duration) time.Duration {
	return leaveTime + firstCallTime + timeout + interruptTime + timeout + jobsTime + connectionsTime + logFlushTimeout
}

// stop ends everything in the order in which it feeds the next: calls, then
// jobs, each with a deadline of its own.
func (s *server) stop(ctx context.Context) {
	ctx = context.WithoutCancel(ctx) // it has ended, but stopping takes time
	start := time.Now()
	s.draining.Store(true)
	s.logger.Info("stopping")
	s.queue.EndWaits()
	// Calls are still taken for a moment: for callers to leave, and for load balancers to
	// see that health says 503.
	time.Sleep(min(leaveTime, s.config.StopTimeout/10))
	s.stopCalls(ctx)
	s.within(ctx, "jobs", s.config.StopTimeout+jobsTime, s.queue.Stop)
	s.logger.Info("stopped", "duration_ms", time.Since(start).Milliseconds())
}

// stopCalls lets open calls end. Calls that take too long are interrupted, and answered
// with 503.
func (s *server) stopCalls(ctx context.Context) {
	s.within(ctx, "waiting connections", min(firstCallTime, s.config.StopTimeout), s.stopListening)
	if s.within(ctx, "calls", s.config.StopTimeout, s.public.Shutdown) {
		return
	}
	s.interrupt()
	if !s.within(ctx, "interrupted calls", interruptTime, s.public.Shutdown) {
		s.public.Close()
	}
}

// stopListening closes the listener when every connection that was made is
// accepted, and returns when each has brought its first call.
func (s *server) stopListening(ctx context.Context) error {
	err := emptyQueue(ctx, s.listener)
	s.listener.Close()
	<-s.served
	s.bound.awaitCalls(ctx)
	return err
}

// within runs a step of stopping and tells whether it ended in time. A step that is
// stuck is left behind.
func (s *server) within(ctx context.Context, what string, limit time.Duration, step func(context.Context) error) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- step(ctx) }()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		s.logger.Warn("stopping_took_too_long", "what", what, "error", err)
		return false
	}
	return true
}

// close frees what newServer opened, and delivers the last traces. A stuck connection or
// collector holds it up for a moment at most: the process ends, and its connections with
// it.
func (s *server) close() {
	if s.interrupt != nil {
		s.interrupt()
	}
	if s.unwatch != nil {
		s.unwatch()
	}
	if s.listener != nil {
		s.listener.Close()
	}
	for _, server := range []*http.Server{s.public, s.admin, s.metrics} {
		if server != nil {
			server.Close()
		}
	}
	if s.sender != nil {
		s.sender.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), connectionsTime)
	defer cancel()
	traced, closed := make(chan error, 1), make(chan struct{})
	go func() { traced <- s.tracer.End(ctx) }()
	go func() {
		for _, pool := range []*pgxpool.Pool{s.riverPool, s.readPool, s.pool} {
			if pool != nil {
				pool.Close()
			}
		}
		close(closed)
	}()
	select {
	case <-closed:
	case <-ctx.Done():
		s.logger.Warn("stopping_took_too_long", "what", "database connections")
	}
	if err := <-traced; err != nil { // it ends with ctx
		s.logger.Warn("stopping_took_too_long", "what", "traces", "error", err)
	}
}

// stamped is the version that a build was given: -ldflags "-X main.stamped=…".
var stamped string
