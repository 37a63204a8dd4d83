// Package jobs is the way of an accepted request through the queue: accept, process, call
// back. Each step is a transaction that checks the request's state, so that a repeated
// step finds nothing to do.
package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivertype"

	"ringback/db"
	"ringback/db/batch"
	"ringback/jobs/clients"
	"ringback/jobs/flow"
	"ringback/jobs/limit"
	"ringback/jobs/pacing"
	"ringback/jobs/tracing"
	"ringback/jobs/upkeep"
	"ringback/jobs/webhook"
	"ringback/work"
)

// The queues are two, so that slow receivers never hold up work.
const (
	workQueue     = "work"
	callbackQueue = "callback"
)

// QueueNames are the names of the queues of River that requests go through.
func QueueNames() []string { return []string{workQueue, callbackQueue} }

// maxJobAttempts is out of reach: the workers decide themselves when it is
// enough, since a job that River discards would be a lost request. Only a crash
// or a failed delivery charges an attempt.
const maxJobAttempts = 1000

var (
	workJobs     = db.Jobs{Kind: workArgs{}.Kind(), Queue: workQueue, MaxAttempts: maxJobAttempts}
	callbackJobs = db.Jobs{Kind: callbackArgs{}.Kind(), Queue: callbackQueue, MaxAttempts: maxJobAttempts}
)

// Config builds a Queue.
type Config struct {
	Pool      *pgxpool.Pool // for the steps of requests
	RiverPool *pgxpool.Pool // for River's fetching, completing and maintenance
	Logger    *slog.Logger
	// SeldomLogger takes lines that may come for thousands of jobs at once, and River's own
	// warnings and errors; nil for Logger.
	SeldomLogger *slog.Logger
	Catalog      *work.Catalog // the kinds of work that this process does
	Sender       *webhook.Sender
	Secrets      func(client string) ([]webhook.Secret, error) // sign a client's callbacks

	Limits    func(client string) clients.Limits                     // nil where clients have none
	Callbacks func(client string) webhook.Hosts                      // hosts that a client's callbacks may name
	Headers   func(client, sealed string) (map[string]string, error) // opens the stored headers of a callback

	// Settings of the same names.
	AsyncLimit          int           // async requests that wait for their commit; more are refused at once
	UnfinishedLimit     int           // requests accepted and not finished, in all; 0 for no limit
	Workers             int           // jobs of either kind that are under way at a time; 0 inserts only
	WorkLimit           int           // async requests whose work runs at a time
	CallbackRate        int           // callbacks a second that a receiver gets at most, 0 for no limit
	CallbackConsent     bool          // a receiver that granted nothing gets no callback
	Retention           time.Duration // how long requests stay once they have ended; 0 forever
	DeadLetterRetention time.Duration // how long dead letters stay; 0 forever
	StopTimeout         time.Duration // how long Stop waits before it interrupts jobs
	PublicURL           string        // of the API, where work that goes on elsewhere is finished

	Tracer *tracing.Tracer // nil for none

	Health  *db.Health            // for the steps' reports; nil for a new registry
	Metrics prometheus.Registerer // nil for none
}

// Queue accepts requests, does their work and sends their callbacks. Each step goes
// through a batcher, which joins the calls of many goroutines into one transaction.
type Queue struct {
	pool       *pgxpool.Pool
	health     *db.Health
	client     *river.Client[pgx.Tx]
	works      bool // false when this process only inserts
	backlog    backlog
	quotas     *quotas
	heart      *upkeep.Heartbeat
	local      localJobs
	sweeper    upkeep.Sweeper // of requests
	letters    upkeep.Sweeper // of dead letters
	search     upkeep.Searcher
	singleRows upkeep.SingleRows
	reconciler upkeep.Reconciler
	expediter  expediter
	stop       context.CancelFunc // ends the goroutines that Start began, but River's and the heartbeat's
	pacing     *pacing.Pacing
	waits      *waits
	follows    *waits
	runSlots   *flow.Slots
	flows      map[string]*flow.Flow // by the name of the work
	record     *record
	tokens     *tokens
	heard      heard
	publicURL  string
	tracer     *tracing.Tracer
	clock      clockWatch
	metrics    *metrics
	seldom     *slog.Logger // for lines that may come for thousands of jobs at once

	// The workers of each queue, and the starters of its jobs.
	work, callback *lane
	runner         *runWorker
	callbackWorker *callbackWorker
	handoff        *handoff
	grace          time.Duration // before Stop interrupts jobs

	accepts   *batch.Batcher[acceptance, db.Holder]
	records   *batch.Batcher[db.Request, struct{}]
	loads     *batch.Batcher[uuid.UUID, db.Request]
	finishes  *batch.Batcher[db.Request, bool]
	callbacks *batch.Batcher[uuid.UUID, db.Request]
	settles   *batch.Batcher[db.Settlement, int]
	receivers *batch.Batcher[string, db.Receiver]
	singles   apart // statements for which no batcher exists
}

