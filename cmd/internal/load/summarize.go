package load

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/errgroup"
)

// summarize evaluates the ledger, asks the server about missing requests, and returns
// everything but the times of the run. cpu is this process's.
func (r *Run) summarize(cpu time.Duration) *Findings {
	verified := r.verify(context.Background())
	if r.config.OrderingKeys > 0 {
		r.ledger.checkOrder(r.config)
	}
	window := window{toMicros(r.config.Warmup), toMicros(r.engine.ended)}
	tally := r.ledger.tally(window)
	told := r.settings()
	told.Sync = tally.sync.report(r.ledger.sync, window)
	told.Async = r.reportAsync(tally, verified)
	told.Goodput = Goodput{told.Sync.Goodput, told.Async.Goodput}
	told.OfferedRate = perSecond(int(r.engine.released.Load()), r.engine.ended)
	told.AchievedRate = perSecond(told.sent(), max(r.engine.ended, tally.lastLeft.duration()))
	_, peak := usage() // including the evaluation
	told.Generator = Generator{
		Late:            r.engine.lateness.quantiles(),
		Left:            tally.left.quantiles(),
		RateError:       percentOff(told.AchievedRate, told.OfferedRate),
		WorstRateError:  r.engine.worstRateError(),
		CPUMicroseconds: float64(cpu.Microseconds()) / float64(max(1, told.sent())),
		PeakMemory:      peak,
	}
	return &Findings{told, r.ledger, tally}
}

// settings is a report with the settings alone.
func (r *Run) settings() Report {
	return Report{
		Server:      r.config.Target,
		DurationS:   r.engine.ended.Seconds(),
		WarmupS:     r.config.Warmup.Seconds(),
		Profile:     r.config.Profile.Name,
		Rate:        r.config.Rate,
		Arrivals:    r.config.Arrivals,
		Mix:         r.config.Mix.String(),
		Work:        r.config.Input.String(),
		Receivers:   r.config.Receivers.String(),
		Connections: r.config.Connections,
		Seed:        r.config.Seed,
	}
}

func perSecond(count int, duration time.Duration) float64 {
	if duration <= 0 {
		return 0
	}
	return float64(count) / duration.Seconds()
}

// percentOff is the difference between a value and the wanted value, in per cent.
func percentOff(value, want float64) float64 {
	if want == 0 {
		return 0
	}
	return 100 * math.Abs(value-want) / want
}

func (r *Run) reportAsync(tally *tally, verified int) Async {
	told := tally.Async
	told.Endpoint = tally.async.report(r.ledger.async, tally.window)
	told.Verified, told.Unverified = verified, told.Unverified-verified
	if r.expected() == nil {
		told.Unverified = 0 // nobody meant to
	}
	told.TimeToCallback = tally.callback.quantiles()
	told.Kinds = tally.byKind()
	r.explain(&told, tally)
	return told
}

// verifyLimit bounds how long results are computed or asked for again after a run. Work
// that is expensive for the server is so here too.
const verifyLimit = 10 * time.Second

// verify compares delivered results with the work's, marks the requests with another
// result, and returns how many it checked before the limit. It runs after the load, so as
// not to disturb the figures.
func (r *Run) verify(ctx context.Context) int {
	must := r.expected()
	if must == nil {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, verifyLimit)
	defer cancel()
	var checking errgroup.Group
	checking.SetLimit(runtime.NumCPU())
	var verified atomic.Int64
	for number := range r.ledger.requests {
		request := &r.ledger.requests[number]
		if request.outcome != ok && request.outcome != ambiguous || !request.hasResult() {
			continue
		}
		checking.Go(func() error {
			if ctx.Err() != nil {
				return nil // it stays unverified
			}
			if result, err := must(ctx, number); err == nil {
				verified.Add(1)
				if r.crowd.digest(result) != request.result {
					request.flags |= wrongResult
				}
			}
			return nil
		})
	}
	_ = checking.Wait() // no error
	return int(verified.Load())
}

// expectation is the work's result for a request.
type expectation func(ctx context.Context, number int) (jsontext.Value, error)

// expected is nil where the work's result isn't known.
func (r *Run) expected() expectation {
	switch {
	case r.config.Unread:
		return nil
	case r.config.Result != nil:
		return func(ctx context.Context, number int) (jsontext.Value, error) {
			return r.config.Result(ctx, r.client.author.appendInput(nil, number))
		}
	case r.deterministic:
		return func(_ context.Context, number int) (jsontext.Value, error) {
			answer := r.client.callSync(number)
			if answer.outcome != ok {
				return nil, fmt.Errorf("asking for a result again: %s", cmp.Or(answer.reason, "shed"))
			}
			return jsontext.Value(answer.result), nil
		}
	}
	return nil
}

// usage is this process's so far: CPU time, user and system, and the most memory in MiB.
func usage() (cpu time.Duration, peakMemory float64) {
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used) // fails for a wrong pointer only
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()), float64(used.Maxrss) / maxrssPerMiB
}
