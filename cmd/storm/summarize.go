package main

import (
	"context"
	"math"
	"strconv"
	"syscall"
	"time"
)

// summarize goes through the ledger, asks the server about what is missing,
// and returns all but the times of the run.
func (s *storm) summarize(used resources) *findings {
	verified := s.ledger.verify(context.Background(), s.author, s.receiver.hash)
	if s.config.orderingKeys > 0 {
		s.ledger.checkOrder(s.config.orderingKeys)
	}
	window := window{toMicros(s.config.warmup), toMicros(s.engine.ended)}
	tally := s.ledger.tally(window)
	r := s.settings()
	r.Sync = tally.sync.report(&s.ledger.sync, window)
	r.Async = s.asyncReport(tally, window)
	r.Async.Verified, r.Async.Unverified = verified, r.Async.Unverified-verified
	r.Goodput = goodput{r.Sync.Goodput, r.Async.Goodput}
	sent := r.Sync.Sent + r.Async.Sent
	r.OfferedRate = perSecond(int(s.engine.released.Load()), s.engine.ended)
	r.AchievedRate = perSecond(sent, max(s.engine.ended, tally.lastLeft.duration()))
	r.Generator = generatorReport{
		Late:            s.engine.lateness.quantiles(),
		Left:            tally.left.quantiles(),
		RateError:       percentOff(r.AchievedRate, r.OfferedRate),
		WorstRateError:  s.engine.worstRateError(),
		CPUMicroseconds: used.perRequest(sent),
	}
	r.Objectives = s.config.objectives.check(&r)
	r.Generator.PeakMemory = usage().peakMemory // with what all of this took
	return &findings{r, s.ledger, tally}
}

// settings is a report of nothing but what was asked for.
func (s *storm) settings() report {
	return report{
		Server:      s.config.target,
		DurationS:   s.engine.ended.Seconds(),
		WarmupS:     s.config.warmup.Seconds(),
		Profile:     s.config.profile.name,
		Rate:        s.config.rate,
		Arrivals:    s.config.arrivals,
		Mix:         s.config.mix.String(),
		Work:        s.config.workload().String(),
		Receivers:   s.config.receivers.String(),
		Connections: s.config.connections,
		Seed:        s.config.seed,
	}
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
	missing, pending, auditError := s.explain(reconciled)
	return asyncReport{
		endpointReport:  tally.async.report(&s.ledger.async, window),
		Acked:           tally.async.counts[ok],
		Delivered:       reconciled.delivered,
		Dead:            reconciled.dead,
		Pending:         reconciled.pending,
		Missing:         reconciled.missing,
		Duplicates:      reconciled.duplicates,
		Orphans:         reconciled.orphans,
		Mismatched:      reconciled.mismatched,
		BadSignatures:   reconciled.badSignatures,
		OutOfOrder:      reconciled.outOfOrder,
		WorkFailed:      reconciled.workFailed,
		Unacknowledged:  reconciled.unacknowledged,
		Unverified:      reconciled.verifiable,
		TimeToCallback:  tally.callback.quantiles(),
		Kinds:           tally.kinds(),
		MissingRequests: missing[:min(len(missing), maxReported)],
		PendingRequests: pending[:min(len(pending), maxReported)],
		AuditError:      auditError,
	}
}

// explain looks up what is not delivered. What is dead or pending and the
// server knows nothing of, or says is done, is missing as well.
func (s *storm) explain(r *reconciliation) (missing, pending []lostRequest, auditError string) {
	missing = lookUp(s.client, s.config, r.missingIDs)
	for _, request := range lookUp(s.client, s.config, r.uncalledIDs) {
		if !request.isExcused() {
			missing = append(missing, request)
			r.dead, r.missing = r.dead-1, r.missing+1
		}
	}
	for _, request := range lookUp(s.client, s.config, r.pendingIDs) {
		if request.isPending() {
			pending = append(pending, request)
			continue
		}
		missing = append(missing, request)
		r.pending, r.missing = r.pending-1, r.missing+1
	}
	if s.config.databaseURL == "" || len(missing) == 0 {
		return missing, pending, ""
	}
	if err := audit(context.Background(), s.config.databaseURL, missing); err != nil {
		return missing, pending, err.Error()
	}
	return missing, pending, ""
}

// resources is what this process has used so far.
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

func (m mix) String() string {
	return "sync=" + strconv.Itoa(m.sync) + ",async=" + strconv.Itoa(m.async)
}
