package jobs

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"ringback/db"
	"ringback/jobs/flow"
	"ringback/jobs/limit"
	"ringback/jobs/pacing"
	"ringback/jobs/webhook"
	"ringback/work"
)

// metrics count the results of the steps. No label holds a client, a host or anything
// else that callers choose.
type metrics struct {
	accepted *prometheus.CounterVec   // by mode
	works    *prometheus.HistogramVec // by name, mode and status
	failed   *prometheus.CounterVec   // by name of the work
	attempts *prometheus.HistogramVec // by outcome
	causes   *prometheus.CounterVec   // by outcome and cause, of attempts that a status doesn't explain
	ended    *prometheus.CounterVec   // by state
	waited   prometheus.Histogram     // of callbacks that were delivered
	waits    limit.Count
	faults   *prometheus.CounterVec // by queue
	mended   *prometheus.CounterVec // by the kind of step
}

// newMetrics registers nothing where there is no registerer.
func newMetrics(registerer prometheus.Registerer, q *Queue) *metrics {
	auto := promauto.With(registerer)
	gauge := func(name, help string, read func() float64) {
		auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "ringback_" + name, Help: help}, read)
	}
	gauge("unfinished_requests", "Async requests accepted and not finished, whose next step is due within a minute, by the sample of about a second ago.",
		func() float64 { return float64(q.backlog.now()) })
	gauge("database_away", "1 while the database doesn't answer, or can't be written, by the check of about a second ago.", func() float64 {
		if q.backlog.away.Load() {
			return 1
		}
		return 0
	})
	gauge("works_running", "Runs of async requests that are under way.", func() float64 { return float64(q.runSlots.Running()) })
	gauge("jobs_running", "Jobs of both kinds that are under way.", func() float64 { return float64(q.local.running()) })
	gauge("clock_skew_seconds", "How far this process's clock is ahead of the database's. Times are told by the database's.",
		func() float64 { return q.clock.Skew().Seconds() })
	gauge("answers_in_hand", "Outcomes of work and answers of receivers that could not be recorded at once. They are kept until they are recorded.",
		func() float64 { return float64(q.record.inHand.Load()) })
	gauge("callback_origins", "Receivers, by scheme, host and port, that this process remembers.",
		func() float64 { known, _ := q.pacing.Counts(time.Now()); return float64(known) })
	gauge("callback_origins_closed", "Those of them whose circuit breaker for all clients is open. Clients without a failure since it opened probe them, one callback at a time.",
		func() float64 { _, closed := q.pacing.Counts(time.Now()); return float64(closed) })
	flow.Watch(auto, q.flows)
	m := &metrics{
		works: auto.NewHistogramVec(prometheus.HistogramOpts{
			Name: "ringback_work_duration_seconds", Help: "Runs of the work that ended their request, by the name of the work, the mode of the request, and the status that it ended with.",
			Buckets: durations,
		}, []string{"work", "mode", "status"}),
		failed: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "ringback_work_attempts_not_done_total", Help: "Attempts of the work of async requests that another one follows.",
		}, []string{"work"}),
		attempts: auto.NewHistogramVec(prometheus.HistogramOpts{
			Name: "ringback_callback_attempt_duration_seconds", Help: "Attempts to call back, by outcome.",
			Buckets: durations,
		}, []string{"outcome"}),
		causes: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "ringback_callback_attempt_causes_total", Help: "Attempts whose outcome has a cause, which callers don't see.",
		}, []string{"outcome", "cause"}),
		ended: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "ringback_callbacks_ended_total", Help: "Callbacks that were delivered or given up, by that state.",
		}, []string{"state"}),
		waited: auto.NewHistogram(prometheus.HistogramOpts{
			Name: "ringback_time_to_callback_seconds", Help: "From accepting a request, or redelivering it, to its delivered callback.",
			Buckets: append(durations, 60, 600, 3600, 6*3600, 24*3600),
		}),
		waits: limit.NewCount(registerer, "ringback_jobs_postponed_total",
			"Times that a job was postponed, without an attempt, by the limit that it waits for.", append(pacing.Reasons(), append(flow.Reasons(), workUnknown)...)...),
	}
	m.accepted = auto.NewCounterVec(prometheus.CounterOpts{
		Name: "ringback_requests_accepted_total", Help: "Requests that are stored, by mode: async requests with their job, sync requests when they have ended.",
	}, []string{"mode"})
	for _, mode := range []db.Mode{db.Sync, db.Async} {
		m.accepted.WithLabelValues(string(mode))
	}
	m.faults = auto.NewCounterVec(prometheus.CounterOpts{
		Name: "ringback_faults_total", Help: "Steps that failed although the database was there: a callback that can't be signed, a result that can't be stored, an attempt for which there was no file left.",
	}, []string{"step"})
	for _, step := range []string{workQueue, callbackQueue} {
		m.faults.WithLabelValues(step)
	}
	m.mended = auto.NewCounterVec(prometheus.CounterOpts{
		Name: "ringback_lost_steps_mended_total", Help: "Requests whose next step had lost its job, and got another job or was cancelled, by kind of step.",
	}, []string{"step"})
	for _, step := range []string{"work", "callback", "ordering_key", "cancelled"} {
		m.mended.WithLabelValues(step)
	}
	return m
}

func (m *metrics) postponed(reason limit.Reason) { m.waits.Add(reason, 1) }

// durations are the buckets for times from a millisecond to the longest timeout.
var durations = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

func (m *metrics) worked(name string, mode db.Mode, outcome work.Outcome) {
	m.works.WithLabelValues(name, string(mode), string(statusOf(outcome))).Observe(outcome.FinishedAt.Sub(startOf(outcome)).Seconds())
}

// startOf is the end for a work that never began.
func startOf(outcome work.Outcome) time.Time {
	if outcome.StartedAt.IsZero() {
		return outcome.FinishedAt
	}
	return outcome.StartedAt
}

func (m *metrics) attempted(request db.Request, sent webhook.Attempt, next step) {
	m.attempts.WithLabelValues(string(sent.Outcome)).Observe(sent.EndedAt.Sub(sent.StartedAt).Seconds())
	if sent.Cause != "" {
		m.causes.WithLabelValues(string(sent.Outcome), sent.Cause).Inc()
	}
	if next.state != db.CallbackPending {
		m.ended.WithLabelValues(string(next.state)).Inc()
	}
	if next.state == db.CallbackDelivered {
		m.waited.Observe(sent.EndedAt.Sub(limit.Latest(request.AcceptedAt, request.RedeliveredAt)).Seconds())
	}
}
