// The server answers sync and async requests and works the async ones off.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/caarlos0/env/v11"

	"ringback/db"
	"ringback/work"
)

func main() {
	// What net/http writes there is text that a receiver sent unasked.
	log.SetOutput(io.Discard)
	// A log that nobody reads any more is no reason to end.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), endings()...)
	context.AfterFunc(ctx, stop) // from the first signal on, a second one ends the process at once
	if os.Getenv("GOGC") == "" {
		// What lives is small, and what a request allocates is garbage soon: to
		// collect less often gave 7 % more throughput, for some 50 MiB.
		debug.SetGCPercent(400)
	}
	obeyCgroup(env.ToMap(os.Environ()), os.DirFS("/"))
	err := run(ctx, os.Args[1:], env.ToMap(os.Environ()), os.Stdout, os.Stderr, works)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	case err != nil:
		tell(os.Stderr, "ringback: %v\n", err)
		os.Exit(1)
	}
}

// endings are the signals that end the process once it has drained. A process that was
// started to outlive its terminal, as by nohup, ignores SIGHUP and goes on to.
func endings() []os.Signal {
	if signal.Ignored(syscall.SIGHUP) {
		return []os.Signal{os.Interrupt, syscall.SIGTERM}
	}
	return []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP}
}

// tell writes what there is to say at the end, and waits for its reader for a moment
// at most.
func tell(out io.Writer, format string, args ...any) {
	buffer := newLogBuffer(out)
	fmt.Fprintf(buffer, format, args...)
	buffer.flush()
}

// errUsage says that the command line was wrong, which has been told already.
var errUsage = errors.New("wrong usage")

// run is the program: it serves until ctx ends, and returns when all is
// drained.
func run(ctx context.Context, args []string, environ map[string]string, stdout, stderr io.Writer, set work.Set) error {
	options, err := readOptions(args, stdout, stderr)
	if err != nil {
		return err
	}
	config, err := readConfig(environ, options, set)
	if err != nil {
		return err
	}
	if options.healthcheck {
		return checkHealth(ctx, config.HTTPAddr)
	}
	if options.migrate {
		return migrateSchema(ctx, config, newLogger(config, stderr))
	}
	if options.client.action != "" {
		return options.client.run(ctx, config, stdout)
	}
	if options.receiver.action != "" {
		return options.receiver.run(ctx, config, stdout)
	}
	log, out := newLogBuffer(stderr), newLogBuffer(stdout)
	defer log.flush()
	return serve(ctx, config, newLogger(config, log), log, out)
}

// migrateSchema is `ringback migrate`.
func migrateSchema(ctx context.Context, config Config, logger *slog.Logger) error {
	if err := db.CheckServer(ctx, config.DatabaseURL); err != nil {
		return err
	}
	return db.MigrateTelling(ctx, config.DatabaseURL, logger)
}

// options is the command line.
type options struct {
	dev         bool
	role        string
	healthcheck bool          // the command is healthcheck instead of serving
	migrate     bool          // likewise
	client      clientCommand // likewise, where it has an action
	receiver    receiverCommand
}

// storesSecrets tells whether the command serves outside local mode, or stores signing
// secrets for who does.
func (o options) storesSecrets() bool {
	switch o.client.action {
	case "":
		return !o.dev && !o.healthcheck && !o.migrate && o.receiver.action == ""
	case "add", "rotate", "reseal":
		return !o.dev
	}
	return false
}

func readOptions(args []string, stdout, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("ringback", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.BoolVar(&o.dev, "dev", false, "")
	flags.StringVar(&o.role, "role", "all", "")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage, "\nSettings come from the environment:\n\n", settingsTable())
		return o, err
	case err == nil && flags.NArg() == 1 && flags.Arg(0) == "healthcheck":
		o.healthcheck = true
	case err == nil && flags.NArg() == 1 && flags.Arg(0) == "migrate":
		o.migrate = true
	case err == nil && flags.Arg(0) == "client":
		o.client, err = readClientCommand(flags.Args()[1:])
	case err == nil && flags.Arg(0) == "receiver":
		o.receiver, err = readReceiverCommand(flags.Args()[1:])
	case err == nil && flags.NArg() > 0:
		err = fmt.Errorf("unknown argument %q", flags.Arg(flags.NArg()-1))
	case err == nil && o.role != "all" && o.role != "api" && o.role != "worker":
		err = fmt.Errorf("--role must be all, api or worker, not %q", o.role)
	}
	if err != nil {
		fmt.Fprintf(stderr, "ringback: %v\n\n%s", err, usage)
		return o, errUsage
	}
	return o, nil
}

const usage = `Usage: ringback [--dev] [--role=all|api|worker]
       ringback client add|rotate|disable NAME
       ringback client set NAME [--rate N] [--unfinished N] [--per-destination N]
                                [--storage BYTES] [--dead-letters N] [--callbacks HOST,…]
       ringback client list [--json]
       ringback client reseal
       ringback receiver list [--json]
       ringback receiver allow HOST[:PORT] [--rate N] [--concurrency N]
       ringback receiver deny|forget HOST[:PORT]
       ringback migrate
       ringback healthcheck

  --dev        local mode: loopback only, no API key needed, callbacks by
               http and to loopback allowed, logs for people
  --role       all (default), api: accepts only, worker: works jobs off only
  --help       this, and every setting
  client       add prints an API key and the secret that callbacks are signed
               with, once; rotate prints new ones, and the old ones work for
               another day; set gives a client limits of its own instead of the
               settings' CLIENT_RATE and so on (default takes one back), and the
               hosts that its callbacks may name: host, host:port or *.suffix;
               reseal stores the secrets again, sealed with the first SECRETS_KEY
  receiver     list shows what is known of the receivers of callbacks; allow
               lets one have so many callbacks a second and at a time, without
               a number as many as it takes; deny sends it none; forget takes
               that back, and drops what it was known to take. Without a port
               it is for all ports
  migrate      brings the schema of the database up to date, as the start of a
               server does; before the first client is added, for example
  healthcheck  ends with status 0 when the server at HTTP_ADDR is healthy
`
