package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// measureAccept asks how many POST /async a server acknowledges per second. No
// workers compete for the machine: the servers have the role api.
func (b *bench) measureAccept(ctx context.Context) error {
	return rounds(b.plan.repeat, func() error {
		for _, connections := range b.plan.connections {
			if err := b.accept(ctx, connections); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *bench) accept(ctx context.Context, connections int) error {
	return b.onFresh(ctx, "accept", func(d database) error {
		s, err := b.start(ctx, ours, d, "api")
		if err != nil {
			return err
		}
		l := &load{target: s.url, path: "/async", connections: connections, body: asyncBody("http://127.0.0.1:9/callback")}
		used, err := b.during(ctx, d, s, l, b.plan.acceptWarmup, b.plan.acceptFor)
		if err := errors.Join(err, s.Stop(), l.check()); err != nil {
			return err
		}
		rate := used.accepted / used.took.Seconds()
		b.say("  %3d connections  %8.0f/s  p50 %6.2f ms  p99 %6.2f ms",
			connections, rate, quantile(l.latency, 50), quantile(l.latency, 99))
		b.figures.add(fmt.Sprintf("accept_per_s_%d", connections), rate)
		b.figures.add(fmt.Sprintf("accept_p99_ms_%d", connections), quantile(l.latency, 99))
		return nil
	})
}

// suffixOf is what the keys of a variant end with.
func suffixOf(v variant) string {
	if v == ours {
		return ""
	}
	return "_" + string(v)
}

// onFresh runs do on an empty database of its own.
func (b *bench) onFresh(ctx context.Context, purpose string, do func(database) error) error {
	return b.onCopy(ctx, purpose, "", do)
}

func (b *bench) onCopy(ctx context.Context, purpose, template string, do func(database) error) error {
	d, err := b.cluster.create(ctx, purpose, template)
	if err != nil {
		return err
	}
	return errors.Join(do(d), b.cluster.drop(ctx, d))
}

// spent is what happened in a span of time.
type spent struct {
	took       time.Duration
	accepted   float64 // requests
	delivered  float64 // requests; only where there is a receiver
	statements float64
	brackets   float64
	wal        float64 // bytes
	server     time.Duration
	postgres   time.Duration
	self       time.Duration // load and receiver
}

// rate is requests delivered per second.
func (s spent) rate() float64 { return s.delivered / s.took.Seconds() }

// during runs a load and returns what was spent between the end of the warm-up
// and the end of the given time.
func (b *bench) during(ctx context.Context, d database, s *server, l *load, warmup, length time.Duration) (spent, error) {
	stop := l.start(ctx)
	defer stop()
	if !pause(ctx, warmup) {
		return spent{}, ctx.Err()
	}
	used, err := b.watch(ctx, d, s, func() (spent, bool) {
		before := l.accepted.Load()
		l.measuring.Store(true)
		done := pause(ctx, length)
		l.measuring.Store(false)
		return spent{accepted: float64(l.accepted.Load() - before)}, done
	})
	return used, err
}

// watch adds to what span returns what was used while it ran.
func (b *bench) watch(ctx context.Context, d database, s *server, span func() (counted spent, done bool)) (spent, error) {
	before, err := b.readUsage(ctx, d, s)
	if err != nil {
		return spent{}, err
	}
	start := time.Now()
	used, done := span()
	used.took = time.Since(start)
	if !done {
		return spent{}, ctx.Err()
	}
	after, err := b.readUsage(ctx, d, s)
	used.statements = after.statements - before.statements
	used.brackets = after.brackets - before.brackets
	used.wal = after.wal - before.wal
	used.server = after.server - before.server
	used.postgres = after.postgres - before.postgres
	used.self = after.self - before.self
	return used, err
}

func (b *bench) readUsage(ctx context.Context, d database, s *server) (usage, error) {
	used, err := b.cluster.read(ctx, d)
	used.server = s.cpu()
	self, _ := readProcess(os.Getpid())
	used.self = self.own
	return used, err
}