// New builds a queue that accepts and records at once, but doesn't work until
// Start.
func New(config Config) (*Queue, error) {
	if config.SeldomLogger == nil {
		config.SeldomLogger = config.Logger
	}
	if config.Health == nil {
		config.Health = db.NewHealth(config.Logger, config.Pool, config.RiverPool)
	}
	queue := &Queue{health: config.Health, pool: config.Pool, works: config.Workers > 0, stop: func() {}, grace: config.StopTimeout}
	shared := config.Limits != nil
	runs := flow.MostRuns(config.WorkLimit, config.Workers, shared)
	room := flow.NewRoom(config.Workers, runs, shared)
	queue.flows = flow.OfCatalog(config.Catalog, room, shared, config.Logger)
	queue.record = newRecord(config.Logger, queue.health.Explain)
	queue.record.finishes, queue.record.settles = newApart(recordsAtOnce, shared, queue.met(db.FinishStep)), newApart(recordsAtOnce, shared, queue.met(db.SettleStep))
	queue.singles = newApart(stepsAtOnce(config.Pool.Config().MaxConns), shared, nil)
	queue.tracer, queue.seldom = config.Tracer, config.SeldomLogger
	queue.publicURL = strings.TrimSuffix(config.PublicURL, "/")
	queue.tokens = &tokens{find: func(ctx context.Context) ([]byte, error) { return db.FinishKey(ctx, config.Pool) }}
	queue.clock = clockWatch{querier: config.Pool, logger: config.Logger}
	queue.runSlots = flow.NewSlots(runs, room, shared)
	queue.pacing = pacing.New(pacing.Config{
		Workers: config.Workers, Shared: shared, Rate: float64(config.CallbackRate), Consent: config.CallbackConsent,
		Logger: config.Logger, Outside: queue.outside(config.Sender),
	})
	if err := queue.setUpRiver(config); err != nil {
		return nil, err
	}
	queue.heart = upkeep.NewHeartbeat(queue.client.ID(), !shared, callbackArgs{}.Kind(), queue.local.has, queue.met(db.BeatStep), config.RiverPool, config.Logger)
	queue.sweeper, queue.letters = upkeep.NewSweepers(config.RiverPool, config.Health, config.Logger, upkeep.Retention{Requests: config.Retention, DeadLetters: config.DeadLetterRetention})
	queue.search = upkeep.Searcher{Pool: config.RiverPool, Logger: config.Logger}
	queue.backlog.limit = int64(config.UnfinishedLimit)
	queue.backlog.ping = queue.health.Check
	queue.backlog.count = func(ctx context.Context, most int64) (int64, error) {
		return db.CountUnfinished(ctx, config.Pool, QueueNames(), backlogHorizon, most)
	}
	queue.quotas = newQuotas(config)
	queue.waits = newWaits(waitInterval, limit.NewSlots(maxWaits, shared), queue.findEnded)
	queue.follows = newWaits(followInterval, limit.NewSlots(maxFollowers, shared), queue.findNews)
	queue.metrics = newMetrics(config.Metrics, queue)
	cancelled, err := cancellation("The work's job was cancelled by an operator.")
	if err != nil {
		return nil, err
	}
	queue.singleRows = upkeep.SingleRows{Pool: config.RiverPool, Logger: config.Logger, FinishKey: queue.tokens.known, Search: &queue.search}
	queue.reconciler = upkeep.Reconciler{
		Pool: config.RiverPool, Logger: config.Logger, Work: workJobs, Callback: callbackJobs,
		Cancelled: cancelled, Mended: queue.metrics.mended, Wake: queue.wake, ClockReadIn: clockInterval + clockTimeout,
	}
	queue.expediter = expediter{
		pool: config.RiverPool, logger: config.Logger, now: queue.Now, latest: queue.pacing.LatestRuling, concerns: queue.pacing.Concerns, lineUp: queue.pacing.LineUpAnew,
	}
	queue.heard.store = queue.renew
	queue.startBatchers(config)
	return queue, nil
}

