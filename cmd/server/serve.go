package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"ringback/api"
	"ringback/cmd/server/console"
	"ringback/db"
	"ringback/jobs"
	"ringback/jobs/clients"
	"ringback/jobs/tracing"
	"ringback/jobs/webhook"
)

// server is the running program.
type server struct {
	config    Config
	logger    *slog.Logger
	registry  *prometheus.Registry
	pool      *pgxpool.Pool // for the steps of requests and the API
	readPool  *pgxpool.Pool // for reads of clients: slow reads take no connection from anything else
	riverPool *pgxpool.Pool // for River: a storm on the API must not keep it from fetching
	health    *db.Health    // of the database behind them
	sampler   sampler       // of the steps to take in it
	clients   *clients.Directory
	sender    *webhook.Sender
	tracer    *tracing.Tracer // nil where nothing is traced
	queue     *jobs.Queue     // nil until the database is there
	public    *http.Server
	handler   *latestHandler   // of public
	listener  *net.TCPListener // of public
	bound     *connections     // from listener
	serving   sync.Once
	served    chan struct{} // closed when nothing more is accepted
	admin     *http.Server  // nil for none
	metrics   *http.Server  // likewise
	pages     *latestHandler
	console   *console.Console // nil where there is no admin
	adminAddr string
	failed    chan error // a listener
	draining  atomic.Bool
	interrupt context.CancelFunc // ends the calls that are still open
	unwatch   context.CancelFunc // ends the goroutines of begin
}

// serve runs until ctx ends or a listener fails, and then drains.
func serve(ctx context.Context, config Config, logger *slog.Logger, log *logBuffer, stdout io.Writer) error {
	s, err := newServer(ctx, config, logger)
	if err != nil {
		return err
	}
	log.watch(s.registry)
	defer s.close()
	if err := s.listen(ctx); err != nil {
		return err
	}
	err = s.await(ctx, s.prepare)
	switch {
	case ctx.Err() != nil: // it was told to stop before it began
		s.logger.Info("stopped")
		return nil
	case err != nil:
		return err
	}
	s.begin(ctx, stdout)
	select {
	case <-ctx.Done():
		err = nil
	case err = <-s.failed:
	}
	s.stop(ctx)
	return err
}

// newServer makes the parts that need no database that answers.
func newServer(ctx context.Context, config Config, logger *slog.Logger) (_ *server, err error) {
	if len(config.exposed) > 0 {
		logger.Warn("calls_of_services_are_not_signed", "works", config.exposed,
			"remedy", "set WORK_SECRET, or secret in the file of WORKS, and let the services verify the signature: until then they take calls from anybody")
	}
	if inside := callbackPolicy(config).ReachableInside(); len(inside) > 0 {
		logger.Warn("callbacks_may_go_inside", "ranges", config.CallbackAllowCIDRs, "reachable", inside,
			"remedy", "name only the ranges of your receivers in CALLBACK_ALLOW_CIDRS, and take the rest back by CALLBACK_DENY_CIDRS: all clients can have this service call these addresses, on every port")
	}
	s := &server{config: config, logger: logger, failed: make(chan error, 4), served: make(chan struct{})}
	if err = s.openPools(ctx); err != nil {
		s.close()
		return nil, err
	}
	s.health = db.NewHealth(logger, s.pool, s.readPool, s.riverPool)
	s.registry = newRegistry(map[string]*pgxpool.Pool{"steps": s.pool, "reads": s.readPool, "river": s.riverPool})
	watchHealth(s.registry, s.health)
	if s.tracer, err = newTracer(config, logger, s.registry); err != nil {
		s.close()
		return nil, err
	}
	s.sampler.retention, s.sampler.logger = config.Retention, logger
	s.sampler.watch(s.registry)
	s.bound = newConnections(config.MaxConnections, append(config.ProxyCIDRs, loopback...), s.registry)
	s.handler, s.pages = newLatestHandler(api.NewStarting(logger)), newLatestHandler(metricsOnly(metricsHandler(s.registry)))
	s.public = s.newPublic(ctx)
	s.admin, s.metrics = newAdmin(config, s.pages, logger), newMetricsServer(config, metricsHandler(s.registry), logger)
	return s, nil
}

// latestHandler is a handler that may be replaced while it serves.
type latestHandler struct{ latest atomic.Pointer[http.Handler] }

