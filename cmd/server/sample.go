package main

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"ringback/db"
)

const (
	// sampleInterval is the highest age of a sample while the database answers: Prometheus
	// scrapes as often by default.
	sampleInterval = 15 * time.Second
	// sampleShare is how many times longer than a sample the pause after it is at least.
	sampleShare   = 50
	sampleTimeout = 5 * time.Second
	// retentionSlack is how long beyond RETENTION a request may be kept before an operator is
	// told, once that has lasted for retentionPatience. A server that was down for hours catches
	// up by itself. Up to an hour is usual, the length of a pass.
	retentionSlack    = 2 * time.Hour
	retentionPatience = 10 * time.Minute
)

// sampler holds the latest sample of the database, so that reading the metrics asks
// nothing of it.
type sampler struct {
	take      func(context.Context) (db.Sample, error)
	retention time.Duration
	latest    atomic.Pointer[db.Sample]
	taken     atomic.Int64 // Unix time of latest, by this process's clock
	logger    *slog.Logger
	behind    time.Time // since when retention has been behind, zero while it isn't
	told      time.Time // when it was last told so, zero if it wasn't
}

// run takes samples until ctx ends. After a failure the last sample stands.
func (s *sampler) run(ctx context.Context) {
	for ctx.Err() == nil {
		start := time.Now()
		limited, cancel := context.WithTimeout(ctx, sampleTimeout)
		if sample, err := s.take(limited); err == nil {
			s.latest.Store(&sample)
			s.taken.Store(start.Unix())
			s.tellRetention(ctx, sample)
		}
		cancel()
		timer := time.NewTimer(max(sampleInterval, sampleShare*time.Since(start)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// overdue is for how long a request is kept beyond RETENTION.
func (s *sampler) overdue(sample db.Sample) time.Duration {
	if s.retention == 0 {
		return 0
	}
	return max(0, sample.Ended-s.retention)
}

// tellRetention tells when retention stays behind, again while it is, and when it has
// caught up.
func (s *sampler) tellRetention(ctx context.Context, sample db.Sample) {
	now, overdue := time.Now(), s.overdue(sample)
	switch {
	case overdue <= retentionSlack:
		if !s.told.IsZero() {
			s.logger.InfoContext(ctx, "retention_caught_up")
		}
		s.behind, s.told = time.Time{}, time.Time{}
	case s.behind.IsZero():
		s.behind = now
	case now.Sub(s.behind) >= retentionPatience && now.Sub(s.told) >= db.ToldAgainAfter:
		s.told = now
		s.logger.WarnContext(ctx, "retention_behind", "behind_seconds", overdue.Seconds(),
			"remedy", "watch the disk; see that a process works (--role=all or worker) and that no line old_requests_not_removed says why; otherwise lower the load or give Postgres a faster disk")
	}
}

// watch registers the figures of a sample.
func (s *sampler) watch(registerer prometheus.Registerer) {
	s.latest.Store(&db.Sample{})
	auto := promauto.With(registerer)
	gauge := func(name, help string, labels prometheus.Labels, read func(db.Sample) float64) {
		auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "ringback_" + name, Help: help, ConstLabels: labels},
			func() float64 { return read(*s.latest.Load()) })
	}
	for _, state := range db.LiveStates {
		gauge("jobs", "Jobs that have not ended, by state, of all processes; 100,000 of a queue for that or more.", prometheus.Labels{"state": state},
			func(sample db.Sample) float64 { return float64(sample.Jobs[state]) })
	}
	gauge("oldest_unfinished_request_age_seconds", "Since when the oldest async request whose work or callback is to come was accepted or, if that is later, due by its delay or run_at; 0 for none.", nil,
		func(sample db.Sample) float64 { return sample.Unfinished.Seconds() })
	gauge("oldest_due_callback_age_seconds", "For how long the callback that waits the longest for a worker has been due; 0 for none.", nil,
		func(sample db.Sample) float64 { return sample.DueCallback.Seconds() })
	gauge("dead_letters", "Callbacks that were given up and are kept; 100,000 for that or more.", nil,
		func(sample db.Sample) float64 { return float64(sample.DeadLetters) })
	gauge("retention_behind_seconds", "For how long a request is kept beyond RETENTION, of the oldest; up to an hour is usual.", nil,
		func(sample db.Sample) float64 { return s.overdue(sample).Seconds() })
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "ringback_sample_timestamp_seconds", Help: "When jobs, dead letters and ages were last looked up; 0 for never."},
		func() float64 { return float64(s.taken.Load()) })
}
