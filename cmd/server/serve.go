package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"ringback/api"
	"ringback/cmd/server/console"
	"ringback/db"
	"ringback/jobs"
	"ringback/jobs/clients"
	"ringback/jobs/webhook"
)

// server is the running program.
type server struct {
	config    Config
	logger    *slog.Logger
	pool      *pgxpool.Pool // our steps and the API
	readPool  *pgxpool.Pool // what clients read: slow reads take no connection from anything else
	riverPool *pgxpool.Pool // River: a storm on the API must not keep it from fetching
	clients   *clients.Directory
	sender    *webhook.Sender
	queue     *jobs.Queue
	public    *http.Server
	listener  *net.TCPListener // of public, once it serves
	bound     *connections     // that come from it
	served    chan struct{}    // closed when nothing more is accepted
	admin     *http.Server     // nil for none
	console   *console.Console // its pages
	draining  atomic.Bool
	interrupt context.CancelFunc // ends the calls that are still open
	unwatch   context.CancelFunc // ends what keeps the clients up to date
}

// serve runs until ctx ends or a listener fails, and then drains.
func serve(ctx context.Context, config Config, logger *slog.Logger, stdout io.Writer) error {
	s, err := newServer(ctx, config, logger)
	if err != nil {
		return err
	}
	defer s.close()
	failed := make(chan error, 2)
	if err := s.start(ctx, stdout, failed); err != nil {
		s.stop(ctx)
		return err
	}
	select {
	case <-ctx.Done():
		err = nil
	case err = <-failed:
	}
	s.stop(ctx)
	return err
}

