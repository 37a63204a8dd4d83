package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// measureGrowth asks whether a table full of finished requests slows the
// service down, and how fast it works off what was accepted while no worker was
// there.
func (b *bench) measureGrowth(ctx context.Context) error {
	if len(b.plan.grown) == 0 {
		return nil
	}
	half, err := b.halfRate(ctx)
	if err != nil {
		return err
	}
	grown, err := b.growAll(ctx)
	if err == nil {
		err = rounds(b.plan.repeat, func() error { return b.compareGrown(ctx, grown, half) })
	}
	for _, d := range grown {
		err = errors.Join(err, b.cluster.drop(ctx, d))
	}
	if err != nil {
		return err
	}
	return rounds(b.plan.repeat, func() error {
		return b.onFresh(ctx, "backlog", func(d database) error { return b.workOff(ctx, d) })
	})
}

// growAll makes a database for each size. The smallest is a template: a
// measurement adds more to it than it holds.
func (b *bench) growAll(ctx context.Context) (grown []database, err error) {
	for _, rows := range b.plan.grown {
		start, name := time.Now(), rowsName(rows)
		d, err := b.cluster.create(ctx, "grown_"+name, "")
		if err != nil {
			return grown, err
		}
		grown = append(grown, d)
		if err := b.plant(ctx, d); err != nil {
			return grown, err
		}
		if err := d.grow(ctx, rows); err != nil {
			return grown, err
		}
		if err := b.cluster.execute(ctx, "CHECKPOINT"); err != nil {
			return grown, err
		}
		b.say("  filled %s in %s", name, time.Since(start).Round(time.Second))
		b.figures.add("fill_s_"+name, time.Since(start).Seconds())
	}
	return grown, nil
}

// plant lets the service itself make the one request that is multiplied.
func (b *bench) plant(ctx context.Context, d database) error {
	receiver, err := startReceiver(nil)
	if err != nil {
		return err
	}
	defer receiver.close()
	return b.onServer(ctx, ours, d, nil, func(s *server) error {
		if err := postOnce(s.url+"/async", asyncBody(receiver.url)); err != nil {
			return err
		}
		return awaitDelivery(ctx, receiver, 1)
	})
}

func (b *bench) compareGrown(ctx context.Context, grown []database, half float64) error {
	rates := make([]float64, len(grown))
	for i, d := range grown {
		measure := func(d database) (err error) {
			rates[i], err = b.measureGrown(ctx, d, rowsName(b.plan.grown[i]), half)
			return err
		}
		var err error
		if i == 0 {
			err = b.onCopy(ctx, "copy", d.name, measure)
		} else {
			err = errors.Join(b.cluster.execute(ctx, "CHECKPOINT"), measure(d))
		}
		if err != nil {
			return fmt.Errorf("with %d requests in the table: %w", b.plan.grown[i], err)
		}
	}
	b.figures.add("grown_ratio", rates[len(rates)-1]/rates[0])
	return nil
}

// measureGrown measures throughput and then, on the same database, the time to
// callback.
func (b *bench) measureGrown(ctx context.Context, d database, name string, half float64) (rate float64, err error) {
	used, err := b.saturate(ctx, ours, d)
	if err != nil {
		return 0, err
	}
	err = b.onServer(ctx, ours, d, nil, func(s *server) error {
		told, err := b.runStorm(ctx, s, stormOrder{mix: "async=100", rate: half, length: b.plan.timingFor / 2})
		if err != nil {
			return err
		}
		b.say("  %4s finished requests: %6.0f/s, called back at %.0f/s p50 %6.2f ms p99 %6.2f ms",
			name, used.rate(), half, told.Async.TimeToCallback.P50, told.Async.TimeToCallback.P99)
		b.figures.add("e2e_per_s_grown_"+name, used.rate())
		b.figures.add("ttc_p99_ms_grown_"+name, told.Async.TimeToCallback.P99)
		return nil
	})
	return used.rate(), err
}

// workOff accepts a backlog with no worker there, and measures how fast a
// server that then starts delivers it.
func (b *bench) workOff(ctx context.Context, d database) error {
	receiver, err := startReceiver(nil)
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
		if err := awaitDelivery(ctx, receiver, accepted); err != nil {
			return err
		}
		rate := float64(accepted-before) / time.Since(start).Seconds()
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
	return l.accepted.Load(), errors.Join(ctx.Err(), l.check(), s.stop())
}
