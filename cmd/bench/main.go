// Command bench measures the service, side by side with an earlier commit and with River
// alone. Every measurement has a fresh database and a server process of its own, variants
// take turns, and each figure is the median of the repetitions.
//
// It needs a Postgres whose role may create databases (DATABASE_URL), best without other
// users: some counts per request are those of the whole Postgres. scripts/bench.sh starts
// such a Postgres.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"ringback/cmd/internal/stage"
)

func main() { stage.Main("bench", run) }

// run is the program. It also prints and writes the figures of a run that ended early.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	options, err := readOptions(args, getenv, stderr)
	if err != nil {
		return err
	}
	cluster, err := openCluster(ctx, options.databaseURL)
	if err != nil {
		return err
	}
	defer cluster.Close()
	b := &bench{options: options, cluster: cluster, figures: figures{}, out: stdout}
	start := time.Now()
	err = b.on(ctx, func(s *measurement) { s.runScenarios(scenarios()) })
	b.say("took %s", time.Since(start).Round(time.Second))
	b.figures.print(stdout)
	if options.out != "" {
		err = errors.Join(err, b.figures.write(options.out, b.circumstances(start)))
	}
	return err
}

// options are the command line's and the environment's.
type options struct {
	plan
	databaseURL string   // of a database of the Postgres; bench makes databases beside it
	server      string   // path of the server's program
	only        []string // scenarios to run, all when empty
	out         string   // file for the figures, none when empty
	logs        string   // folder for the servers' logs, none when empty
	against     string   // an earlier commit, whose server is compared with this commit's; none when empty
}

// plan is how long the measurements take.
type plan struct {
	short        bool          // without the scenarios that take long
	repeat       int           // repetitions of every measurement
	warmup       time.Duration // at saturation, before the measurement
	saturated    time.Duration // at saturation
	timed        time.Duration // of a measurement at a given rate
	snapshot     time.Duration // beside an open snapshot; the last fifth is measured
	upstreamAway time.Duration // how long the upstream is away
	waiting      int           // requests that wait for an upstream that answers 202
}

// newPlan returns a plan of some 80 minutes, or of seven.
func newPlan(short bool) plan {
	if short {
		return plan{true, 1, 8 * time.Second, 3 * time.Second, 4 * time.Second, 10 * time.Second, 10 * time.Second, 2000}
	}
	return plan{false, 3, stormWarmup, 8 * time.Second, 12 * time.Second, 5 * time.Minute, time.Minute, 10_000}
}

func readOptions(args []string, getenv func(string) string, stderr io.Writer) (options, error) {
	o := options{databaseURL: getenv("DATABASE_URL"), plan: newPlan(getenv("BENCH") == "short")}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.repeat, "repeat", o.repeat, "`times` that everything is measured")
	flags.StringVar(&o.server, "server", "bin/ringback", "the server's `program`")
	flags.StringVar(&o.out, "out", "", "`file` for the figures, as JSON")
	flags.StringVar(&o.logs, "logs", "", "`folder` for the servers' logs, which are thrown away otherwise")
	flags.StringVar(&o.against, "against", beforeHandOver, "earlier `commit` to compare the throughput with, empty for none")
	flags.Func("only", "comma-separated `scenarios` to run:\n"+describeScenarios(), func(text string) error {
		o.only = strings.Split(text, ",")
		return checkNames(o.only)
	})
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case o.databaseURL == "":
		return o, errors.New("DATABASE_URL must name a Postgres: scripts/bench.sh starts one")
	case strings.HasPrefix(o.against, "-"):
		return o, fmt.Errorf("-against: no commit is called %q", o.against)
	case o.repeat < 1:
		return o, errors.New("-repeat must be at least 1")
	}
	return o, nil
}

func describeScenarios() string {
	var lines strings.Builder
	for _, scenario := range scenarios() {
		fmt.Fprintf(&lines, "%-10s %s\n", scenario.name, scenario.what)
	}
	return strings.TrimSuffix(lines.String(), "\n")
}

func checkNames(names []string) error {
	for _, name := range names {
		if !slices.ContainsFunc(scenarios(), func(s scenario) bool { return s.name == name }) {
			return fmt.Errorf("no scenario is called %q", name)
		}
	}
	return nil
}