// acceptPatience is how long a request should wait for the commit of the requests before
// it. A request that would wait longer is refused. With less, a machine that is merely busy
// for a moment would refuse requests that it can take.
const acceptPatience = 250 * time.Millisecond

// maxRecords is how many sync requests may be under way at a time: WORK_LIMIT
// goes no further.
const maxRecords = 10_000

// acceptQueueBytes bounds the memory of the requests that wait for their commit.
const acceptQueueBytes = 16 << 20

// The least times from one commit of a step to the next, twice as long after a batch of several. A
// commit takes about a millisecond, so up to 500 requests a second hardly any waits. At 1,000,
// batches are larger, and a request costs a third less CPU. Only its worker, and the next callback
// of an ordering key, wait for the record of an attempt. With 25 ms instead of 10, a request at
// 200 a second costs a sixth less CPU, and with 50 no less.
const (
	acceptRest = time.Millisecond
	finishRest = time.Millisecond
	settleRest = 25 * time.Millisecond
	// settlesPerWorker bounds the rest of few workers, which settle 10,000 attempts a second
	// together nevertheless.
	settlesPerWorker = 50 * time.Microsecond
)

// maxReports is how many reports may end work at a time. A process that doesn't work takes
// them, too.
const maxReports = 1000

// maxReads is the number of concurrent callers that may ask why their callback waits:
// more than reads admits.
const maxReads = 1000

// startBatchers bounds the calls from outside. Steps of workers have room for twice the
// workers, so that no outcome is refused. Sync requests are recorded after their work,
// and bounded before it.
func (q *Queue) startBatchers(config Config) {
	room := 2 * config.Workers
	q.accepts = batch.New(batch.Config[acceptance, db.Holder]{
		Flush: q.acceptAll, Size: func(call acceptance) int { return sizeOf(call.request) },
		Client: func(call acceptance) string { return call.request.Client }, Fair: fairIf(config.Limits != nil),
		Queue: config.AsyncLimit, QueueBytes: acceptQueueBytes, Rest: acceptRest, Patience: acceptPatience, Met: q.met(db.AcceptStep), Blames: db.IsRefused,
	})
	q.records = batch.New(batch.Config[db.Request, struct{}]{Flush: q.recordAll, Size: sizeOf, Queue: maxRecords, Met: q.met(db.RecordStep), Blames: db.IsRefused})
	q.loads = batch.New(batch.Config[uuid.UUID, db.Request]{Flush: q.loadWork, Queue: room, Blames: db.IsRefused})
	q.finishes = batch.New(batch.Config[db.Request, bool]{
		Flush: q.finishAll, Size: sizeOf, Queue: room + maxReports, Rest: finishRest, Met: q.met(db.FinishStep), Blames: db.IsRefused,
	})
	q.callbacks = batch.New(batch.Config[uuid.UUID, db.Request]{Flush: q.loadCallbacks, Queue: room, Blames: db.IsRefused})
	q.settles = batch.New(batch.Config[db.Settlement, int]{
		Flush: q.settleAll, Queue: room, Rest: min(settleRest, time.Duration(config.Workers)*settlesPerWorker), Met: q.met(db.SettleStep), Blames: db.IsRefused,
		Urgent: func(s db.Settlement) bool { return s.Place.OrderingKey != "" }, // the next of the key waits
	})
	q.handoff.ends = batch.New(batch.Config[*riverdriver.JobSetStateIfRunningParams, struct{}]{
		Flush: q.handoff.endAll, Queue: room, Met: q.met(db.EndStep), Blames: db.IsRefused,
	})
	q.receivers = batch.New(batch.Config[string, db.Receiver]{Flush: q.loadReceivers, Queue: room + maxReads, Blames: db.IsRefused})
}

