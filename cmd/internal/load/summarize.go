package load

import (
	"context"
	"math"
	"syscall"
	"time"
)

// summarize evaluates the ledger, asks the server about missing requests, and returns
// everything but the times of the run.
func (r *Run) summarize(used resources) *Findings {
	verified := r.verify(context.Background())
	if r.config.OrderingKeys > 0 {
		r.ledger.checkOrder(r.config.OrderingKeys)
	}
	window := window{toMicros(r.config.Warmup), toMicros(r.engine.ended)}
	tally := r.ledger.tally(window)
	told := r.settings()
	told.Sync = tally.sync.report(&r.ledger.sync, window)
	told.Async = r.reportAsync(tally, window, verified)
	told.Goodput = Goodput{told.Sync.Goodput, told.Async.Goodput}
	sent := told.Sync.Sent + told.Async.Sent
	told.OfferedRate = perSecond(int(r.engine.released.Load()), r.engine.ended)
	told.AchievedRate = perSecond(sent, max(r.engine.ended, tally.lastLeft.duration()))
	told.Generator = Generator{
		Late:            r.engine.lateness.quantiles(),
		Left:            tally.left.quantiles(),
		RateError:       percentOff(told.AchievedRate, told.OfferedRate),
		WorstRateError:  r.engine.worstRateError(),
		CPUMicroseconds: used.perRequest(sent),
		PeakMemory:      usage().peakMemory, // including the evaluation
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

func (r *Run) reportAsync(tally *tally, window window, verified int) Async {
	found := r.ledger.reconcile()
	found.Endpoint = tally.async.report(&r.ledger.async, window)
	found.Acked = tally.async.counts[ok]
	found.Verified, found.Unverified = verified, found.Unverified-verified
	if r.expected() == nil {
		found.Unverified = 0 // nobody meant to
	}
	found.TimeToCallback = tally.callback.quantiles()
	found.Kinds = tally.kinds()
	r.explain(found)
	return found.Async
}

// explain looks up the undelivered requests. A dead or pending request that the server
// doesn't know, or calls done, is missing as well.
func (r *Run) explain(found *reconciliation) {
	missing := lookUp(r.client, r.config, found.missingIDs)
	for _, request := range lookUp(r.client, r.config, found.uncalledIDs) {
		if !request.isExcused() {
			missing = append(missing, request)
			found.Dead, found.Missing = found.Dead-1, found.Missing+1
		}
	}
	var pending []Lost
	for _, request := range lookUp(r.client, r.config, found.pendingIDs) {
		if request.isPending() {
			pending = append(pending, request)
			continue
		}
		missing = append(missing, request)
		found.Pending, found.Missing = found.Pending-1, found.Missing+1
	}
	if r.config.DatabaseURL != "" && len(missing) > 0 {
		if err := audit(context.Background(), r.config.DatabaseURL, missing); err != nil {
			found.AuditError = err.Error()
		}
	}
	found.MissingRequests = missing[:min(len(missing), MaxReported)]
	found.PendingRequests = pending[:min(len(pending), MaxReported)]
}

// resources is this process's use so far.
type resources struct {
	cpu        time.Duration // user and system
	peakMemory float64       // MiB resident
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
