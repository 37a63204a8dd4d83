package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/receivers"
)

// measureGrowth asks whether a table full of finished requests slows the
// service down.
func (b *bench) measureGrowth(ctx context.Context) error {
	if len(b.plan.grown) == 0 {
		return b.leaveOut()
	}
	grown, err := b.growAll(ctx)
	if err == nil {
		err = rounds(b.plan.repeat, func() error { return b.compareGrown(ctx, grown) })
	}
	for _, d := range grown {
		err = errors.Join(err, b.cluster.Drop(ctx, d))
	}
	return err
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
		if err := b.fill(ctx, d, rows); err != nil {
			return grown, err
		}
		b.say("  filled %s in %s", name, time.Since(start).Round(time.Second))
		b.figures.add("fill_s_"+name, time.Since(start).Seconds())
	}
	return grown, nil
}

// fill lets the service itself make the request that is multiplied.
func (b *bench) fill(ctx context.Context, d database, rows int) error {
	receiver, err := receivers.StartCounter(defaultReceiver, nil)
	if err != nil {
		return err
	}
	defer receiver.Close()
	err = b.onServer(ctx, ours, d, nil, func(s *server) error {
		l := newLoad(s, "/async", 1, asyncBody(receiver.URL))
		l.Window, _ = load.NewWindow(1) // which nothing leaves
		return errors.Join(l.Accept(ctx, 1, drainTimeout), receiver.Await(ctx, 1, drainTimeout))
	})
	if err == nil {
		err = grow(ctx, d, rows)
	}
	return errors.Join(err, b.cluster.checkpoint(ctx))
}

func (b *bench) compareGrown(ctx context.Context, grown []database) error {
	rates := make([]float64, len(grown))
	for i, d := range grown {
		measure := func(d database) error {
			used, err := b.saturate(ctx, ours, d, asyncBodies)
			if err != nil {
				return err
			}
			rates[i] = used.rate()
			return b.timeGrown(ctx, d, rowsName(b.plan.grown[i]), rates[i], rates[0]/2)
		}
		var err error
		if i == 0 {
			err = b.onCopy(ctx, "copy", d.Name, measure)
		} else {
			err = errors.Join(b.cluster.checkpoint(ctx), measure(d))
		}
		if err != nil {
			return fmt.Errorf("with %d requests in the table: %w", b.plan.grown[i], err)
		}
	}
	b.figures.add("grown_ratio", rates[len(rates)-1]/rates[0])
	return nil
}

// timeGrown measures the time to callback at half of the smallest table's throughput, on
// the database whose throughput was just measured.
func (b *bench) timeGrown(ctx context.Context, d database, name string, rate, half float64) error {
	return b.onServer(ctx, ours, d, nil, func(s *server) error {
		told, err := b.runStorm(ctx, s, stormOrder{mix: "async=100", rate: half, length: b.plan.timingFor / 2})
		if err != nil {
			return err
		}
		b.say("  %4s finished requests: %6.0f/s, called back at %.0f/s p50 %6.2f ms p99 %6.2f ms",
			name, rate, half, told.Async.TimeToCallback.P50, told.Async.TimeToCallback.P99)
		b.figures.add("e2e_per_s_grown_"+name, rate)
		b.figures.add("ttc_p99_ms_grown_"+name, told.Async.TimeToCallback.P99)
		return nil
	})
}

// measureRetention asks whether removing old requests slows the service down. All
// that the table holds at first are too old, so it is removed as fast as it goes.
func (b *bench) measureRetention(ctx context.Context) error {
	if b.plan.swept == 0 {
		return b.leaveOut()
	}
	return b.onFresh(ctx, "swept", func(d database) error {
		if err := b.fill(ctx, d, b.plan.swept); err != nil {
			return err
		}
		return rounds(b.plan.repeat, func() error { return b.compareSwept(ctx, d) })
	})
}

func (b *bench) compareSwept(ctx context.Context, template database) error {
	var rates [2]float64
	for i, retention := range []string{"RETENTION=0", "RETENTION=1m"} {
		err := b.onCopy(ctx, "copy", template.Name, func(d database) error {
			used, err := b.saturate(ctx, ours, d, asyncBodies, retention)
			rates[i] = used.rate()
			return err
		})
		if err != nil {
			return fmt.Errorf("with %s: %w", retention, err)
		}
	}
	b.say("  keeping all %6.0f/s, removing %6.0f/s", rates[0], rates[1])
	b.figures.add("retention_ratio", rates[1]/rates[0])
	return nil
}
