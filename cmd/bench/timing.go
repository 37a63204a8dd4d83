package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/sample"
)

// stormWarmup is the longest time until a new receiver gets its full rate and its late
// callbacks.
const stormWarmup = 12 * time.Second

// measureTiming asks how long a request waits for its callback at half of the rate at
// saturation.
func (b *bench) measureTiming(ctx context.Context) error {
	half, err := b.halfRate(ctx)
	if err != nil {
		return err
	}
	return rounds(b.plan.stormRepeat, func() error { return b.timeCallbacks(ctx, half) })
}

// halfRate is half of the rate at saturation, which is measured first where it
// isn't known yet.
func (b *bench) halfRate(ctx context.Context) (float64, error) {
	if known := b.figures["e2e_per_s"]; len(known) > 0 {
		return median(known) / 2, nil
	}
	used, err := b.saturateFresh(ctx, ours)
	return used.rate() / 2, err
}

func (b *bench) timeCallbacks(ctx context.Context, rate float64) error {
	return b.onFreshServer(ctx, "ttc", nil, func(_ database, s *server) error {
		told, err := b.runStorm(ctx, s, stormOrder{mix: "async=100", rate: rate, length: b.plan.timingFor})
		if err != nil {
			return err
		}
		after := told.Async.TimeToCallback
		b.say("  called back at  %5.0f/s  p50 %6.2f ms  p95 %6.2f ms  p99 %6.2f ms", rate, after.P50, after.P95, after.P99)
		b.figures.add("ttc_rate_per_s", rate)
		b.figures.add("ttc_p50_ms", after.P50)
		b.figures.add("ttc_p95_ms", after.P95)
		b.figures.add("ttc_p99_ms", after.P99)
		return nil
	})
}

// stormOrder is the load that storm makes.
type stormOrder struct {
	mix    string
	rate   float64       // requests a second
	warmup time.Duration // before the measurement; stormWarmup when 0
	length time.Duration // of the measurement
	drain  time.Duration // how long callbacks may take after it; drainTimeout when 0
	work   string        // as -work takes it, the cheapest when empty
}

// runStorm lets storm send along an open loop and waits until all acknowledged requests
// have been called back. Storm is a separate process, so that its CPU is measured apart,
// and it tunes its runtime for sending. Its exit status matters only where it left no
// report: the figures tell its findings.
func (b *bench) runStorm(ctx context.Context, s *server, order stormOrder) (*load.Report, error) {
	warmup := cmp.Or(order.warmup, stormWarmup)
	command := exec.CommandContext(ctx, b.storm, "-target", s.URL, "-json", "-", "-profile", "steady",
		"-mix", order.mix, "-rate", fmt.Sprintf("%.0f", max(1, order.rate)), "-duration", (warmup + order.length).String(),
		"-warmup", warmup.String(), "-work", cmp.Or(order.work, sample.Work(64, 0, 0)),
		"-drain", cmp.Or(order.drain, drainTimeout).String(), "-receivers", load.AllOf(defaultReceiver).String())
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	command.WaitDelay = 5 * time.Second
	var said bytes.Buffer
	command.Stderr = &said
	output, failed := command.Output()
	told, err := load.ReadReport(output)
	if err != nil {
		return nil, fmt.Errorf("running storm: %w: %s", errors.Join(ctx.Err(), failed, err), said.Bytes())
	}
	return told, errors.Join(ctx.Err(), checkReport(told))
}

// checkReport returns an error for a report that would make the figures worthless.
func checkReport(r *load.Report) error {
	var wrong error
	for name, count := range map[string]int{
		"not called back":      r.Async.Missing,
		"rejected":             r.Sync.Rejected + r.Async.Rejected,
		"failed":               r.Sync.Failed + r.Async.Failed,
		"lost on the way":      r.Sync.Ambiguous + r.Async.Ambiguous,
		"not sent in due time": r.Unsent(),
	} {
		if count > 0 {
			wrong = errors.Join(wrong, fmt.Errorf("of storm's %d requests %d were %s", r.Sync.Sent+r.Async.Sent, count, name))
		}
	}
	return wrong
}
