package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// drainTimeout is how long callbacks may take to arrive after the last request.
const drainTimeout = time.Minute

// measureEndToEnd asks how many requests per second go all the way, from
// accepted to delivered, and what each of them costs. River alone works two
// jobs for each request, which is what ours need.
func (b *bench) measureEndToEnd(ctx context.Context) error {
	return rounds(b.plan.repeat, func() error {
		rates := map[variant]float64{}
		for _, v := range b.variants() {
			err := b.onFresh(ctx, "e2e", func(d database) error {
				used, err := b.saturate(ctx, v, d)
				rates[v] = used.rate()
				if err == nil {
					b.reportSaturation(v, used)
				}
				return err
			})
			if err != nil {
				return err
			}
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

// saturate keeps the window full and returns what happened while it was.
func (b *bench) saturate(ctx context.Context, v variant, d database, settings ...string) (used spent, err error) {
	return b.saturateWith(ctx, v, d, settings, func(url string) [][]byte { return [][]byte{asyncBody(url)} })
}

// saturateWith sends the bodies that are made for a callback URL in turn.
func (b *bench) saturateWith(ctx context.Context, v variant, d database, settings []string, bodies func(url string) [][]byte) (used spent, err error) {
	err = b.onServer(ctx, v, d, settings, func(s *server) error {
		used, err = b.deliverAll(ctx, d, s, b.plan.window, func(r *receiver) *load {
			return &load{target: s.url, path: "/async", bodies: bodies(r.url), connections: b.plan.senders}
		})
		return err
	})
	return used, err
}

// onServer runs do on a server of its own, with its default role.
func (b *bench) onServer(ctx context.Context, v variant, d database, settings []string, do func(*server) error) error {
	s, err := b.start(ctx, v, d, "all", settings...)
	if err != nil {
		return err
	}
	err = do(s)
	if !s.Running() {
		err = errors.Join(err, errors.New("the server ended while it was measured"))
	}
	return errors.Join(err, s.Stop())
}

// deliverAll runs a load within a window, and then waits for the callbacks of
// all that was accepted: a rate that is reached by losing some would be no rate.
func (b *bench) deliverAll(ctx context.Context, d database, s *server, window int, newLoad func(*receiver) *load) (spent, error) {
	slots, release := newWindow(window)
	receiver, err := startReceiver(receiverOf(s.variant), release)
	if err != nil {
		return spent{}, err
	}
	defer receiver.close()
	l := newLoad(receiver)
	l.window = slots
	used, err := b.steadily(ctx, d, s, l, receiver)
	if err != nil {
		return used, err
	}
	return used, errors.Join(l.check(), awaitDelivery(ctx, receiver, l.accepted.Load()))
}

// steadily runs a load and returns what was spent once it ran steadily.
func (b *bench) steadily(ctx context.Context, d database, s *server, l *load, r *receiver) (spent, error) {
	stop := l.start(ctx)
	defer stop()
	if err := l.fillWindow(ctx); err != nil {
		return spent{}, err
	}
	if !pause(ctx, b.plan.steadyWarmup) {
		return spent{}, ctx.Err()
	}
	return b.watch(ctx, d, s, func() (spent, bool) {
		accepted, delivered := l.accepted.Load(), r.delivered.Load()
		done := pause(ctx, b.plan.steadyFor)
		return spent{
			accepted:  float64(l.accepted.Load() - accepted),
			delivered: float64(r.delivered.Load() - delivered),
		}, done
	})
}

// awaitDelivery returns when all the requests were called back.
func awaitDelivery(ctx context.Context, r *receiver, accepted int64) error {
	deadline := time.Now().Add(drainTimeout)
	for r.delivered.Load() < accepted {
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d accepted requests were not called back within %v",
				accepted-r.delivered.Load(), accepted, drainTimeout)
		}
		if !pause(ctx, 10*time.Millisecond) {
			return ctx.Err()
		}
	}
	return nil
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
