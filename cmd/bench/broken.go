package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/receivers"
)

// brokenReceivers take no callback. Each has the key of its ratio.
var brokenReceivers = []struct {
	key       string
	behaviour receivers.Behaviour
}{{"blackhole", receivers.Hang}, {"refusing", receivers.Refusing}, {"failing", receivers.Failing}}

// measureBroken asks how much longer callbacks to other receivers wait while thousands of
// callbacks to a broken receiver are queued, at a quarter of the rate at saturation.
func (b *bench) measureBroken(ctx context.Context) error {
	if b.plan.broken == 0 {
		return b.leaveOut()
	}
	half, err := b.halfRate(ctx)
	if err != nil {
		return err
	}
	return rounds(b.plan.stormRepeat, func() error {
		alone, err := b.timeBeside(ctx, half/2, "nobody", "")
		for _, broken := range brokenReceivers {
			err = errors.Join(err, b.timeBesideBroken(ctx, half/2, broken.key, broken.behaviour, alone))
		}
		return err
	})
}

func (b *bench) timeBesideBroken(ctx context.Context, rate float64, key string, behaviour receivers.Behaviour, alone float64) error {
	receiver, err := receivers.StartCounter(behaviour, nil)
	if err != nil {
		return err
	}
	defer receiver.Close()
	beside, err := b.timeBeside(ctx, rate, key, receiver.URL)
	if err == nil {
		b.figures.add(key+"_ratio", beside/alone)
	}
	return err
}

// timeBeside returns the p99 of the time to a callback, in milliseconds, while
// callbacks to url are queued, none if that is empty.
func (b *bench) timeBeside(ctx context.Context, rate float64, name, url string) (p99 float64, err error) {
	err = b.onFreshServer(ctx, "broken", nil, func(d database, s *server) error {
		if url != "" {
			if err := b.queueCallbacks(ctx, d, s, url); err != nil {
				return err
			}
		}
		told, err := b.runStorm(ctx, s, stormOrder{mix: "async=100", rate: rate, length: b.plan.timingFor})
		if err != nil {
			return err
		}
		after := told.Async.TimeToCallback
		p99 = after.P99
		b.say("  beside %-9s at %5.0f/s  p50 %6.2f ms  p95 %6.2f ms  p99 %6.2f ms", name, rate, after.P50, after.P95, after.P99)
		b.figures.add("ttc_p99_ms_beside_"+name, p99)
		return nil
	})
	return p99, err
}

// queueTimeout bounds the time to fill the queue before a measurement.
const queueTimeout = 5 * time.Minute

// queueCallbacks fills the queue with callbacks, and returns when the work of their
// requests is done.
func (b *bench) queueCallbacks(ctx context.Context, d database, s *server, url string) error {
	ctx, cancel := context.WithTimeout(ctx, queueTimeout)
	defer cancel()
	if err := newLoad(s, "/async", 64, asyncBody(url)).Accept(ctx, int64(b.plan.broken), queueTimeout); err != nil {
		return err
	}
	return d.Connect(ctx, func(conn *pgx.Conn) error {
		const sql = "SELECT NOT EXISTS (SELECT FROM requests WHERE status = 'accepted')"
		for done := false; !done; load.Pause(ctx, 50*time.Millisecond) {
			if err := conn.QueryRow(ctx, sql).Scan(&done); err != nil {
				return fmt.Errorf("waiting for the work of accepted requests: %w", err)
			}
		}
		return nil
	})
}