// fairIf is the rule by which clients share what waits, nil where they don't.
func fairIf(shared bool) func(held, free int) bool {
	if !shared {
		return nil
	}
	return limit.Fair
}

// met returns the function that takes a step's result.
func (q *Queue) met(step db.Step) func(error) {
	return func(err error) { q.health.Note(step, err) }
}

// setUpRiver makes the workers, and the two ways on which jobs reach them.
func (q *Queue) setUpRiver(config Config) error {
	q.runner = &runWorker{
		queue: q, logger: config.Logger, catalog: config.Catalog, slots: q.runSlots,
	}
	q.callbackWorker = &callbackWorker{queue: q, logger: config.Logger, sender: config.Sender, secrets: config.Secrets, hosts: config.Callbacks, headers: config.Headers}
	q.work, q.callback = newLane(config.Workers, q.waker(workQueue)), newLane(config.Workers, q.waker(callbackQueue))
	lanes := map[string]*lane{workQueue: q.work, callbackQueue: q.callback}
	driver := newDriver(config.RiverPool, func() string { return q.client.ID() }, lanes, q.local.cancel, &q.clock.Clock, q.health, config.Logger)
	client, err := river.NewClient(driver, q.riverConfig(config, lanes))
	if err != nil {
		return fmt.Errorf("setting up river: %w", err)
	}
	q.client = client
	q.handoff = newHandoff(client.ID(), driver.GetExecutor(), &q.local, config.Logger)
	return nil
}

// waker returns a function that makes River fetch from a queue at once. After a failure
// the next poll fetches.
func (q *Queue) waker(queue string) func() {
	return func() {
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
			defer cancel()
			_ = db.WakeQueue(ctx, q.pool, queue)
		}()
	}
}

// fetchPollInterval is how often River fetches at least. A retry that is due is
// seen then: half of this late, at the median.
const fetchPollInterval = 100 * time.Millisecond

func (q *Queue) riverConfig(config Config, lanes map[string]*lane) *river.Config {
	workers := river.NewWorkers()
	river.AddWorker(workers, q.runner)
	river.AddWorker(workers, q.callbackWorker)
	settings := &river.Config{
		Workers:    workers,
		Middleware: []rivertype.Middleware{q.local.around(lanes)},
		// River's own lines at info repeat Ringback's lines, which say more.
		Logger: slog.New(warnings{config.SeldomLogger.Handler()}),
		// A queue's throughput is at most MaxWorkers / FetchCooldown: the default
		// of 100 ms allows 1,000 jobs/s with 100 workers. The cooldown of the
		// inserting process throttles the notification, so it is here for
		// processes that only insert, too.
		FetchCooldown:     10 * time.Millisecond,
		FetchPollInterval: fetchPollInterval,
		MaxAttempts:       maxJobAttempts,
		// Ended jobs go with the requests that point to them. River's cleaner takes jobs in the
		// order of ids in any state, and may read a whole table to find no job.
		CompletedJobRetentionPeriod: -1,
		CancelledJobRetentionPeriod: -1,
		DiscardedJobRetentionPeriod: -1,
		SoftStopTimeout:             config.StopTimeout,
	}
	if config.Workers > 0 {
		settings.Queues = map[string]river.QueueConfig{
			workQueue:     {MaxWorkers: config.Workers},
			callbackQueue: {MaxWorkers: config.Workers},
		}
	}
	return settings
}

// stepTimeout bounds one transaction of a worker, so that a hanging database can't hold
// its workers.
const stepTimeout = 10 * time.Second

