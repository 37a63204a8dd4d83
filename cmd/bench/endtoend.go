package main

import (
	"context"
	"errors"
	"time"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/receivers"
)

// drainTimeout is how long callbacks may take to arrive after the last request.
const drainTimeout = time.Minute

// defaultReceiver is the receiver of all measurements, and storm's: it knows POST alone.
const defaultReceiver = receivers.OK

// receiverOf is the receiver of a variant. An earlier server may be slow to call a
// receiver that grants nothing.
func receiverOf(v variant) receivers.Behaviour {
	if v == before {
		return receivers.Granting
	}
	return defaultReceiver
}

// measureEndToEnd asks how many requests per second go all the way, from accepted to
// delivered, and at which cost each. River alone works two jobs for each request, as many
// as Ringback.
func (b *bench) measureEndToEnd(ctx context.Context) error {
	return rounds(b.plan.repeat, func() error {
		rates := map[variant]float64{}
		for _, v := range b.variants() {
			used, err := b.saturateFresh(ctx, v)
			if err != nil {
				return err
			}
			rates[v] = used.rate()
			b.reportSaturation(v, used)
		}
		alone, err := b.riverAlone(ctx)
		if err != nil {
			return err
		}
		b.figures.add("e2e_ratio_river", rates[ours]/alone)
		if b.before != "" {
			b.figures.add("e2e_ratio_before", rates[ours]/rates[before])
		}
		return nil
	})
}

func (b *bench) variants() []variant {
	if b.before == "" {
		return []variant{ours}
	}
	return []variant{ours, before}
}

func (b *bench) saturateFresh(ctx context.Context, v variant) (used spent, err error) {
	err = b.onFresh(ctx, "e2e", func(d database) error {
		used, err = b.saturate(ctx, v, d, asyncBodies)
		return err
	})
	return used, err
}

// bodies makes the bodies for a callback URL, which are sent in turn.
type bodies func(url string) [][]byte

func asyncBodies(url string) [][]byte { return [][]byte{asyncBody(url)} }

// saturate keeps the window full and returns the usage meanwhile.
func (b *bench) saturate(ctx context.Context, v variant, d database, bodies bodies, settings ...string) (used spent, err error) {
	err = b.onServer(ctx, v, d, settings, func(s *server) error {
		used, err = b.deliverAll(ctx, d, s, b.plan.window, b.plan.senders, bodies)
		return err
	})
	return used, err
}

// deliverAll runs a load within a window, and then waits for the callbacks of
// all that was accepted: a rate that is reached by losing some would be no rate.
func (b *bench) deliverAll(ctx context.Context, d database, s *server, window, connections int, bodies bodies) (spent, error) {
	slots, release := load.NewWindow(window)
	receiver, err := receivers.StartCounter(receiverOf(s.variant), release)
	if err != nil {
		return spent{}, err
	}
	defer receiver.Close()
	l := newLoad(s, "/async", connections, bodies(receiver.URL)...)
	l.Window = slots
	used, err := b.steadily(ctx, d, s, l, receiver)
	if err != nil {
		return used, err
	}
	return used, errors.Join(l.Check(), receiver.Await(ctx, l.Accepted.Load(), drainTimeout))
}

// fillTimeout is how long the window may take to fill.
const fillTimeout = 3 * time.Second

// steadily runs a load and returns the usage once it runs steadily.
func (b *bench) steadily(ctx context.Context, d database, s *server, l *load.Closed, r *receivers.Counter) (spent, error) {
	stop := l.Start(ctx)
	defer stop()
	if err := l.FillWindow(ctx, fillTimeout); err != nil {
		return spent{}, err
	}
	if !load.Pause(ctx, b.plan.steadyWarmup) {
		return spent{}, ctx.Err()
	}
	return b.watch(ctx, d, s, func() (spent, bool) {
		accepted, delivered := l.Accepted.Load(), r.Delivered.Load()
		done := load.Pause(ctx, b.plan.steadyFor)
		return spent{
			accepted:  float64(l.Accepted.Load() - accepted),
			delivered: float64(r.Delivered.Load() - delivered),
		}, done
	})
}

func (b *bench) reportSaturation(v variant, used spent) {
	n := used.delivered
	server, postgres := used.cpuPerRequest(n)
	self := float64(used.self.Microseconds()) / n
	b.say("  %-6s %8.0f/s  per request: %5.2f statements and %4.2f BEGIN, COMMIT; %6.0f B of WAL; CPU %4.0f µs server, %4.0f µs Postgres, %3.0f µs here",
		v, used.rate(), used.statements/n, used.brackets/n, used.wal/n, server, postgres, self)
	suffix := suffixOf(v)
	b.figures.add("e2e_per_s"+suffix, used.rate())
	b.figures.add("sql_per_request"+suffix, used.statements/n)
	b.figures.add("sql_brackets_per_request"+suffix, used.brackets/n)
	b.figures.add("wal_bytes_per_request"+suffix, used.wal/n)
	if used.server > 0 {
		b.figures.add("cpu_us_per_request_server"+suffix, server)
		b.figures.add("cpu_us_per_request_generator"+suffix, self)
	}
	if used.server > 0 && b.cluster.postmaster != 0 {
		b.figures.add("cpu_us_per_request_postgres"+suffix, postgres)
	}
	b.addCPU("cpu_us_per_request"+suffix, server, postgres)
	b.addCPU("cpu_us_at_saturation"+suffix, server, postgres)
}

// suffixOf is the suffix of a variant's keys.
func suffixOf(v variant) string {
	if v == ours {
		return ""
	}
	return "_" + string(v)
}
