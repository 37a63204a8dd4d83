// Command chaos runs the real server, several processes of it, under a load and faults
// that a seed decides: killed and paused processes, a database that restarts, crashes,
// goes away, is read-only, full or locked, or has another clock, receivers that fail,
// jobs that are removed, logs that nobody reads. Then it lets everything settle and
// checks that the service recovered by itself, and that no acknowledged request was lost,
// doubled, wrong or out of order.
//
// It stops and starts the Postgres that it uses, which must be its own, in
// POSTGRES_FOLDER at POSTGRES_PORT: scripts/chaos.sh sets both. Its standby is in a
// folder whose name ends in -standby, a thousand ports above.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the first signal stops the run, a second signal ends the process at once
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

// options are the command line's and the environment's.
type options struct {
	seed      uint64
	runs      int           // with the seeds that follow
	duration  time.Duration // of the load and the faults of a run
	patience  time.Duration // for calls under way at the end
	rate      int           // calls a second
	stormRate int
	faults    []kind // all, if none
	from      string // commits to upgrade from, with commas between
	server    string
	script    string // that runs Postgres
	folder    string // where it is
	port      int
	logs      string
	out       string
}

func readOptions(args []string, getenv func(string) string, stderr io.Writer) (options, error) {
	o := options{folder: getenv("POSTGRES_FOLDER")}
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Uint64Var(&o.seed, "seed", 1, "`number` that calls and faults follow from")
	flags.IntVar(&o.runs, "runs", 1, "`number` of runs, each with the next seed")
	flags.DurationVar(&o.duration, "duration", time.Minute, "how much `time` calls and faults take")
	flags.DurationVar(&o.patience, "patience", 5*time.Minute, "how much `time` everything may take to settle afterwards")
	flags.IntVar(&o.rate, "rate", 30, "`calls` a second")
	flags.IntVar(&o.stormRate, "storm-rate", 20, "`requests` a second of the storm beside them")
	flags.Func("faults", "only these `kinds`, with commas between: "+kinds(), o.addFaults)
	flags.StringVar(&o.from, "from", earlier, "upgrade from each of these `commits` as well, with commas between; none where -faults names others")
	flags.StringVar(&o.server, "server", "bin/ringback", "`path` of the server's program")
	flags.StringVar(&o.script, "postgres", "scripts/postgres.sh", "`path` of the script that runs Postgres")
	flags.StringVar(&o.logs, "logs", "", "`folder` for the servers' logs")
	flags.StringVar(&o.out, "out", "", "`file` for the report, as JSON")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	script, err := filepath.Abs(o.script)
	o.script = script
	port, portErr := strconv.Atoi(getenv("POSTGRES_PORT"))
	o.port = port
	switch {
	case err != nil:
		return o, fmt.Errorf("finding the script: %w", err)
	case flags.NArg() > 0:
		return o, fmt.Errorf("unknown argument %q", flags.Arg(0))
	case o.folder == "" || portErr != nil:
		return o, errors.New("POSTGRES_FOLDER and POSTGRES_PORT must name a Postgres that may be stopped: run scripts/chaos.sh")
	case o.runs < 1 || o.rate < 1 || o.stormRate < 1 || o.duration < 5*time.Second:
		return o, errors.New("-runs and the rates must be at least 1, -duration at least 5s")
	}
	return o, nil
}

// kinds names all kinds of faults.
func kinds() string {
	var names []string
	for _, c := range chances {
		names = append(names, string(c.kind))
	}
	return strings.Join(append(names, string(clocks), string(serverClocks), string(upgrade)), ", ")
}

func (o *options) addFaults(list string) error {
	for name := range strings.SplitSeq(list, ",") {
		apart := []kind{clocks, serverClocks, upgrade}
		if !slices.Contains(apart, kind(name)) && !slices.ContainsFunc(chances, func(c chance) bool { return string(c.kind) == name }) {
			return fmt.Errorf("there is no %q, only %s", name, kinds())
		}
		o.faults = append(o.faults, kind(name))
	}
	return nil
}

// upgrades are the commits to upgrade from.
func (o options) upgrades() []string {
	if o.from == "" || len(o.faults) > 0 && !slices.Contains(o.faults, upgrade) {
		return nil
	}
	return strings.Split(o.from, ",")
}

// seeds is how many runs there are beside the upgrades.
func (o options) seeds() int {
	if slices.Equal(o.faults, []kind{upgrade}) {
		return 0
	}
	return o.runs
}

// errBroken is a run that completed, and found a broken invariant.
var errBroken = errors.New("an invariant is broken")

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	options, err := readOptions(args, getenv, stderr)
	if err != nil {
		return err
	}
	found := report{Started: time.Now()}
	database := newDatabase(options.script, options.folder, options.port)
	if err := database.start(ctx); err != nil {
		return err
	}
	for _, commit := range options.upgrades() {
		outcome, err := runUpgrade(ctx, options, database, commit, stdout)
		if err != nil {
			return errors.Join(fmt.Errorf("upgrade from %s: %w", commit, err), found.write(options.out))
		}
		if outcome.Plan.From != "" {
			outcome.print(stdout)
			found.Runs = append(found.Runs, outcome)
		}
	}
	for i := range options.seeds() {
		outcome, err := runSeed(ctx, options, database, options.seed+uint64(i), stdout)
		if err != nil {
			return errors.Join(fmt.Errorf("seed %d: %w", options.seed+uint64(i), err), found.write(options.out))
		}
		outcome.print(stdout)
		found.Runs = append(found.Runs, outcome)
	}
	found.print(stdout)
	if err := found.write(options.out); err != nil {
		return err
	}
	if found.broken() > 0 {
		return errBroken
	}
	return nil
}