// Start begins to work jobs off, to watch the backlog and to remove old requests,
// until Stop. The end of ctx doesn't stop it. A process that only inserts doesn't
// start River: it would become leader and discard jobs of the kinds that it
// doesn't know.
func (q *Queue) Start(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	q.clock.read(ctx)
	q.singleRows.Restore(ctx)
	_, _ = q.tokens.load(ctx) // so that the row with the key can be restored; else the next use loads it
	if q.works {
		if err := q.heart.Start(ctx); err != nil {
			return err
		}
		if err := q.client.Start(ctx); err != nil {
			return fmt.Errorf("starting river: %w", err)
		}
		q.work.start()
		q.callback.start()
		go q.handoff.watchCancellations()
	}
	ctx, q.stop = context.WithCancel(ctx)
	go q.backlog.watch(ctx)
	go q.clock.watch(ctx)
	q.pacing.Start(ctx)
	go q.dropExpired(ctx)
	if q.quotas != nil {
		go q.quotas.watch(ctx)
	}
	if q.works {
		go q.singleRows.Run(ctx)
		go q.search.Run(ctx)
		go q.reconciler.Run(ctx)
		go q.expediter.run(ctx)
		go q.sweeper.Run(ctx)
		go q.letters.Run(ctx)
	}
	return nil
}

// Stop stops fetching, waits for the running jobs, and interrupts jobs that don't end in
// time: they go back to the queue with no attempt charged. Then it flushes the batchers.
func (q *Queue) Stop(ctx context.Context) error {
	q.stop()
	q.EndWaits()
	var err error
	if q.works {
		err = q.stopJobs(ctx)
		err = errors.Join(err, q.heart.End(ctx, err != nil))
	}
	q.pacing.SaveAll(ctx)
	q.heard.storeAll(ctx)
	return errors.Join(err, q.stopBatchers(ctx))
}

// stopJobs ends the jobs of both ways at the same time.
func (q *Queue) stopJobs(ctx context.Context) error {
	timer := time.AfterFunc(q.grace, q.record.giveUp)
	defer timer.Stop()
	defer q.record.giveUp()
	ended := make(chan error, 1)
	go func() { ended <- q.handoff.end(ctx, q.grace, q.work, q.callback) }()
	err := q.client.Stop(ctx)
	if err != nil {
		err = fmt.Errorf("stopping river: %w", err)
	}
	return errors.Join(err, <-ended)
}

func (q *Queue) stopBatchers(ctx context.Context) error {
	stopped := make(chan struct{})
	go func() {
		for _, batcher := range []interface{ Stop() }{q.accepts, q.records, q.loads, q.finishes, q.callbacks, q.settles, q.handoff.ends, q.receivers} {
			batcher.Stop()
		}
		close(stopped)
	}()
	select {
	case <-stopped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("flushing the items that wait for the database: %w", ctx.Err())
	}
}

// cutsOff tells whether a job fails because the process is stopping, rather than for its
// cancellation.
func (q *Queue) cutsOff(ctx context.Context) bool {
	stopping := errors.Is(ctx.Err(), context.Canceled) || q.record.ctx.Err() != nil
	return stopping && !errors.Is(context.Cause(ctx), rivertype.ErrJobCancelledRemotely)
}

// Health returns the faults that the steps meet at the database.
func (q *Queue) Health() *db.Health { return q.health }

// Sample is how much there is to do, for all processes.
func (q *Queue) Sample(ctx context.Context) (db.Sample, error) {
	return db.TakeSample(ctx, q.pool, QueueNames(), callbackQueue)
}

// River is the client behind the queue, for River UI.
func (q *Queue) River() *river.Client[pgx.Tx] { return q.client }

// warnings lets warnings and errors pass.
type warnings struct{ slog.Handler }

func (h warnings) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && h.Handler.Enabled(ctx, level)
}

func (h warnings) WithAttrs(attrs []slog.Attr) slog.Handler {
	return warnings{h.Handler.WithAttrs(attrs)}
}

func (h warnings) WithGroup(name string) slog.Handler { return warnings{h.Handler.WithGroup(name)} }
