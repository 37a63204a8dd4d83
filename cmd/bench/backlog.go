package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// measureBacklog asks how fast what was accepted while no worker was there is
// delivered once there is one.
func (b *bench) measureBacklog(ctx context.Context) error {
	if b.plan.backlog == 0 {
		b.say("  left out")
		return nil
	}
	return rounds(b.plan.repeat, func() error {
		return b.onFresh(ctx, "backlog", func(d database) error { return b.workOff(ctx, d) })
	})
}

// workOffTime is how long a backlog's delivery is watched at most: a slow
// service needs not deliver all of it to show how slow it is.
const workOffTime = time.Minute

// workOff accepts a backlog with no worker there, and measures how fast a
// server that then starts delivers it.
func (b *bench) workOff(ctx context.Context, d database) error {
	receiver, err := startReceiver(defaultReceiver, nil)
	if err != nil {
		return err
	}
	defer receiver.close()
	accepted, err := b.pileUp(ctx, d, receiver)
	if err != nil {
		return err
	}
	if err := b.cluster.execute(ctx, "CHECKPOINT"); err != nil {
		return err
	}
	return b.onServer(ctx, ours, d, nil, func(*server) error {
		start, before := time.Now(), receiver.delivered.Load()
		for receiver.delivered.Load() < accepted && time.Since(start) < workOffTime {
			if !pause(ctx, 10*time.Millisecond) {
				return ctx.Err()
			}
		}
		rate := float64(receiver.delivered.Load()-before) / time.Since(start).Seconds()
		b.say("  backlog of %d: %6.0f/s", accepted, rate)
		b.figures.add("backlog_per_s", rate)
		return nil
	})
}

// pileUp has a server without workers accept the backlog, and returns how much
// it accepted.
func (b *bench) pileUp(ctx context.Context, d database, r *receiver) (int64, error) {
	s, err := b.start(ctx, ours, d, "api", fmt.Sprintf("UNFINISHED_LIMIT=%d", 2*b.plan.backlog))
	if err != nil {
		return 0, err
	}
	l := &load{target: s.url, path: "/async", body: asyncBody(r.url), connections: 256}
	stop := l.start(ctx)
	deadline := time.Now().Add(5 * time.Minute)
	for l.accepted.Load() < int64(b.plan.backlog) && time.Now().Before(deadline) && pause(ctx, 10*time.Millisecond) {
	}
	stop()
	return l.accepted.Load(), errors.Join(ctx.Err(), l.check(), s.Stop())
}
