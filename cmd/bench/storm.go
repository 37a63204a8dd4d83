package main

import (
	"context"
	"fmt"
	"time"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/program"
	"ringback/cmd/internal/sample"
)

// The two cores are shared with storm, so a storm of five times the cores' capacity would
// measure storm. Here the service's own limits set its capacity: runs at a time that take
// 20 ms each, most of it waiting.
const (
	stormWorks      = 8 // runs at a time: 400 a second at most
	stormDelay      = 20 * time.Millisecond
	stormRounds     = 200
	stormUnfinished = 1000 // async requests accepted and not finished
)

// stormSettings are these limits, by the names of the server's settings. The server
// ignores settings that it doesn't know.
func stormSettings() []string {
	return []string{
		fmt.Sprintf("WORK_LIMIT=%d", stormWorks),
		fmt.Sprintf("UNFINISHED_LIMIT=%d", stormUnfinished),
	}
}

func stormBody(callbackURL string) []byte {
	return encodeBody(sample.Input("storm", stormRounds, stormDelay), callbackURL, "")
}

// mode is one of the service's two calls.
type mode string

const (
	syncMode  mode = "sync"
	asyncMode mode = "async"
)

// measureStorm asks how the service does above its capacity: goodput, the latency of
// served and of refused requests, and memory.
func (b *bench) measureStorm(ctx context.Context) error {
	b.say("  capacity set by %d runs of %s at a time", stormWorks, stormDelay)
	err := rounds(b.plan.stormRepeat, func() error {
		for _, m := range []mode{syncMode, asyncMode} {
			err := b.onFreshServer(ctx, "storm", stormSettings(), func(d database, s *server) error {
				return b.stormServer(ctx, m, d, s)
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	for _, multiple := range b.plan.storms {
		for _, key := range []string{"served_p99_ms", "refused_p99_ms", "rss_mib"} {
			b.figures.addWorse(fmt.Sprintf("%s_%dx", key, multiple), "_"+string(syncMode), "_"+string(asyncMode))
		}
	}
	return err
}

func (b *bench) stormServer(ctx context.Context, m mode, d database, s *server) error {
	capacity, err := b.capacity(ctx, m, d, s)
	if err != nil {
		return fmt.Errorf("finding the capacity: %w", err)
	}
	b.figures.add(fmt.Sprintf("capacity_%s_per_s", m), capacity)
	for _, multiple := range b.plan.storms {
		told, err := b.runStorm(ctx, s, stormOrder{
			mix: string(m) + "=100", rate: capacity * float64(multiple), length: b.plan.stormFor,
			work: sample.Work(64, stormRounds, stormDelay),
		})
		if err != nil {
			return fmt.Errorf("%s at %d × capacity: %w", m, multiple, err)
		}
		endpoint := told.Sync
		if m == asyncMode {
			endpoint = told.Async.Endpoint
		}
		b.reportStorm(m, multiple, capacity, endpoint, program.PeakMemory(s.Pid())/(1<<20))
	}
	return nil
}

// capacity is the goodput of a closed loop that keeps all slots taken and hardly any
// request waiting.
func (b *bench) capacity(ctx context.Context, m mode, d database, s *server) (float64, error) {
	if m == asyncMode {
		used, err := b.deliverAll(ctx, d, s, 8*stormWorks, 2*stormWorks, func(url string) [][]byte { return [][]byte{stormBody(url)} })
		return used.rate(), err
	}
	l := newLoad(s, "/sync", stormWorks*3/2, stormBody(""))
	used, err := b.during(ctx, d, s, l)
	if err != nil {
		return 0, err
	}
	return used.accepted / used.took.Seconds(), l.Check()
}

func (b *bench) reportStorm(m mode, multiple int, capacity float64, e load.Endpoint, memory float64) {
	b.say("  %-5s %d × %4.0f/s: goodput %4.0f/s (%3.0f %%)  served p50 %6.2f p99 %7.2f ms  refused %6d p99 %6.2f ms  memory %4.0f MiB",
		m, multiple, capacity, e.Goodput, 100*e.Goodput/capacity, e.Latency.P50, e.Latency.P99, e.Shed, e.Shedded.P99, memory)
	keys := fmt.Sprintf("_%dx_%s", multiple, m)
	b.figures.add("goodput_ratio"+keys, e.Goodput/capacity)
	b.figures.add("served_p50_ms"+keys, e.Latency.P50)
	b.figures.add("served_p99_ms"+keys, e.Latency.P99)
	b.figures.add("rss_mib"+keys, memory)
	if e.Shedded.Count > 0 {
		b.figures.add("refused_p99_ms"+keys, e.Shedded.P99)
	}
}
