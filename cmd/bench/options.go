package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// options is what the command line and the environment ask for.
type options struct {
	databaseURL string   // names the Postgres; the databases are made beside the one it names
	server      string   // path of the server's program
	storm       string   // path of storm
	only        []string // parts to run, all of them when empty
	out         string   // file for the figures, none when empty
	logs        string   // folder for what the servers write, nowhere when empty
	settings    []string // NAME=VALUE for our server, to try one out
	plan        plan
}

// plan is how long everything takes.
type plan struct {
	repeat int // of every measurement

	connections  []int // that accept is measured with
	acceptWarmup time.Duration
	acceptFor    time.Duration

	window       int // requests accepted and not yet called back, at saturation
	steadyWarmup time.Duration
	steadyFor    time.Duration

	grown   []grownTable
	backlog int // requests accepted before the first worker starts
}

// grownTable is a number of finished requests to find in the table.
type grownTable struct {
	name string // in keys
	rows int
}

func fullPlan() plan {
	return plan{
		repeat:       3,
		connections:  []int{1, 64, 256},
		acceptWarmup: time.Second,
		acceptFor:    4 * time.Second,
		window:       4000,
		steadyWarmup: 3 * time.Second,
		steadyFor:    8 * time.Second,
		grown:        []grownTable{{"10k", 10_000}, {"1m", 1_000_000}, {"10m", 10_000_000}},
		backlog:      100_000,
	}
}

// shortPlan leaves out growth, and fits in three minutes.
func shortPlan() plan {
	short := fullPlan()
	short.connections = []int{64}
	short.acceptFor = 2 * time.Second
	short.steadyWarmup = 2 * time.Second
	short.steadyFor = 4 * time.Second
	short.grown = nil
	short.backlog = 0
	return short
}

func readOptions(args []string, getenv func(string) string, stderr io.Writer) (options, error) {
	o := options{databaseURL: getenv("DATABASE_URL")}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	short := flags.Bool("short", getenv("BENCH") == "short", "under three minutes, without growth (also BENCH=short)")
	repeat := flags.Int("repeat", fullPlan().repeat, "`times` that everything is measured")
	flags.Func("only", "comma-separated `parts` to run: "+strings.Join(partNames(), ", "), func(text string) error {
		o.only = strings.Split(text, ",")
		return checkParts(o.only)
	})
	flags.StringVar(&o.server, "server", "bin/ringback", "the server's `program`")
	flags.StringVar(&o.storm, "storm", "bin/storm", "storm's `program`")
	flags.StringVar(&o.out, "out", "", "`file` for the figures, as JSON")
	flags.StringVar(&o.logs, "logs", "", "`folder` for the servers' logs, which are thrown away otherwise")
	flags.Func("env", "`NAME=VALUE`: a setting for our server; may be repeated", func(text string) error {
		o.settings = append(o.settings, text)
		return nil
	})
	window := flags.Int("window", fullPlan().window, "`requests` accepted and not yet called back, at saturation")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.plan = fullPlan()
	if *short {
		o.plan = shortPlan()
	}
	o.plan.repeat, o.plan.window = *repeat, *window
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case o.databaseURL == "":
		return o, errors.New("DATABASE_URL must name a Postgres: scripts/bench.sh starts one")
	case *repeat < 1 || *window < 1:
		return o, errors.New("-repeat and -window must be at least 1")
	}
	return o, nil
}

func checkParts(names []string) error {
	for _, name := range names {
		if !slices.Contains(partNames(), name) {
			return fmt.Errorf("no part is called %q", name)
		}
	}
	return nil
}
