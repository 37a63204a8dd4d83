package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"ringback/cmd/internal/load"
)

// measureRates asks how long a request waits for its acknowledgement and for its
// callback, and at which cost, at rates that the service can keep up with.
func (b *bench) measureRates(ctx context.Context) error {
	return rounds(b.plan.stormRepeat, func() error {
		for _, rate := range b.plan.rates {
			err := b.onFreshServer(ctx, "rate", nil, func(d database, s *server) error { return b.timeAt(ctx, d, s, rate) })
			if err != nil {
				return fmt.Errorf("at %d/s: %w", rate, err)
			}
		}
		return nil
	})
}

func (b *bench) timeAt(ctx context.Context, d database, s *server, rate int) error {
	order := stormOrder{mix: "async=100", rate: float64(rate), length: b.plan.timingFor}
	var told *load.Report
	var used spent
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { told, err = b.runStorm(ctx, s, order); return err })
	group.Go(func() (err error) { used, err = b.watchMiddle(ctx, d, s, order); return err })
	if err := group.Wait(); err != nil {
		return err
	}
	b.reportRate(rate, told, used)
	return nil
}

// middleMargin is longer than storm's start, so that storm sends during the whole watch.
const middleMargin = 500 * time.Millisecond

// watchMiddle returns the usage while storm sends, after its warm-up. An open loop
// completes as many requests meanwhile as are due.
func (b *bench) watchMiddle(ctx context.Context, d database, s *server, order stormOrder) (spent, error) {
	if !load.Pause(ctx, stormWarmup+middleMargin) {
		return spent{}, ctx.Err()
	}
	used, err := b.watch(ctx, d, s, func() (spent, bool) { return spent{}, load.Pause(ctx, order.length-2*middleMargin) })
	used.accepted = order.rate * used.took.Seconds()
	return used, err
}

func (b *bench) reportRate(rate int, told *load.Report, used spent) {
	ack, callback := told.Async.Latency, told.Async.TimeToCallback
	server, postgres := used.cpuPerRequest(used.accepted)
	b.say("  %5d/s  acknowledged p50 %6.2f ms p99 %6.2f ms  called back p50 %6.2f ms p99 %6.2f ms  CPU %4.0f µs server, %4.0f µs Postgres",
		rate, ack.P50, ack.P99, callback.P50, callback.P99, server, postgres)
	at := fmt.Sprintf("_at_%d", rate)
	b.figures.add("ack_p50_ms"+at, ack.P50)
	b.figures.add("ack_p99_ms"+at, ack.P99)
	b.figures.add("ttc_p50_ms"+at, callback.P50)
	b.figures.add("ttc_p99_ms"+at, callback.P99)
	b.addCPU("cpu_us"+at, server, postgres)
}

// cpuPerRequest is in microseconds, 0 where it isn't known.
func (s spent) cpuPerRequest(requests float64) (server, postgres float64) {
	return float64(s.server.Microseconds()) / requests, float64(s.postgres.Microseconds()) / requests
}

// addCPU adds the sum of both, where both are known.
func (b *bench) addCPU(key string, server, postgres float64) {
	if server > 0 && b.cluster.postmaster != 0 {
		b.figures.add(key, server+postgres)
	}
}
