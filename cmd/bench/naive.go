package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"

	"ringback/db"
	"ringback/jobs/webhook"
)

// naiveServer is the service as it would be with one transaction per step:
// accept {job, row}, finish {lock, callback job, outcome}, settle {lock,
// attempt, state}. It is what the sets of our hot path are compared with, so it
// does all else as the service does: the same checks, headers, log lines, pools
// and queue. POST /async and GET /healthz are all it has.
type naiveServer struct {
	pool   *pgxpool.Pool // for the steps
	river  *pgxpool.Pool // for River's own statements
	client *river.Client[pgx.Tx]
	logger *slog.Logger
	policy webhook.Policy
	sender *webhook.Sender
	secret webhook.Secret
	gate   chan struct{}
}

// naiveOptions come from the command line and from the environment that the
// service has, too.
type naiveOptions struct {
	databaseURL string
	address     string
	role        string // all or api
	workers     int    // of either kind
	cooldown    time.Duration
}

// naiveGate is how many requests are accepted at a time: one for each
// connection that the benchmark opens.
const naiveGate = 256

func runNaive(ctx context.Context, args []string, getenv func(string) string, stderr io.Writer) error {
	o := naiveOptions{databaseURL: getenv("DATABASE_URL"), address: getenv("HTTP_ADDR"), workers: 100}
	if workers := getenv("WORKERS"); workers != "" {
		var err error
		if o.workers, err = strconv.Atoi(workers); err != nil {
			return fmt.Errorf("WORKERS must be a number: %w", err)
		}
	}
	flags := flag.NewFlagSet("bench naive", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.role, "role", "all", "all or api")
	flags.DurationVar(&o.cooldown, "cooldown", 5*time.Millisecond, "River's FetchCooldown")
	if err := flags.Parse(args); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", o.address)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	defer listener.Close()
	return serveNaive(ctx, o, listener, slog.New(slog.NewTextHandler(stderr, nil)))
}

// serveNaive serves on listener until ctx ends, and then drains.
func serveNaive(ctx context.Context, o naiveOptions, listener net.Listener, logger *slog.Logger) error {
	n, err := newNaive(ctx, o, logger)
	if err != nil {
		return err
	}
	defer n.close()
	if o.role == "all" {
		if err := n.client.Start(context.WithoutCancel(ctx)); err != nil {
			return fmt.Errorf("starting river: %w", err)
		}
	}
	public := &http.Server{
		Handler:           n.routes(),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       75 * time.Second,
		MaxHeaderBytes:    16 << 10,
	}
	failed := make(chan error, 1)
	go func() { failed <- public.Serve(listener) }()
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	return errors.Join(err, n.drain(ctx, public, o.role == "all"))
}

func newNaive(ctx context.Context, o naiveOptions, logger *slog.Logger) (*naiveServer, error) {
	if err := db.Migrate(ctx, o.databaseURL); err != nil {
		return nil, err
	}
	n := &naiveServer{logger: logger, policy: webhook.Policy{Local: true}, gate: make(chan struct{}, naiveGate)}
	var err error
	if n.pool, err = db.Open(ctx, o.databaseURL, 5*time.Second); err != nil {
		return nil, err
	}
	if n.river, err = db.Open(ctx, o.databaseURL, 90*time.Second); err != nil {
		n.pool.Close()
		return nil, err
	}
	n.sender = webhook.NewSender(n.policy, "bench")
	if n.secret, err = webhook.ParseSecret(webhook.NewSecret()); err != nil {
		n.close()
		return nil, err
	}
	if n.client, err = newNaiveClient(n, o); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

func (n *naiveServer) drain(ctx context.Context, public *http.Server, works bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	err := public.Shutdown(ctx)
	if works {
		err = errors.Join(err, n.client.Stop(ctx))
	}
	return err
}

func (n *naiveServer) close() {
	n.sender.Close()
	n.river.Close()
	n.pool.Close()
}
