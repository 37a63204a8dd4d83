// Command chaos runs several processes of the real server under a load and faults that a
// seed decides. Processes are killed and paused; the database restarts, crashes, goes away,
// is read-only, full or locked, or has another clock; receivers fail, jobs are removed, and
// logs aren't read. Then chaos lets everything settle, and checks that the service recovered
// by itself, and that no acknowledged request was lost, doubled, wrong or out of order.
//
// Chaos stops and starts its Postgres, which nothing else may use: it is in POSTGRES_FOLDER
// at POSTGRES_PORT, which scripts/chaos.sh sets. The standby is in a folder whose name ends
// in -standby, a thousand ports above.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"ringback/cmd/internal/program"
	"ringback/cmd/internal/stage"
)

func main() { stage.Main("chaos", run) }

// options are the command line's and the environment's.
type options struct {
	seed     uint64
	runs     int           // each with the next seed
	duration time.Duration // of the load and the faults of a run
	faults   []string      // kinds, all if empty
	from     string        // commits to upgrade from, with commas between
	logs     string
	out      string
	folder   string // of Postgres
	port     int
}

func readOptions(args []string, getenv func(string) string, stderr io.Writer) (options, error) {
	o := options{folder: getenv("POSTGRES_FOLDER")}
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Uint64Var(&o.seed, "seed", 1, "`number` that calls and faults follow from")
	flags.IntVar(&o.runs, "runs", 1, "`number` of runs, each with the next seed")
	flags.DurationVar(&o.duration, "duration", time.Minute, "how much `time` calls and faults take")
	flags.Func("faults", "only these `kinds`, with commas between: "+strings.Join(kindNames(), ", "), func(list string) error {
		o.faults = strings.Split(list, ",")
		return nil
	})
	flags.StringVar(&o.from, "from", earlier, "upgrade from each of these `commits` as well, with commas between; none where -faults names others")
	flags.StringVar(&o.logs, "logs", "", "`folder` for the servers' logs")
	flags.StringVar(&o.out, "out", "", "`file` for the report, as JSON")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	for _, name := range o.faults {
		if !slices.Contains(kindNames(), name) {
			return o, fmt.Errorf("there is no fault %q", name)
		}
	}
	var err error
	o.port, err = strconv.Atoi(getenv("POSTGRES_PORT"))
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unknown argument %q", flags.Arg(0))
	case o.folder == "" || err != nil:
		return o, errors.New("POSTGRES_FOLDER and POSTGRES_PORT must name a Postgres that may be stopped: run scripts/chaos.sh")
	case o.runs < 1 || o.duration < 5*time.Second:
		return o, errors.New("-runs must be at least 1, -duration at least 5s")
	case len(o.plans()) == 0:
		return o, errors.New("-faults upgrade needs a commit to upgrade from: -from names it")
	}
	return o, nil
}

// plans are the upgrades, and then a plan for each seed.
func (o options) plans() (plans []plan) {
	if o.from != "" && (len(o.faults) == 0 || slices.Contains(o.faults, upgrade)) {
		for commit := range strings.SplitSeq(o.from, ",") {
			plans = append(plans, upgradeFrom(commit, o.seed))
		}
	}
	if slices.Equal(o.faults, []string{upgrade}) {
		return plans
	}
	for i := range o.runs {
		plans = append(plans, draw(o.seed+uint64(i), o.duration, o.faults))
	}
	return plans
}

// errNothing means that no run was done, which proves nothing.
var errNothing = errors.New("not one run was done")

// errBroken means that a run found a broken invariant.
var errBroken = errors.New("an invariant is broken")

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	options, err := readOptions(args, getenv, stderr)
	if err != nil {
		return err
	}
	script, err := filepath.Abs("scripts/postgres.sh")
	if err != nil {
		return fmt.Errorf("finding the script that runs Postgres: %w", err)
	}
	database := newDatabase(script, options.folder, options.port)
	if err := database.start(ctx); err != nil {
		return err
	}
	found := newReport()
	for _, p := range options.plans() {
		err := stage.On(ctx, func(s *stage.Stage) { runPlan(s, p, database, options.logs, stdout, found) })
		if errors.Is(err, program.ErrNoCommit) {
			fmt.Fprintf(stdout, "NOT DONE: an upgrade from %s, a commit that this clone doesn't hold\n", p.From)
		} else if err != nil {
			return errors.Join(fmt.Errorf("%s: %w", p, err), found.write(options.out))
		}
	}
	found.print(stdout)
	return errors.Join(found.write(options.out), found.verdict())
}
