package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"strconv"
	"syscall"
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
	ledger := newLedger(config.mix, schedule.total())
	receiver, err := newReceiver(ledger)
	if err != nil {
		return nil, fmt.Errorf("listening for callbacks: %w", err)
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

// run sends, waits for the answers, then for the callbacks still due, and
// returns what happened. Once ctx is done it sends nothing more. Its error
// means that there is nothing to report.
func (s *storm) run(ctx context.Context, progress io.Writer) (*report, error) {
	startedAt := time.Now()
	usage := usage()
	s.ledger.clock = clock{startedAt}
	s.receiver.serve()
	defer s.receiver.close()
	stopProgress := s.startProgress(ctx, progress)
	defer stopProgress()

	if err := s.engine.run(ctx, s.senders()); err != nil {
		return nil, err
	}
	answered := s.ledger.clock.now()
	s.drain()
	drained := s.ledger.clock.now()
	report := s.summarize(usage)
	report.StartedAt = startedAt.UTC()
	report.Interrupted = ctx.Err() != nil
	report.DrainS = max(0, drained-min(answered, s.engine.ended)).Seconds()
	return report, nil
}

// senders are the workers of the engine.
func (s *storm) senders() []func(number int) answer {
	senders := make([]func(int) answer, s.config.connections)
	for i := range senders {
		caller := newCaller(s.client, s.author, s.config)
		senders[i] = func(number int) answer { return s.send(caller, number) }
	}
	return senders
}

func (s *storm) send(caller *caller, number int) answer {
	if !s.config.mix.isAsync(number) {
		return caller.callSync(number)
	}
	return caller.callAsync(number, func(to []byte) []byte {
		return s.receiver.appendURL(to, s.config.mix.asyncs(number))
	}, "")
}

// drain waits until nothing is due any more, but not longer than configured.
// All requests have been answered by then.
func (s *storm) drain() {
	select {
	case <-s.ledger.allSettled():
	case <-time.After(s.config.drain):
	}
}

// summarize takes the CPU and memory used before it computes results anew.
func (s *storm) summarize(before resources) *report {
	s.receiver.close()
	after := usage()
	verified := s.ledger.verify(context.Background(), s.author, s.receiver.hash)

	window := window{toMicros(s.config.warmup), toMicros(s.engine.ended)}
	tally := s.ledger.tally(window)
	report := &report{
		Server:      s.config.target,
		DurationS:   s.engine.ended.Seconds(),
		WarmupS:     s.config.warmup.Seconds(),
		Profile:     s.config.profile.name,
		Arrivals:    s.config.arrivals,
		Mix:         s.config.mix.String(),
		Work:        s.config.load.String(),
		Connections: s.config.connections,
		Seed:        s.config.seed,
		Sync:        tally.sync.report(&s.ledger.sync, window),
		Async:       s.asyncReport(tally, window),
	}
	report.Async.Verified = verified
	report.Goodput = goodput{report.Sync.Goodput, report.Async.Goodput}
	sent := report.Sync.Sent + report.Async.Sent
	report.OfferedRate = perSecond(s.engine.released, s.engine.ended)
	report.AchievedRate = perSecond(sent, max(s.engine.ended, tally.lastLeft.duration()))
	report.Generator = s.generatorReport(tally)
	report.Generator.RateError = percentOff(report.AchievedRate, report.OfferedRate)
	report.Generator.CPUMicroseconds = after.since(before).perRequest(sent)
	report.Generator.PeakMemory = after.peakMemory
	return report
}

func perSecond(count int, duration time.Duration) float64 {
	if duration <= 0 {
		return 0
	}
	return float64(count) / duration.Seconds()
}

// percentOff is how far a value is from what it should be.
func percentOff(value, want float64) float64 {
	if want == 0 {
		return 0
	}
	return 100 * math.Abs(value-want) / want
}

func (s *storm) asyncReport(tally *tally, window window) asyncReport {
	reconciled := s.ledger.reconcile()
	return asyncReport{
		endpointReport: tally.async.report(&s.ledger.async, window),
		Acked:          tally.async.counts[ok],
		Delivered:      reconciled.delivered,
		Dead:           reconciled.dead,
		Missing:        reconciled.missing,
		Duplicates:     reconciled.duplicates,
		Orphans:        reconciled.orphans,
		Mismatched:     reconciled.mismatched,
		WorkFailed:     reconciled.workFailed,
		Unacknowledged: reconciled.unacknowledged,
		TimeToCallback: tally.callback.quantiles(),
		missingIDs:     reconciled.missingIDs,
	}
}

func (s *storm) generatorReport(tally *tally) generatorReport {
	return generatorReport{
		Late:           s.engine.lateness.quantiles(),
		Left:           tally.left.quantiles(),
		WorstRateError: s.engine.worstRateError(),
	}
}

// resources is what this process has used so far.
type resources struct {
	cpu        time.Duration // user and system
	peakMemory float64       // MiB
}

func usage() resources {
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used) // fails for a wrong pointer only
	return resources{
		cpu:        time.Duration(used.Utime.Nano() + used.Stime.Nano()),
		peakMemory: float64(used.Maxrss) / maxrssPerMiB,
	}
}

func (r resources) since(before resources) resources {
	return resources{r.cpu - before.cpu, r.peakMemory}
}

// perRequest is in microseconds.
func (r resources) perRequest(requests int) float64 {
	return float64(r.cpu.Microseconds()) / float64(max(1, requests))
}

func (m mix) String() string {
	return "sync=" + strconv.Itoa(m.sync) + ",async=" + strconv.Itoa(m.async)
}
