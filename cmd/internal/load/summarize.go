package load

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"runtime"
	"syscall"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/errgroup"
)

// summarize evaluates the ledger, asks the server about missing requests, and returns
// everything but the times of the run. cpu is what this process used meanwhile.
func (r *Run) summarize(cpu time.Duration) *Findings {
	r.verify(context.Background())
	if r.config.OrderingKeys > 0 {
		r.ledger.checkOrder(r.config)
	}
	f := r.ledger.tally(measured{r.config.Warmup, r.engine.ended})
	f.addSettings(r.config)
	r.explain(f)
	f.Goodput = Goodput{f.Sync.Goodput, f.Async.Goodput}
	f.DurationS = r.engine.ended.Seconds()
	f.OfferedRate = perSecond(float64(r.engine.handedOver.Load()), r.engine.ended)
	f.AchievedRate = perSecond(float64(f.sent()), max(r.engine.ended, f.lastSent))
	r.engine.lateness.close()
	f.Generator.Late = r.engine.lateness
	f.Generator.RateError = percentOff(f.AchievedRate, f.OfferedRate)
	f.Generator.WorstRateError = r.engine.worstRateError()
	f.Generator.CPUMicroseconds = float64(cpu.Microseconds()) / float64(max(1, f.sent()))
	_, f.Generator.PeakMemory = usage() // of the evaluation, too
	return f
}

func (r *Report) addSettings(config Config) {
	r.Server, r.WarmupS, r.Seed, r.Connections = config.Target, config.Warmup.Seconds(), config.Seed, config.Connections
	r.Profile, r.Rate, r.Arrivals = config.Profile.Name, config.Rate, config.Arrivals
	r.Async.SignaturesRead = config.Secret != "" && !config.Unread
	r.Mix, r.Work, r.Receivers = config.Mix.String(), config.Input.String(), config.Receivers.String()
}

func perSecond(count float64, duration time.Duration) float64 {
	if duration <= 0 {
		return 0
	}
	return count / duration.Seconds()
}

// percentOff is the difference between a value and the wanted value, in per cent.
func percentOff(value, want float64) float64 {
	if want == 0 {
		return 0
	}
	return 100 * math.Abs(value-want) / want
}

// verifyLimit bounds how long results are computed or asked for again after a run: work that
// is expensive for the server is expensive here, too.
const verifyLimit = 10 * time.Second

// verify compares delivered results with the work's, and marks each request by what it found
// before the limit. It runs after the load, so that it doesn't disturb the figures.
func (r *Run) verify(ctx context.Context) {
	must := r.expected()
	if must == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, verifyLimit)
	defer cancel()
	var checking errgroup.Group
	checking.SetLimit(runtime.NumCPU())
	for number := range r.ledger.requests {
		request := &r.ledger.requests[number]
		if request.outcome != ok && request.outcome != ambiguous || !request.hasResult() {
			continue
		}
		request.flags |= unverified
		checking.Go(func() error {
			if ctx.Err() != nil {
				return nil
			}
			if result, err := must(ctx, number); err == nil {
				request.flags = request.flags&^unverified | verified
				if r.crowd.digest(result) != request.result {
					request.flags |= wrongResult
				}
			}
			return nil
		})
	}
	_ = checking.Wait() // no error
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
			answer := r.client.call(number, "", "")
			if answer.outcome != ok {
				return nil, fmt.Errorf("asking for a result again: %s", cmp.Or(answer.reason, "shed"))
			}
			return jsontext.Value(answer.result), nil
		}
	}
	return nil
}

// usage is this process's CPU time so far, user and system, and its most memory in MiB.
func usage() (cpu time.Duration, peakMemory float64) {
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used) // fails only for a wrong pointer
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()), float64(used.Maxrss) / maxrssPerMiB
}
