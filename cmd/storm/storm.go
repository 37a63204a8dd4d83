package main

import (
	"context"
	"io"
	"time"

	"github.com/valyala/fasthttp"
)

// storm is one run.
type storm struct {
	config   config
	schedule schedule
	client   *fasthttp.HostClient
	author   *author
	ledger   *ledger
	engine   *engine
	receiver *receiver
}

// newStorm returns a run whose receiver listens. The error means that
// callbacks can't be received here.
func newStorm(config config, client *fasthttp.HostClient) (*storm, error) {
	schedule := newSchedule(config)
	ledger := newLedger(config, schedule.total())
	secret, err := config.webhook()
	if err != nil {
		return nil, err
	}
	receiver, err := newReceiver(ledger, config.receivers, secret)
	if err != nil {
		return nil, err
	}
	return &storm{
		config:   config,
		schedule: schedule,
		client:   client,
		author:   newAuthor(config.workload()),
		ledger:   ledger,
		engine:   newEngine(config, schedule, ledger),
		receiver: receiver,
	}, nil
}

// findings is what a run found out.
type findings struct {
	report
	timeline     *timeline
	distribution distribution
}

// run sends, waits for the answers, then for the callbacks still due, and
// returns what happened. Once ctx is done it sends nothing more. Its error
// means that there is nothing to report.
func (s *storm) run(ctx context.Context, progress io.Writer) (*findings, error) {
	warmUp(s.client, s.config)
	startedAt, before := time.Now(), usage()
	s.ledger.clock = clock{startedAt}
	s.receiver.serve()
	defer s.receiver.close()
	stopProgress := s.startProgress(ctx, progress)
	defer stopProgress()

	if err := s.engine.run(ctx, s.senders()); err != nil {
		return nil, err
	}
	s.drain()
	drained := s.ledger.clock.now()
	s.ledger.close()
	s.receiver.close()
	used := usage().since(before)
	stopProgress()

	found := s.summarize(used)
	found.StartedAt = startedAt.UTC()
	found.Interrupted = ctx.Err() != nil
	found.DrainS = max(0, drained-s.engine.ended).Seconds()
	return found, nil
}

// senders are the workers of the engine.
func (s *storm) senders() []sender {
	senders := make([]sender, s.config.connections)
	for i := range senders {
		caller := newCaller(s.client, s.author, s.config)
		senders[i] = func(arrival arrival) answer { return s.send(caller, arrival) }
	}
	return senders
}

func (s *storm) send(caller *caller, arrival arrival) answer {
	if !s.ledger.mix.isAsync(arrival.number) {
		return caller.callSync(arrival.number)
	}
	slot := s.ledger.mix.asyncs(arrival.number)
	s.ledger.expect(slot, arrival.at)
	return caller.callAsync(arrival.number, func(to []byte) []byte {
		return s.receiver.appendURL(to, slot)
	}, s.config.orderingKey(slot))
}

// drain waits until nothing is due any more, but not longer than configured.
// All requests have been answered by then.
func (s *storm) drain() {
	select {
	case <-s.ledger.allSettled():
	case <-time.After(s.config.drain):
	}
}
