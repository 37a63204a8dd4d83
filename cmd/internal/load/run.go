// Package load sends requests along a rate curve, in an open loop, or in a closed loop at
// saturation, receives their callbacks, and compares the two.
package load

import (
	"context"
	"runtime"
	"time"

	"ringback/cmd/internal/receivers"
)

// Run is one run of a load. In an open loop a request is sent on schedule whether or not
// earlier requests were answered, and its latency counts from the intended send time, so that
// a server that freezes can't hide that.
type Run struct {
	config        Config
	client        *client
	ledger        *ledger
	engine        *engine
	crowd         *crowd
	deterministic bool // as the service says of its work
	started       chan struct{}
}

// New returns a run whose receivers listen, once its target has said that it is healthy. An
// error is worded for the person who typed the command.
func New(ctx context.Context, config Config) (*Run, error) {
	client := newClient(config)
	if err := client.waitHealthy(ctx); err != nil {
		return nil, err
	}
	offers, err := client.offers()
	if err != nil {
		return nil, err
	}
	if config.Result != nil && config.Work == "" {
		if config.Work, err = offers.choose(config.ResultOf); err != nil {
			return nil, err
		}
		client.config.Work = config.Work
	}
	r, err := newRun(config, client)
	if err == nil && config.Result == nil && !config.Unread {
		r.deterministic = offers.isDeterministic(config.Work)
	}
	return r, err
}

func newRun(config Config, client *client) (*Run, error) {
	ledger := newLedger(config, config.total())
	crowd, err := newCrowd(ledger, config)
	if err != nil {
		return nil, err
	}
	return &Run{config: config, client: client, ledger: ledger, engine: newEngine(config, ledger), crowd: crowd, started: make(chan struct{})}, nil
}

// Findings are the results of a run.
type Findings struct {
	Report
	ledger *ledger
	measured
	lastSent time.Duration // when the last request was sent

	undelivered []*request // what became of them is not decided yet
}

// Started is closed when the first request is about to be sent.
func (r *Run) Started() <-chan struct{} { return r.started }

// ReceiverURL is where a receiver of the run listens, without a path.
func (r *Run) ReceiverURL(behaviour receivers.Behaviour) string {
	return r.crowd.receivers[behaviour].URL
}

// Close ends the receivers of a run.
func (r *Run) Close() { r.crowd.close() }

// Do sends, waits for the answers and then for outstanding callbacks, and returns the
// findings. Once ctx is done it sends nothing more. An error means that there is nothing
// to report. Do may be called once.
func (r *Run) Do(ctx context.Context) (*Findings, error) {
	r.client.warmUp()
	startedAt := time.Now()
	before, _ := usage()
	r.ledger.start = startedAt
	close(r.started)
	if err := r.engine.run(ctx, r.send); err != nil {
		return nil, err
	}
	r.drain()
	drained := r.ledger.now()
	r.ledger.close()
	after, _ := usage()

	found := r.summarize(after - before)
	found.StartedAt = startedAt.UTC()
	found.Interrupted = ctx.Err() != nil
	found.DrainS = max(0, drained-r.engine.ended).Seconds()
	return found, nil
}

func (r *Run) send(arrival arrival) answer {
	if !r.config.Mix.isAsync(arrival.number) {
		return r.client.call(arrival.number, "", "")
	}
	return r.client.call(arrival.number, r.crowd.url(arrival.number), r.config.orderingKey(arrival.number))
}

// drain waits for outstanding callbacks, when all requests have been answered.
func (r *Run) drain() {
	select {
	case <-r.ledger.allCalledBack():
	case <-time.After(r.config.Drain):
	}
}

// Threads is the best number of threads for a load: half of the cores are enough to send.
// Fewer threads wake each other less (a third less CPU a request on two cores), and the
// server is often on the same machine.
func Threads() int { return max(1, runtime.NumCPU()/2) }
