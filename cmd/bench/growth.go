package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// measureGrowth asks whether a table full of finished requests slows the
// service down.
func (b *bench) measureGrowth(ctx context.Context) error {
	if len(b.plan.grown) == 0 {
		b.say("  left out")
		return nil
	}
	grown, err := b.growAll(ctx)
	if err == nil {
		repetition := 0
		err = rounds(b.plan.repeat, func() error {
			repetition++
			return b.compareGrown(ctx, grown, repetition)
		})
	}
	for _, d := range grown {
		err = errors.Join(err, b.cluster.drop(ctx, d))
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
	receiver, err := startReceiver(defaultReceiver, nil)
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

func (b *bench) compareGrown(ctx context.Context, grown []database, repetition int) error {
	rates := make([]float64, len(grown))
	for i, d := range grown {
		name := rowsName(b.plan.grown[i])
		measure := func(d database) error {
			vacuum, err := b.cluster.watchVacuum(ctx, d, func() error {
				used, err := b.saturate(ctx, ours, d)
				if err != nil {
					return err
				}
				rates[i] = used.rate()
				return b.timeGrown(ctx, d, name, rates[i], rates[0]/2)
			})
			b.reportVacuum(name, repetition, vacuum)
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

// reportVacuum helps to judge a repetition: a vacuum of millions of rows takes a
// core while it runs.
func (b *bench) reportVacuum(name string, repetition int, vacuum *vacuumWatch) {
	if b.cluster.postmaster == 0 {
		return
	}
	fmt.Fprintf(b.log, "  %4s finished requests, repetition %d: autovacuum took %.1f s of CPU (%s)\n",
		name, repetition, vacuum.total().Seconds(), vacuum)
	b.figures.add("autovacuum_cpu_s_grown_"+name, vacuum.total().Seconds())
}

// timeGrown measures the time to callback at half of what the smallest table
// allows, on the database whose throughput was just measured.
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
