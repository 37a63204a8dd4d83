package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/receivers"
	"ringback/cmd/internal/sample"
)

const (
	drainTimeout = time.Minute     // how long callbacks may take to arrive after the last request
	queueTimeout = 5 * time.Minute // how long it may take to fill a queue, or to empty it
	fillTimeout  = 3 * time.Second // how long the window of a closed loop may take to fill

	// senders are the connections at saturation. With 64 our workers are as fast as
	// the callers and wait for them (2.3k/s); 256 and 512 give the same (3.1k/s).
	senders = 256
	window  = 2000 // requests accepted and not yet called back, at saturation

	// stormWarmup is the longest time until a new receiver gets its full rate and its late
	// callbacks.
	stormWarmup = 12 * time.Second
)

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

// closed returns a closed loop.
func (s *stage) closed(behaviour receivers.Behaviour, connections, window int) *load.Closed {
	l, err := load.NewClosed(behaviour, connections, window)
	s.must(err)
	s.atEnd(func() error { l.Close(); return nil })
	return l
}

// receiverOf is the receiver of a variant: it knows POST alone. An earlier server may be
// slow to call a receiver that grants nothing.
func receiverOf(v variant) receivers.Behaviour {
	if v.name == before {
		return receivers.Granting
	}
	return receivers.OK
}

// bodies makes the bodies for a callback URL, which are sent in turn.
type bodies func(url string) [][]byte

func asyncBodies(url string) [][]byte { return [][]byte{asyncBody(url)} }

// saturate keeps the window full and returns the usage meanwhile.
func (s *stage) saturate(v variant, d database, bodies bodies, settings ...string) (used usage) {
	s.scene("at saturation", func(s *stage) {
		on := s.start(v, d, settings...)
		used = s.deliverAll(on, s.closed(receiverOf(v), senders, window), bodies)
	})
	return used
}

// deliverAll runs a load and returns the usage once it runs steadily. Then it waits for
// the callbacks of all that was accepted.
func (s *stage) deliverAll(on *server, l *load.Closed, bodies bodies) usage {
	used := s.steadily(on, l, s.warmup, s.saturated, "/async", bodies(l.URL)...)
	s.must(l.Await(s.ctx, drainTimeout))
	return used
}

// steadily runs a load on a path, and returns the usage after its warm-up.
func (s *stage) steadily(on *server, l *load.Closed, warmup, length time.Duration, path string, bodies ...[]byte) (used usage) {
	stop := l.Start(s.ctx, on.URL+path, bodies...)
	defer stop()
	s.must(l.FillWindow(s.ctx, fillTimeout))
	s.pause(warmup)
	used, err := s.usageFor(s.ctx, length, on, l)
	s.must(errors.Join(err, l.Check()))
	return used
}

// atRate is a load of async requests along an open loop, with the cheapest work.
func (s *stage) atRate(on *server, rate float64) load.Config {
	config := load.Defaults()
	config.Target, config.Rate, config.Mix = on.URL, max(1, math.Round(rate)), load.Mix{Async: 100}
	config.Warmup, config.Length, config.Drain = stormWarmup, stormWarmup+s.timed, drainTimeout
	config.Secret, config.Result = receivers.LocalSecret, sample.Result
	s.setWork(&config, sample.Work(64, 0, 0))
	return config
}

func (s *stage) setWork(config *load.Config, work string) {
	var err error
	config.Input, err = sample.Pattern(work)
	s.must(err)
}

// send sends along an open loop and waits until all acknowledged requests have been called
// back.
func (s *stage) send(config load.Config) *load.Report {
	run, err := load.New(s.ctx, config)
	s.must(err)
	return s.do(run, nil)
}

// do has as few threads as storm, which leave more of the machine to the server.
func (s *stage) do(run *load.Run, watch load.Watch) *load.Report {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(load.Threads()))
	found, err := run.Do(s.ctx, watch)
	s.must(err)
	s.must(errors.Join(s.ctx.Err(), checkReport(&found.Report)))
	return &found.Report
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
			wrong = errors.Join(wrong, fmt.Errorf("of %d requests %d were %s", r.Sync.Sent+r.Async.Sent, count, name))
		}
	}
	return wrong
}

// timeToCallback is the time to callback at a rate.
func (s *stage) timeToCallback(on *server, rate float64) load.Quantiles {
	return s.send(s.atRate(on, rate)).Async.TimeToCallback
}