func newServer(ctx context.Context, config Config, logger *slog.Logger) (*server, error) {
	if config.dev { // the caller has the machine alone, as with limits
		config.ClientReads = 0
	}
	if err := db.Migrate(ctx, config.DatabaseURL); err != nil {
		return nil, err
	}
	s := &server{config: config, logger: logger}
	err := s.openPools(ctx)
	if err == nil {
		err = s.openClients(ctx)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	registry := newRegistry(map[string]*pgxpool.Pool{"steps": s.pool, "reads": s.readPool, "river": s.riverPool})
	policy := callbackPolicy(config)
	s.sender = webhook.NewSender(policy, version())
	if s.queue, err = jobs.New(jobs.Config{
		Pool: s.pool, RiverPool: s.riverPool, Logger: logger, Catalog: config.catalog, Sender: s.sender, Secrets: s.clients.Secrets,
		Workers: workers(config), CallbackRate: config.CallbackRate, Consent: bool(config.CallbackConsent), Works: config.WorkLimit,
		AcceptQueue: config.AsyncLimit, Unfinished: config.Unfinished,
		Limits: s.limits(), Callbacks: s.clients.Callbacks,
		Retention: config.Retention, DeadLetters: config.DeadLetters, SoftStopTimeout: config.StopTimeout, Metrics: registry,
	}); err == nil {
		err = s.openAdmin(ctx, policy, registry)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	s.bound = newConnections(config.Connections, append(config.Proxies, loopback...), registry)
	s.public = s.newPublic(ctx, policy, registry)
	return s, nil
}

// openAdmin makes what the admin listener serves, if there is one.
func (s *server) openAdmin(ctx context.Context, policy webhook.Policy, registry *prometheus.Registry) (err error) {
	localClient := ""
	if s.config.dev {
		localClient = clients.Local
	}
	s.console, err = console.New(console.Config{
		Pool: s.pool, Reads: s.readPool, Queue: s.queue, Metrics: registry, LocalClient: localClient, Version: version(), Logger: s.logger,
		CheckCallback: func(client, callbackURL string) error {
			if _, err := policy.Check(callbackURL); err != nil {
				return err
			}
			return s.clients.Callbacks(client).Check(callbackURL)
		},
	})
	if err != nil {
		return err
	}
	s.admin, err = newAdmin(ctx, s.config, s.queue, s.console, metricsHandler(registry), s.logger)
	return err
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

// openClients reads who may call, and says what an operator should know of it.
func (s *server) openClients(ctx context.Context) error {
	known, err := clients.Open(ctx, s.pool, s.config.SecretsKey, s.logger)
	if err != nil {
		return err
	}
	s.clients = known
	if s.config.role != "worker" && !isLoopback(s.config.HTTPAddr) && known.Empty() {
		return fmt.Errorf("HTTP_ADDR is not a loopback address (%q), and nobody may call yet: add a client with ringback client add NAME", s.config.HTTPAddr)
	}
	if plain := known.Plain(); plain > 0 || !s.config.dev && len(s.config.SecretsKey) == 0 {
		s.logger.Warn("signing_secrets_are_not_sealed", "clients", plain, "remedy", "set SECRETS_KEY and run ringback client reseal")
	}
	return nil
}

// limits tells the limits of each client. It is nil in local mode, where the caller
// has the machine alone.
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

func (s *server) newPublic(ctx context.Context, policy webhook.Policy, registry *prometheus.Registry) *http.Server {
	settings := api.Config{
		Pool: s.pool, Reads: s.readPool, ReadLimit: int(s.readPool.Stat().MaxConns()), Queue: s.queue, Logger: s.logger, CallbackPolicy: policy,
		Catalog:    s.config.catalog,
		FindClient: s.clients.Find, Limits: s.limits(), Callbacks: s.clients.Callbacks, SyncLimit: s.config.WorkLimit, ClientReads: s.config.ClientReads,
		Draining: s.draining.Load, Metrics: registry,
	}
	if s.config.dev {
		settings.LocalClient = clients.Local
	}
	handler := api.New
	if s.config.role == "worker" {
		handler = api.NewHealth
	}
	public := handler(settings)
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
		WriteTimeout:      10 * time.Second, // for what isn't an answer of the API, which begins its own when it is there
		IdleTimeout:       75 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelWarn),
	}
}

// leaving tells callers, while the server stops, to come back on another
// connection. One that sends on a connection just as it is closed couldn't know
// whether its call was done.
func (s *server) leaving(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.draining.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// start begins to work and to listen. A listener that fails later is reported
// on failed.
func (s *server) start(ctx context.Context, stdout io.Writer, failed chan<- error) error {
	listener, err := listenTCP(ctx, s.config.HTTPAddr)
	if err != nil {
		return fmt.Errorf("listening for the API: %w", err)
	}
	adminAddr := ""
	if s.admin != nil {
		adminListener, err := net.Listen("tcp", s.config.AdminAddr)
		if err != nil {
			listener.Close()
			return fmt.Errorf("listening for the admin pages: %w", err)
		}
		adminAddr = adminListener.Addr().String()
		go serveOn(adminListener, s.admin, failed)
	}
	if err := s.queue.Start(ctx); err != nil {
		listener.Close()
		return err
	}
	watching, unwatch := context.WithCancel(context.WithoutCancel(ctx))
	s.unwatch = unwatch
	go s.clients.Watch(watching)
	if s.admin != nil {
		go s.console.Watch(watching)
	}
	s.listener, s.served = listener, make(chan struct{})
	go func() {
		defer close(s.served)
		serveOn(s.bound.on(listener), s.public, failed)
	}()
	s.logger.Info("listening", "addr", listener.Addr().String(), "admin_addr", adminAddr, "role", s.config.role, "version", version())
	if s.config.dev && s.config.role != "worker" {
		fmt.Fprintf(stdout, welcome, listener.Addr(), adminAddr)
	}
	return nil
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

// stop ends everything in the order in which it feeds the next: calls, then
// jobs, each with a deadline of its own.
func (s *server) stop(ctx context.Context) {
	ctx = context.WithoutCancel(ctx) // it has ended, but stopping takes time
	start := time.Now()
	s.draining.Store(true)
	s.logger.Info("stopping")
	s.queue.EndWaits()
	// Calls are still taken for a moment: for callers to leave, and for whoever
	// spreads them to see that health says 503.
	time.Sleep(min(time.Second, s.config.StopTimeout/10))
	s.stopCalls(ctx)
	s.within(ctx, "jobs", s.config.StopTimeout+5*time.Second, s.queue.Stop)
	if s.admin != nil {
		s.admin.Close()
	}
	s.logger.Info("stopped", "duration_ms", time.Since(start).Milliseconds())
}

// stopCalls lets open calls end. Those that take too long are interrupted,
// which they answer with 503.
func (s *server) stopCalls(ctx context.Context) {
	if s.listener != nil {
		s.within(ctx, "waiting connections", min(2*time.Second, s.config.StopTimeout), s.stopListening)
	}
	if s.within(ctx, "calls", s.config.StopTimeout, s.public.Shutdown) {
		return
	}
	s.interrupt()
	if !s.within(ctx, "interrupted calls", 5*time.Second, s.public.Shutdown) {
		s.public.Close()
	}
}

// stopListening closes the listener when every connection that was made is
// accepted, and returns when each has brought its first call.
func (s *server) stopListening(ctx context.Context) error {
	if err := emptyQueue(ctx, s.listener); err != nil {
		return err // Shutdown closes it
	}
	s.listener.Close()
	<-s.served
	s.bound.awaitCalls(ctx)
	return nil
}

// within runs a step of stopping and tells whether it ended in time.
func (s *server) within(ctx context.Context, what string, limit time.Duration, step func(context.Context) error) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := step(ctx); err != nil {
		s.logger.Warn("stopping_took_too_long", "what", what, "error", err)
		return false
	}
	return true
}

// close frees what newServer opened. A connection that is stuck holds it up no
// longer than a moment: the process ends, and the connection with it.
func (s *server) close() {
	if s.interrupt != nil {
		s.interrupt()
	}
	if s.unwatch != nil {
		s.unwatch()
	}
	if s.sender != nil {
		s.sender.Close()
	}
	closed := make(chan struct{})
	go func() {
		for _, pool := range []*pgxpool.Pool{s.riverPool, s.readPool, s.pool} {
			if pool != nil {
				pool.Close()
			}
		}
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(5 * time.Second):
		s.logger.Warn("stopping_took_too_long", "what", "database connections")
	}
}

// version is that of the module as it was built.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}
