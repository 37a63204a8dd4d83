package main

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

// storm is one run.
type storm struct {
	config   config
	schedule schedule
	client   *fasthttp.HostClient
	author   *author
	callers  sync.Pool // of *caller
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
	author := newAuthor(config.workload())
	return &storm{
		config:   config,
		schedule: schedule,
		client:   client,
		author:   author,
		callers:  sync.Pool{New: func() any { return newCaller(client, author, config) }},
		ledger:   ledger,
		engine:   newEngine(config, schedule, ledger),
		receiver: receiver,
	}, nil
}

// findings is what a run found out.
type findings struct {
	report
	ledger *ledger
	tally  *tally
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

	if err := s.engine.run(ctx, s.send); err != nil {
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

// send makes one request. Callers come from a pool, so that there are as many
// as requests are under way, rather than one for each idle worker.
func (s *storm) send(arrival arrival) answer {
	caller := s.callers.Get().(*caller)
	defer s.callers.Put(caller)
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