func newLatestHandler(first http.Handler) *latestHandler {
	h := &latestHandler{}
	h.set(first)
	return h
}

func (h *latestHandler) set(next http.Handler) { h.latest.Store(&next) }

func (h *latestHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	(*h.latest.Load()).ServeHTTP(w, r)
}

// await calls prepare again and again while the database is away, until ctx ends. Calls
// are answered meanwhile, with 503.
func (s *server) await(ctx context.Context, prepare func(context.Context) error) error {
	late := time.AfterFunc(time.Second, s.serve) // a start that is soon over refuses nothing
	defer late.Stop()
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		err := prepare(ctx)
		if err == nil || ctx.Err() != nil || !db.IsUnavailable(err) || db.IsDenied(err) {
			return err
		}
		if pause == firstPause {
			s.serve()
			told := err
			if s.config.unsetDatabase { // mostly somebody's first start
				told = s.config.tried(err)
			}
			s.logger.Error("waiting_for_database", "addr", s.listener.Addr().String(), "admin_addr", s.adminAddr, "error", told,
				"remedy", db.RemedyOf(err)+"; this process answers 503 until then")
		}
		s.health.Note(db.StartStep, err)
		timer := time.NewTimer(jittered(pause))
		select {
		case <-timer.C:
		case err := <-s.failed:
			return err
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// Pauses of a process that waits for its database.
const (
	firstPause   = 100 * time.Millisecond
	longestPause = 3 * time.Second
)

// jittered spreads processes that wait for the same thing.
func jittered(d time.Duration) time.Duration { return d/2 + rand.N(d/2) }

// prepare brings the schema up to date and starts to work. It may run again after it
// failed.
func (s *server) prepare(ctx context.Context) error {
	if err := db.CheckServer(ctx, s.config.DatabaseURL); err != nil {
		return err
	}
	if err := db.MigrateTelling(ctx, s.config.DatabaseURL, s.logger); err != nil {
		return err
	}
	if err := s.checkMode(ctx); err != nil {
		return err
	}
	if err := s.catchUpSequences(ctx); err != nil {
		return err
	}
	if s.clients == nil {
		if err := s.openClients(ctx); err != nil {
			return err
		}
	}
	if s.queue == nil {
		if err := s.newQueue(); err != nil {
			return err
		}
	}
	if err := s.queue.Start(ctx); err != nil {
		return err
	}
	s.health.Note(db.StartStep, nil)
	return nil
}

// checkMode refuses to share a database with processes in the other mode. A process in local
// mode would take the jobs of clients whose callbacks it can't sign, and accept calls without
// a key.
func (s *server) checkMode(ctx context.Context) error {
	other, err := db.FindOtherMode(ctx, s.pool, s.config.dev)
	if err != nil || other == "" {
		return err
	}
	modes := map[bool]string{true: "in local mode (--dev)", false: "not in local mode"}
	return fmt.Errorf("process %s works on the same database and is %s, and this process is %s: stop that process (one that was killed counts for %s), or name another database in DATABASE_URL",
		other, modes[!s.config.dev], modes[s.config.dev], db.LostAfter)
}

// catchUpSequences moves sequences that are behind their tables. A role that may not
// move them leaves them as they are, which are mostly right.
func (s *server) catchUpSequences(ctx context.Context) error {
	moved, err := db.CatchUpSequences(ctx, s.pool)
	if db.IsDenied(err) {
		s.logger.Warn("sequences_not_checked", "error", err, "remedy", "GRANT SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA to the role of DATABASE_URL")
		return nil
	}
	for _, sequence := range moved {
		s.logger.Warn("sequence_was_behind", "sequence", sequence.Name, "at", sequence.At,
			"cause", "its table was copied without it, as by logical replication; it has been moved, and nothing is to be done")
	}
	return err
}

func (s *server) newQueue() (err error) {
	config := s.config
	s.sender = webhook.NewSender(callbackPolicy(config), version())
	s.queue, err = jobs.New(jobs.Config{
		Pool: s.pool, RiverPool: s.riverPool, Health: s.health, Logger: s.logger, SeldomLogger: slog.New(newSeldom(s.logger.Handler())), Catalog: s.config.catalog, Sender: s.sender, Secrets: s.clients.Secrets,
		Workers: workers(config), CallbackRate: config.CallbackRate, CallbackConsent: bool(config.CallbackConsent), WorkLimit: config.WorkLimit,
		AsyncLimit: config.AsyncLimit, UnfinishedLimit: config.UnfinishedLimit,
		Limits: s.limits(), Callbacks: s.clients.Callbacks, Headers: s.clients.OpenHeaders,
		Retention: config.Retention, DeadLetterRetention: config.DeadLetterRetention, StopTimeout: config.StopTimeout, Metrics: s.registry,
		PublicURL: config.finishURL(s.listener.Addr().(*net.TCPAddr)), Tracer: s.tracer,
	})
	return err
}

// newPages makes the handler of the admin listener.
func (s *server) newPages(ctx context.Context) (pages http.Handler, err error) {
	localClient := ""
	if s.config.dev {
		localClient = clients.Local
	}
	policy := callbackPolicy(s.config)
	s.console, err = console.New(console.Config{
		Pool: s.pool, Reads: s.readPool, Queue: s.queue, Metrics: s.registry, Unreadable: s.clients.Unreadable, NoClients: s.clients.Empty, LocalClient: localClient, Version: version(), Logger: s.logger,
		CheckCallback: func(client, callbackURL string) error {
			if _, err := policy.Check(callbackURL); err != nil {
				return err
			}
			if s.queue.IsDenied(callbackURL) {
				return errors.New("its receiver is denied")
			}
			return s.clients.Callbacks(client).Check(callbackURL)
		},
	})
	if err != nil {
		return nil, err
	}
	return newPages(ctx, s.queue, s.console, metricsHandler(s.registry), s.logger)
}

// openPools makes the pools, without connecting yet.
func (s *server) openPools(ctx context.Context) (err error) {
	if s.pool, err = db.Open(ctx, s.config.DatabaseURL, 5*time.Second); err != nil {
		return err
	}
	if s.readPool, err = db.OpenReads(ctx, s.config.DatabaseURL, time.Second); err != nil {
		return err
	}
	// River's cleaner and reindexer run statements of up to a minute.
	s.riverPool, err = db.OpenRiver(ctx, s.config.DatabaseURL, 90*time.Second)
	return err
}

// openClients reads the clients, and logs a warning where secrets are stored unsealed.
func (s *server) openClients(ctx context.Context) error {
	known, err := clients.Open(ctx, s.pool, s.config.SecretsKey, s.logger)
	if err != nil {
		return err
	}
	s.clients = known
	if s.config.role != "worker" && !s.config.dev && known.Empty() && !isLoopback(s.config.HTTPAddr) {
		return fmt.Errorf("HTTP_ADDR is not a loopback address (%q), and nobody may call yet: add a client with ringback client add NAME", s.config.HTTPAddr)
	}
	if plain := known.Plain(); plain > 0 {
		s.logger.Warn("signing_secrets_are_not_sealed", "clients", plain, "remedy", "set SECRETS_KEY and run ringback client reseal")
	}
	return nil
}

// limits returns the limits of each client. It is nil in local mode, where a single
// caller has the whole machine.
func (s *server) limits() func(client string) clients.Limits {
	if s.config.dev {
		return nil
	}
	defaults := s.config.clientLimits()
	return func(client string) clients.Limits { return s.clients.Limits(client, defaults) }
}

// workers is 0 for a process that only accepts.
func workers(config Config) int {
	if config.role == "api" {
		return 0
	}
	return config.Workers
}

// newAPI returns the handler of the calls.
func (s *server) newAPI() http.Handler {
	settings := api.Config{
		Pool: s.pool, Reads: s.readPool, ReadLimit: int(s.readPool.Stat().MaxConns()), Queue: s.queue, Logger: s.logger, CallbackPolicy: callbackPolicy(s.config),
		Catalog:    s.config.catalog,
		FindClient: s.clients.Find, WhyUnknown: s.clients.WhyUnknown, Limits: s.limits(), Callbacks: s.clients.Callbacks, SealHeaders: s.clients.SealHeaders, SyncLimit: s.config.WorkLimit, ClientReads: s.config.ClientReadRate,
		Draining: s.draining.Load, Metrics: s.registry, Tracer: s.tracer,
	}
	if s.config.dev {
		settings.LocalClient = clients.Local
	}
	if s.config.role == "worker" {
		return api.NewHealth(settings)
	}
	return api.New(settings)
}

func (s *server) newPublic(ctx context.Context) *http.Server {
	var public http.Handler = s.handler
	if s.config.dev {
		public = localOnly(http.NewCrossOriginProtection().Handler(public))
	}
	public = bounded(s.leaving(public))
	// The calls' context outlives ctx: a signal lets them end by themselves.
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.interrupt = cancel
	return &http.Server{
		Handler:           public,
		BaseContext:       func(net.Listener) context.Context { return base },
		ConnContext:       noteConn,
		ConnState:         s.bound.changed,
		ReadHeaderTimeout: 5 * time.Second,
		WriteTimeout:      10 * time.Second, // for answers outside the API, which sets its own deadline
		IdleTimeout:       75 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelWarn),
	}
}

// leaving tells callers, while the server stops, to come back on another connection. A
// caller that sends on a connection just as it is closed can't know whether its call was
// done.
func (s *server) leaving(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.draining.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// listen takes the addresses. Callers wait until serve.
func (s *server) listen(ctx context.Context) (err error) {
	if s.listener, err = listenTCP(ctx, s.config.HTTPAddr); err != nil {
		return cannotListen("the API", "HTTP_ADDR", err)
	}
	if s.admin != nil {
		listener, err := net.Listen("tcp", s.config.AdminAddr)
		if err != nil {
			return cannotListen("the admin pages", "ADMIN_ADDR", err)
		}
		s.adminAddr = listener.Addr().String()
		go serveOn(listener, s.admin, s.failed)
	}
	if s.metrics != nil {
		listener, err := net.Listen("tcp", s.config.MetricsAddr)
		if err != nil {
			return cannotListen("metrics", "METRICS_ADDR", err)
		}
		s.logger.Info("metrics", "addr", listener.Addr().String())
		go serveOn(listener, s.metrics, s.failed)
	}
	return nil
}

// cannotListen names the setting that mends the error.
func cannotListen(what, setting string, err error) error {
	err = fmt.Errorf("listening for %s (%s): %w", what, setting, err)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w: another ringback may be running: stop it, or set %s to an address with a free port", err, setting)
	}
	return err
}

// serve begins to answer calls, once.
func (s *server) serve() {
	s.serving.Do(func() {
		go func() {
			defer close(s.served)
			serveOn(s.bound.on(s.listener), s.public, s.failed)
		}()
	})
}

// begin lets calls in. A listener that fails later is reported on failed.
func (s *server) begin(ctx context.Context, stdout io.Writer) {
	watching, unwatch := context.WithCancel(context.WithoutCancel(ctx))
	s.unwatch = unwatch
	go s.clients.Watch(watching)
	s.sampler.take = s.queue.Sample
	go s.sampler.run(watching)
	go watchQueues(s.readPool, s.registry, s.logger).run(watching)
	if workers(s.config) == 0 {
		go watchWorkers(s.readPool, s.logger).run(watching)
	}
	if s.config.role != "worker" && !s.config.dev {
		callers := watchCallers(s.clients.Empty, s.logger)
		callers.tell(watching)
		go callers.run(watching)
	}
	s.handler.set(s.newAPI())
	if s.admin != nil {
		if pages, err := s.newPages(ctx); err != nil {
			s.failed <- err
		} else {
			s.pages.set(pages)
			go s.console.Watch(watching)
		}
	}
	s.serve()
	s.logger.Info("listening", "addr", s.listener.Addr().String(), "admin_addr", s.adminAddr, "role", s.config.role, "version", version())
	if s.config.dev && s.config.role != "worker" {
		fmt.Fprintf(stdout, welcome, s.listener.Addr(), s.adminAddr)
	}
}

// listenTCP takes TCP only, without the multipath that is Go's default where the
// kernel has it: emptyQueue needs a socket that takes a filter.
func listenTCP(ctx context.Context, address string) (*net.TCPListener, error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return listener.(*net.TCPListener), nil
}

const welcome = `
Ringback is ready, in local mode.

  API       http://%[1]s
  Pages     http://%[2]s/

  curl -s http://%[1]s/sync -H 'Content-Type: application/json' -d '{"input":{"text":"hello"}}'
  make storm HTTP_ADDR=%[1]s

`

// serveOn serves until the server or the listener is closed.
func serveOn(listener net.Listener, server *http.Server, failed chan<- error) {
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		failed <- fmt.Errorf("serving HTTP: %w", err)
	}
}

// version is the build's version, the module's or the commit.
func version() string {
	if stamped != "" {
		return stamped
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}
