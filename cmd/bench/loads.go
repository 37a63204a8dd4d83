package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"time"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/receivers"
	"ringback/cmd/internal/sample"
)

const (
	drainTimeout = time.Minute     // how long callbacks may take to arrive after the last request
	queueTimeout = 5 * time.Minute // how long it may take to fill a queue, or to empty it

	// senders are the connections at saturation. With 64, our workers wait for the callers
	// (2.3k/s); 256 and 512 give the same (3.1k/s).
	senders = 256
	window  = 2000 // requests under way or outstanding, at saturation

	// stormWarmup is the longest time until a new receiver gets its full rate and its late
	// callbacks.
	stormWarmup = 12 * time.Second
)

// receiverOf is the receiver of a variant, which grants nothing. An earlier server may be slow
// to call such a receiver, so its receiver grants any rate.
func receiverOf(v variant) receivers.Behaviour {
	if v.name == before {
		return receivers.Granting
	}
	return receivers.OK
}

// atRate is a load of async requests along an open loop, with a text of 64 bytes.
func (s *measurement) atRate(on *server, rate float64) load.Config {
	config := sample.Config(on.URL, "text=64")
	config.Rate, config.Mix = max(1, math.Round(rate)), load.Mix{Async: 1}
	config.Warmup, config.Length, config.Drain = stormWarmup, stormWarmup+s.timed, drainTimeout
	return config
}

// unbounded is more requests than any closed loop makes in its time.
const unbounded = 1_000_000

// loop is a load of async requests within a window, in a closed loop, at the least cost
// for the load.
func (s *measurement) loop(on *server, requests, connections, window int) load.Config {
	config := s.atRate(on, 1)
	config.Requests, config.Connections, config.Window = requests, connections, window
	config.Unread, config.Secret, config.Timeout = true, "", 30*time.Second
	return config
}

// running is a load that is under way.
type running struct {
	*load.Run
	stop  func() // ends sending, not the wait for callbacks
	ended chan struct{}
	found *load.Findings
	err   error
}

// launch starts a load. An open loop has as few threads as storm, so that more of the machine
// is left to the server.
func (s *measurement) launch(config load.Config) *running {
	run, err := load.New(s.Ctx, config)
	s.Must(err)
	if config.Requests == 0 {
		threads := runtime.GOMAXPROCS(load.Threads())
		s.AtEnd(func() error { runtime.GOMAXPROCS(threads); return nil })
	}
	ctx, stop := context.WithCancel(s.Ctx)
	r := &running{Run: run, stop: stop, ended: make(chan struct{})}
	s.AtEnd(func() error { stop(); run.Close(); return nil })
	go func() {
		defer close(r.ended)
		r.found, r.err = run.Do(ctx)
	}()
	select {
	case <-run.Started():
	case <-r.ended:
	}
	return r
}

// now is the present state of the load.
func (r *running) now() load.Snapshot { return r.Snapshot(context.Background(), load.Snapshot{}) }

// wait returns the report once all acknowledged requests have been called back.
func (s *measurement) wait(r *running) *load.Report {
	<-r.ended
	s.Must(errors.Join(r.err, s.Ctx.Err()))
	s.Must(checkReport(&r.found.Report))
	return &r.found.Report
}

// send is a load from its start to its last callback.
func (s *measurement) send(config load.Config) *load.Report { return s.wait(s.launch(config)) }

// await returns when so many requests of a load were accepted.
func (s *measurement) await(r *running, accepted int) {
	s.until(fmt.Sprintf("%d accepted requests", accepted), func() bool { return r.now().Acked >= accepted })
}

// saturate keeps the window full and returns the usage meanwhile.
func (s *measurement) saturate(v variant, d database, keys int, settings ...string) (used usage) {
	s.scene("at saturation", func(s *measurement) {
		on := s.start(v, d, settings...)
		config := s.loop(on, unbounded, senders, window)
		config.Receivers, config.OrderingKeys = load.AllOf(receiverOf(v)), keys
		used = s.steadily(on, config, s.warmup, s.saturated)
	})
	return used
}

// steadily runs a closed loop and returns the usage after its warm-up. It waits until all
// accepted requests have been called back: a rate at which some are lost would be no rate.
func (s *measurement) steadily(on *server, config load.Config, warmup, length time.Duration) usage {
	running := s.launch(config)
	s.Pause(warmup)
	used := s.usageFor(length, on, running)
	running.stop()
	s.wait(running)
	return used
}

// checkReport returns an error if requests went wrong, so that the figures are worthless.
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
			wrong = errors.Join(wrong, fmt.Errorf("of %d requests %d were %s", r.Sync.Sent+r.Async.Sent, count, name))
		}
	}
	return wrong
}

// timeToCallback is the time to callback at a rate.
func (s *measurement) timeToCallback(on *server, rate float64) load.Quantiles {
	return s.sampled("time to a callback", s.send(s.atRate(on, rate)).Async.TimeToCallback)
}

// sampled returns quantiles, and ends the stage where nothing was measured: quantiles of no
// sample are 0, and would reach any goal.
func (s *measurement) sampled(name string, of load.Quantiles) load.Quantiles {
	if of.Count == 0 {
		s.Must(fmt.Errorf("not one %s was measured", name))
	}
	return of
}
