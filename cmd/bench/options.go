package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// options are the command line's and the environment's.
type options struct {
	databaseURL string   // names the Postgres; the databases are made beside this database
	server      string   // path of the server's program
	storm       string   // path of storm
	only        []string // parts to run, all of them when empty
	out         string   // file for the figures, none when empty
	logs        string   // folder for the servers' logs, nowhere when empty
	settings    []string // NAME=VALUE for this commit's server, to try a setting out
	against     string   // an earlier commit, whose server is compared with this commit's; none when empty
	plan        plan
}

// plan is how long everything takes.
type plan struct {
	repeat int // of every measurement

	connections  []int // that accept is measured with
	acceptWarmup time.Duration
	acceptFor    time.Duration

	// senders are the connections at saturation. With 64 our workers are as fast as
	// the callers and wait for them (2.3k/s); 256 and 512 give the same (3.1k/s).
	senders      int
	window       int // requests accepted and not yet called back, at saturation
	steadyWarmup time.Duration
	steadyFor    time.Duration

	stormRepeat int           // of every measurement with storm
	timingFor   time.Duration // of a storm that measures latency
	rates       []int         // requests a second at which it is measured
	snapshotFor time.Duration // of a storm beside an open snapshot; none when 0
	stormFor    time.Duration // of a storm beyond the capacity
	storms      []int         // multiples of the capacity

	attackFor time.Duration // of a client that is measured beside an attacker

	grown   []int // finished requests to find in the table, the fewest first
	backlog int   // requests accepted before the first worker starts
	swept   int   // requests to find in the table that are too old
	broken  int   // callbacks to a broken receiver that are queued

	upstreamAway time.Duration // how long the upstream is; not at all when 0
	waiting      int           // requests that wait for an upstream that says 202
}

func fullPlan() plan {
	return plan{
		repeat:       3,
		connections:  []int{1, 64, 256},
		acceptWarmup: time.Second,
		acceptFor:    4 * time.Second,
		senders:      256,
		window:       2000,
		steadyWarmup: stormWarmup,
		steadyFor:    8 * time.Second,
		stormRepeat:  3,
		timingFor:    12 * time.Second,
		rates:        []int{200, 500, 1000},
		snapshotFor:  5 * time.Minute,
		stormFor:     8 * time.Second,
		storms:       []int{1, 2, 5},
		attackFor:    8 * time.Second,
		grown:        []int{10_000, 1_000_000, 10_000_000},
		backlog:      100_000,
		swept:        300_000,
		broken:       10_000,
		upstreamAway: time.Minute,
		waiting:      10_000,
	}
}

// shortPlan leaves out growth and retention, and fits in some seven minutes.
func shortPlan() plan {
	short := fullPlan()
	short.repeat = 2
	short.connections = []int{64}
	short.acceptWarmup = time.Second / 2
	short.acceptFor = 2 * time.Second
	short.steadyWarmup = 8 * time.Second
	short.steadyFor = 3 * time.Second
	short.stormRepeat = 1
	short.timingFor = 4 * time.Second
	short.snapshotFor = 10 * time.Second
	short.stormFor = 5 * time.Second
	short.storms = []int{5}
	short.attackFor = 3 * time.Second
	short.grown = nil
	short.backlog = 0
	short.swept = 0
	short.broken = 0
	short.upstreamAway = 10 * time.Second
	short.waiting = 2000
	return short
}

func readOptions(args []string, getenv func(string) string, stderr io.Writer) (options, error) {
	o := options{databaseURL: getenv("DATABASE_URL"), against: beforeHandOver, plan: fullPlan()}
	if getenv("BENCH") == "short" {
		o.plan = shortPlan()
	}
	flags := newFlags(&o)
	flags.SetOutput(stderr)
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.plan.stormRepeat = min(o.plan.stormRepeat, o.plan.repeat)
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case o.databaseURL == "":
		return o, errors.New("DATABASE_URL must name a Postgres: scripts/bench.sh starts one")
	case strings.HasPrefix(o.against, "-"):
		return o, fmt.Errorf("-against: no commit is called %q", o.against)
	case o.plan.snapshotFor != 0 && o.plan.snapshotFor < 5*time.Second || o.plan.snapshotFor > 30*time.Minute:
		return o, errors.New("-snapshot must be from 5s to 30m, or 0")
	case o.plan.repeat < 1:
		return o, errors.New("-repeat must be at least 1")
	}
	return o, nil
}

func newFlags(o *options) *flag.FlagSet {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.IntVar(&o.plan.repeat, "repeat", o.plan.repeat, "`times` that everything is measured")
	flags.StringVar(&o.server, "server", "bin/ringback", "the server's `program`")
	flags.StringVar(&o.storm, "storm", "bin/storm", "storm's `program`")
	flags.StringVar(&o.out, "out", "", "`file` for the figures, as JSON")
	flags.StringVar(&o.logs, "logs", "", "`folder` for the servers' logs, which are thrown away otherwise")
	flags.StringVar(&o.against, "against", o.against, "earlier `commit` to compare the throughput with, empty for none")
	flags.DurationVar(&o.plan.snapshotFor, "snapshot", o.plan.snapshotFor, "how long the part snapshot has one open, 0 for not at all;\nthe last fifth is measured")
	flags.Func("only", "comma-separated `parts` to run: "+strings.Join(partNames(), ", "), func(text string) error {
		o.only = strings.Split(text, ",")
		return checkParts(o.only)
	})
	flags.Func("env", "`NAME=VALUE`: a setting for our server as it is now, to try one out; may be repeated", func(text string) error {
		o.settings = append(o.settings, text)
		return nil
	})
	flags.Func("rows", "comma-separated `numbers` of finished requests for the part growth (default 10000,1000000,10000000)", func(text string) (err error) {
		o.plan.grown, err = parseRows(text)
		return err
	})
	return flags
}

func parseRows(text string) (rows []int, err error) {
	for number := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 || n > 50_000_000 {
			return nil, errors.New("want whole numbers from 1 to 50000000")
		}
		rows = append(rows, n)
	}
	slices.Sort(rows)
	return rows, nil
}

// rowsName is how a number of rows is called in keys: 10k, 1m.
func rowsName(rows int) string {
	switch {
	case rows%1_000_000 == 0:
		return fmt.Sprintf("%dm", rows/1_000_000)
	case rows%1000 == 0:
		return fmt.Sprintf("%dk", rows/1000)
	default:
		return strconv.Itoa(rows)
	}
}

func checkParts(names []string) error {
	for _, name := range names {
		if !slices.Contains(partNames(), name) {
			return fmt.Errorf("no part is called %q", name)
		}
	}
	return nil
}
