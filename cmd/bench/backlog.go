package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/receivers"
)

// measureBacklog asks how fast requests that were accepted without a worker are delivered
// once there is a worker.
func (b *bench) measureBacklog(ctx context.Context) error {
	if b.plan.backlog == 0 {
		return b.leaveOut()
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
	receiver, err := receivers.StartCounter(defaultReceiver, nil)
	if err != nil {
		return err
	}
	defer receiver.Close()
	accepted, err := b.pileUp(ctx, d, receiver)
	if err == nil {
		err = b.cluster.checkpoint(ctx)
	}
	if err != nil {
		return err
	}
	return b.onServer(ctx, ours, d, nil, func(*server) error {
		start, before := time.Now(), receiver.Delivered.Load()
		for receiver.Delivered.Load() < accepted && time.Since(start) < workOffTime {
			if !load.Pause(ctx, 10*time.Millisecond) {
				return ctx.Err()
			}
		}
		rate := float64(receiver.Delivered.Load()-before) / time.Since(start).Seconds()
		b.say("  backlog of %d: %6.0f/s", accepted, rate)
		b.figures.add("backlog_per_s", rate)
		return nil
	})
}

// pileUp has a server without workers accept the backlog, and returns how much
// it accepted.
func (b *bench) pileUp(ctx context.Context, d database, r *receivers.Counter) (int64, error) {
	s, err := b.start(ctx, ours, d, "api", fmt.Sprintf("UNFINISHED_LIMIT=%d", 2*b.plan.backlog))
	if err != nil {
		return 0, err
	}
	l := newLoad(s, "/async", 256, asyncBody(r.URL))
	err = l.Accept(ctx, int64(b.plan.backlog), queueTimeout)
	return l.Accepted.Load(), errors.Join(err, s.Stop())
}
