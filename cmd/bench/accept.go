package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/program"
	"ringback/cmd/internal/sample"
)

// measureAccept asks how many POST /async a server acknowledges per second. No
// workers compete for the machine: the servers have the role api.
func (b *bench) measureAccept(ctx context.Context) error {
	return rounds(b.plan.repeat, func() error {
		for _, connections := range b.plan.connections {
			if err := b.accept(ctx, connections); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *bench) accept(ctx context.Context, connections int) error {
	return b.onFresh(ctx, "accept", func(d database) error {
		s, err := b.start(ctx, ours, d, "api")
		if err != nil {
			return err
		}
		l := newLoad(s, "/async", connections, asyncBody("http://127.0.0.1:9/callback"))
		used, err := b.during(ctx, d, s, l)
		if err := errors.Join(err, s.Stop(), l.Check()); err != nil {
			return err
		}
		rate, latency := used.accepted/used.took.Seconds(), l.Latency()
		b.say("  %3d connections  %8.0f/s  p50 %6.2f ms  p99 %6.2f ms", connections, rate, latency.P50, latency.P99)
		b.figures.add(fmt.Sprintf("accept_per_s_%d", connections), rate)
		b.figures.add(fmt.Sprintf("accept_p99_ms_%d", connections), latency.P99)
		return nil
	})
}

func newLoad(s *server, path string, connections int, bodies ...[]byte) *load.Closed {
	return &load.Closed{URL: s.URL + path, Connections: connections, Bodies: bodies}
}

// asyncBody is a small request: 64 bytes of text.
func asyncBody(callbackURL string) []byte {
	return encodeBody(sample.Input(strings.Repeat("ringback", 8), 0, 0), callbackURL, "")
}

// encodeBody leaves out empty fields.
func encodeBody(input jsontext.Value, callbackURL, orderingKey string) []byte {
	encoded, err := json.Marshal(struct {
		Input       json.RawMessage `json:"input"`
		CallbackURL string          `json:"callback_url,omitempty"`
		OrderingKey string          `json:"ordering_key,omitempty"`
	}{json.RawMessage(input), callbackURL, orderingKey})
	if err != nil {
		panic(err) // strings, and JSON
	}
	return encoded
}

// usage is the resources used up to a moment, or between two moments.
type usage struct {
	statements float64       // statements ended in the database, River's included
	brackets   float64       // BEGIN, COMMIT and ROLLBACK
	wal        float64       // bytes, of the whole cluster
	postgres   time.Duration // CPU of all its processes, ended processes included
	server     time.Duration // CPU of the server
	self       time.Duration // CPU of load and receiver, which are here
}

// since is the usage since an earlier moment.
func (u usage) since(before usage) usage {
	return usage{
		u.statements - before.statements, u.brackets - before.brackets, u.wal - before.wal,
		u.postgres - before.postgres, u.server - before.server, u.self - before.self,
	}
}

// spent is the requests and the usage of a span of time.
type spent struct {
	usage
	took      time.Duration
	accepted  float64 // requests
	delivered float64 // requests; only where there is a receiver
}

// rate is requests delivered per second.
func (s spent) rate() float64 { return s.delivered / s.took.Seconds() }

// during runs a load and returns the usage between the end of the warm-up and the end of
// the given time.
func (b *bench) during(ctx context.Context, d database, s *server, l *load.Closed) (spent, error) {
	stop := l.Start(ctx)
	defer stop()
	if !load.Pause(ctx, b.plan.acceptWarmup) {
		return spent{}, ctx.Err()
	}
	return b.watch(ctx, d, s, func() (spent, bool) {
		before := l.Accepted.Load()
		l.Measuring.Store(true)
		done := load.Pause(ctx, b.plan.acceptFor)
		l.Measuring.Store(false)
		return spent{accepted: float64(l.Accepted.Load() - before)}, done
	})
}

// watch adds the usage meanwhile to the result of span.
func (b *bench) watch(ctx context.Context, d database, s *server, span func() (counted spent, done bool)) (spent, error) {
	before, err := b.readUsage(ctx, d, s)
	if err != nil {
		return spent{}, err
	}
	start := time.Now()
	used, done := span()
	used.took = time.Since(start)
	if !done {
		return spent{}, ctx.Err()
	}
	after, err := b.readUsage(ctx, d, s)
	used.usage = after.since(before)
	return used, err
}

func (b *bench) readUsage(ctx context.Context, d database, s *server) (usage, error) {
	used, err := b.cluster.read(ctx, d)
	used.server, used.self = ownCPU(s.Pid()), ownCPU(os.Getpid())
	return used, err
}

func ownCPU(pid int) time.Duration {
	process, _ := program.ReadProcess(pid)
	return process.Own
}
