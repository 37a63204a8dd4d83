package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// stormWarmup is as long as a new receiver may take to get its full rate, and to be
// rid of what was late until then.
const stormWarmup = 12 * time.Second

// measureTiming asks how long a request waits for its callback at half of what the
// service can do.
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
	var used spent
	err := b.onFresh(ctx, "e2e", func(d database) (err error) {
		used, err = b.saturate(ctx, ours, d)
		return err
	})
	return used.rate() / 2, err
}

func (b *bench) timeCallbacks(ctx context.Context, rate float64) error {
	return b.onFresh(ctx, "ttc", func(d database) error {
		return b.onServer(ctx, ours, d, nil, func(s *server) error {
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
	})
}

// stormOrder is what storm is asked for.
type stormOrder struct {
	mix    string
	rate   float64       // requests a second
	warmup time.Duration // before what is measured; stormWarmup when 0
	length time.Duration // of what is measured
	drain  time.Duration // how long callbacks may take after it; drainTimeout when 0
	work   string        // as -work takes it, the cheapest when empty
}

// stormReport is what of storm's report is used here.
type stormReport struct {
	Sync      stormEndpoint `json:"sync"`
	Async     stormCallback `json:"async"`
	Generator struct {
		Late quantiles `json:"late_ms"`
	} `json:"generator"`
}

type stormEndpoint struct {
	Sent      int       `json:"sent"`
	OK        int       `json:"ok"`
	Shed      int       `json:"shed"`
	Rejected  int       `json:"rejected"`
	Failed    int       `json:"failed"`
	Ambiguous int       `json:"ambiguous"`
	Unsent    int       `json:"unsent"`
	Latency   quantiles `json:"latency_ms"`
	Shedded   quantiles `json:"shed_ms"`
	Goodput   float64   `json:"goodput_per_s"`
}

type stormCallback struct {
	stormEndpoint
	Missing        int       `json:"missing"`
	TimeToCallback quantiles `json:"time_to_callback_ms"`
}

type quantiles struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50"`
	P95   float64 `json:"p95"`
	P99   float64 `json:"p99"`
}

// runStorm lets storm send along an open loop and waits until all that was
// acknowledged has been called back. Its exit status matters only where it left
// no report: what it finds wrong is told by the figures.
func (b *bench) runStorm(ctx context.Context, s *server, order stormOrder) (stormReport, error) {
	folder, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return stormReport{}, fmt.Errorf("making a folder for storm's report: %w", err)
	}
	defer os.RemoveAll(folder)
	report := filepath.Join(folder, "storm.json")
	work, warmup := cmp.Or(order.work, "text=64,rounds=0,delay=0s"), cmp.Or(order.warmup, stormWarmup)
	command := exec.CommandContext(ctx, b.storm, "-target", s.url, "-json", report, "-profile", "steady",
		"-mix", order.mix, "-rate", fmt.Sprintf("%.0f", max(1, order.rate)), "-duration", (warmup + order.length).String(),
		"-warmup", warmup.String(), "-work", work, "-drain", cmp.Or(order.drain, drainTimeout).String(),
		"-receivers", string(defaultReceiver)+"=1")
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	command.WaitDelay = 5 * time.Second
	output, failed := command.CombinedOutput()
	content, err := os.ReadFile(report)
	if err != nil {
		return stormReport{}, fmt.Errorf("running storm: %w: %s", errors.Join(ctx.Err(), failed), output)
	}
	var told stormReport
	if err := json.Unmarshal(content, &told); err != nil {
		return stormReport{}, fmt.Errorf("reading storm's report: %w", err)
	}
	return told, errors.Join(ctx.Err(), told.check())
}

// check returns an error for what would make the figures worthless.
func (r stormReport) check() error {
	var wrong error
	for name, count := range map[string]int{
		"not called back":      r.Async.Missing,
		"rejected":             r.Sync.Rejected + r.Async.Rejected,
		"failed":               r.Sync.Failed + r.Async.Failed,
		"lost on the way":      r.Sync.Ambiguous + r.Async.Ambiguous,
		"not sent in due time": r.Sync.Unsent + r.Async.Unsent,
	} {
		if count > 0 {
			wrong = errors.Join(wrong, fmt.Errorf("of storm's %d requests %d were %s", r.Sync.Sent+r.Async.Sent, count, name))
		}
	}
	return wrong
}
