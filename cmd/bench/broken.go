package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/valyala/fasthttp"

	"ringback/cmd/internal/program"
)

// brokenReceiver is a receiver that takes no callback.
type brokenReceiver struct {
	key   string // of its ratio
	start func() (url string, stop func(), err error)
}

func brokenReceivers() []brokenReceiver {
	return []brokenReceiver{{"blackhole", startBlackHole}, {"refusing", startRefusing}, {"failing", startFailing}}
}

// startBlackHole takes connections and never answers.
func startBlackHole() (url string, stop func(), err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, fmt.Errorf("listening for callbacks: %w", err)
	}
	closing := make(chan struct{})
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				<-closing
				conn.Close()
			}()
		}
	}()
	return "http://" + listener.Addr().String() + "/callback", func() {
		listener.Close()
		close(closing)
	}, nil
}

// startRefusing names a port where nobody listens.
func startRefusing() (url string, stop func(), err error) {
	address, err := program.FreeAddress()
	return "http://" + address + "/callback", func() {}, err
}

// startFailing answers 500 to everything.
func startFailing() (url string, stop func(), err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, fmt.Errorf("listening for callbacks: %w", err)
	}
	server := &fasthttp.Server{Handler: func(c *fasthttp.RequestCtx) { c.SetStatusCode(fasthttp.StatusInternalServerError) }}
	go server.Serve(listener) //nolint:errcheck // it ends when stop is called
	return "http://" + listener.Addr().String() + "/callback", func() { _ = server.Shutdown() }, nil
}

// measureBroken asks how much longer others wait for their callbacks while
// thousands of callbacks to one broken receiver are queued, at a quarter of the
// rate at saturation.
func (b *bench) measureBroken(ctx context.Context) error {
	if b.plan.broken == 0 {
		b.say("  left out")
		return nil
	}
	half, err := b.halfRate(ctx)
	if err != nil {
		return err
	}
	return rounds(b.plan.stormRepeat, func() error {
		alone, err := b.timeBeside(ctx, half/2, "nobody", "")
		for _, receiver := range brokenReceivers() {
			err = errors.Join(err, b.timeBesideBroken(ctx, half/2, receiver, alone))
		}
		return err
	})
}

func (b *bench) timeBesideBroken(ctx context.Context, rate float64, receiver brokenReceiver, alone float64) error {
	url, stop, err := receiver.start()
	if err != nil {
		return err
	}
	defer stop()
	beside, err := b.timeBeside(ctx, rate, receiver.key, url)
	if err == nil {
		b.figures.add(receiver.key+"_ratio", beside/alone)
	}
	return err
}

// timeBeside returns the p99 of the time to a callback, in milliseconds, while
// callbacks to url are queued, none if that is empty.
func (b *bench) timeBeside(ctx context.Context, rate float64, name, url string) (p99 float64, err error) {
	err = b.onFresh(ctx, "broken", func(d database) error {
		return b.onServer(ctx, ours, d, nil, func(s *server) error {
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
	})
	return p99, err
}

// queueTimeout is how long it may take to queue the callbacks to a broken receiver.
const queueTimeout = 5 * time.Minute

// queueCallbacks has so many requests accepted, and returns when their work is
// done.
func (b *bench) queueCallbacks(ctx context.Context, d database, s *server, url string) error {
	l := &load{target: s.url, path: "/async", body: asyncBody(url), connections: 64}
	stop := l.start(ctx)
	ctx, cancel := context.WithTimeout(ctx, queueTimeout)
	defer cancel()
	for l.accepted.Load() < int64(b.plan.broken) && l.failed.Load() == 0 && pause(ctx, 10*time.Millisecond) {
	}
	stop()
	if err := errors.Join(ctx.Err(), l.check()); err != nil {
		return err
	}
	return d.connect(ctx, func(conn *pgx.Conn) error {
		const sql = "SELECT NOT EXISTS (SELECT FROM requests WHERE status = 'accepted')"
		for done := false; !done; {
			if err := conn.QueryRow(ctx, sql).Scan(&done); err != nil {
				return fmt.Errorf("waiting for the work of what was accepted: %w", err)
			}
			pause(ctx, 50*time.Millisecond)
		}
		return nil
	})
}
