package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/program"
	"ringback/cmd/internal/sample"
)

const (
	callRate  = 30 // calls a second
	stormRate = 20 // requests a second of the storm beside them
	// patience is how long everything may take to settle when the faults are over.
	patience = 5 * time.Minute
)

// trial is one run with everything that it starts.
type trial struct {
	plan     plan
	program  string // the path of the server's
	first    string // the path of the program that servers begin with
	logs     string
	folder   string // of the files that the run makes
	database *database
	ledger   *ledger
	say      func(format string, args ...any)

	going       sync.Map // groups of faults
	crowd       *crowd
	upstream    *upstream
	servers     []*server
	supervisors sync.WaitGroup
	caller      *caller
	watching    sync.WaitGroup // jobs of killed processes
}

// runPlan starts everything on a fresh database, injects the faults, lets the service
// settle, and judges. An error says that the run itself failed; what it finds is in the
// report.
func runPlan(ctx context.Context, p plan, d *database, logs string, out io.Writer, found *report) (err error) {
	t := &trial{
		plan: p, program: "bin/ringback", logs: logs, database: d,
		say: func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) },
	}
	t.say("%s: servers %v, %d faults in %s", p, p.Roles, len(p.Faults), p.Duration)
	for _, f := range t.plan.Faults {
		t.say("  %s", f)
	}
	if t.folder, err = os.MkdirTemp("", "chaos-"); err != nil {
		return fmt.Errorf("making a folder for the run: %w", err)
	}
	defer os.RemoveAll(t.folder)
	running, end := context.WithCancel(ctx)
	defer func() { err = errors.Join(err, t.stop(end)) }()
	if err := t.start(running); err != nil {
		return err
	}
	if err := t.load(ctx); err != nil {
		return err
	}
	settling := time.Now()
	if err := t.settle(ctx); err != nil {
		return err
	}
	result := outcome{t.plan, check(t.ledger), time.Since(settling).Seconds()}
	t.say("  settled in %.1f s", result.Settled)
	for i := range result.Violations {
		v := &result.Violations[i]
		v.Trace, _ = query(ctx, d, pgx.RowTo[string], "SELECT row_to_json(request_trace)::text FROM request_trace WHERE request_id::text = $1", v.ID)
	}
	result.print(out)
	found.Runs = append(found.Runs, result)
	found.count(t.ledger)
	return nil
}

// start returns when all servers are healthy.
func (t *trial) start(ctx context.Context) error {
	steps := []func(context.Context) error{t.setClock, t.build, t.open, t.startServers}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	t.caller = newCaller(t.servers, t.crowd)
	return nil
}

// open starts all that servers need.
func (t *trial) open(ctx context.Context) (err error) {
	t.ledger = newLedger(t.plan)
	t.crowd, err = startCrowd(t.ledger)
	if err == nil {
		t.upstream, err = startUpstream(ctx, t.folder, t.ledger)
	}
	if err == nil {
		err = t.database.create(ctx, t.plan.database())
	}
	return err
}

// errNoCommit is a commit that this clone doesn't hold.
var errNoCommit = errors.New("no such commit here")

// build makes the program that servers begin with, where the plan wants an earlier commit
// or another clock.
func (t *trial) build(ctx context.Context) (err error) {
	t.first = t.program
	if t.plan.From != "" {
		commit, err := program.FindCommit(ctx, ".", t.plan.From)
		if err != nil {
			return errors.Join(errNoCommit, ctx.Err())
		}
		t.first, err = program.BuildEarlier(ctx, ".", commit, t.folder)
		return err
	}
	if t.plan.Skews == nil {
		return nil
	}
	t.say("  building a server whose clock is another one, which takes minutes the first time")
	if t.first, err = buildSkewed(ctx, t.folder); errors.Is(err, errNoSkew) {
		t.say("  not done: %s: %v", serverClocks, err)
		t.first, err, t.plan.Skews = t.program, nil, nil
	}
	return err
}

// startServers starts them one after the other, since the first migrates the schema.
func (t *trial) startServers(ctx context.Context) error {
	for number, role := range t.plan.Roles {
		var clock time.Duration
		if t.plan.Skews != nil {
			clock = t.plan.Skews[number]
			t.say("  the clock of server-%d is %s ahead", number, clock)
		}
		environ := []string{
			fmt.Sprintf("DATABASE_URL=%s&application_name=server-%d", t.database.everywhere(), number),
			fmt.Sprintf("%s=%s", clockSetting, clock),
		}
		if t.plan.From == "" { // the earlier server may not know such work
			environ = append(environ, "WORKS="+t.upstream.file)
		}
		s, err := newServer(number, role, t.first, t.logs, environ...)
		if err != nil {
			return err
		}
		t.servers = append(t.servers, s)
		t.supervisors.Go(func() {
			s.supervise(ctx, func() { t.ledger.note(func() { t.ledger.deaths = append(t.ledger.deaths, time.Now()) }) })
		})
		if err := s.waitHealthy(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (t *trial) stop(end context.CancelFunc) (err error) {
	end()
	t.supervisors.Wait()
	if t.crowd != nil {
		t.crowd.close()
	}
	if t.upstream != nil {
		err = t.upstream.die()
	}
	return err
}

// load calls, storms and breaks for the plan's duration. It returns when the last
// fault is over and all goes on; storm then waits for its callbacks until all is
// settled.
func (t *trial) load(ctx context.Context) error {
	calling, end := context.WithTimeout(ctx, t.plan.Duration)
	defer end()
	callers := lanes + hostileLanes
	if t.plan.From != "" {
		callers = lanes // nor does the upstream work for it
	}
	var calls sync.WaitGroup
	for number := range callers {
		calls.Go(func() { t.caller.run(calling, newLane(t.plan, number), lanes*time.Second/callRate) })
	}
	calls.Go(func() { t.caller.redeliver(calling, rand.New(rand.NewPCG(t.plan.Seed, 0))) })
	t.ledger.following.Go(func() { t.ledger.stormBroke = t.storm(ctx) })
	err := t.carryOut(ctx)
	t.resume(ctx)
	t.watching.Wait()
	calls.Wait()
	return err
}

// storm sends a modest load to one server while the faults last, and waits for the
// callbacks as long as settling may take.
func (t *trial) storm(ctx context.Context) error {
	config := sample.Config(t.servers[0].url(""), "rounds=100,delay=0s..300ms")
	config.Rate, config.Length, config.Drain = stormRate, t.plan.Duration, patience
	config.Timeout = 30 * time.Second
	if t.ledger.plan.Skews != nil { // its receivers take no signature of a wrong time; the run's own do
		config.Secret = ""
	}
	run, err := load.New(ctx, config)
	if err != nil {
		return err
	}
	found, err := run.Do(ctx)
	if err != nil {
		return err
	}
	t.ledger.storm = found.Async
	// Storm also calls a run broken in which it got no answer, since that run shows nothing.
	// Here, where the database is away for long, it is no fault.
	if found.Async.Missing+found.Async.Mismatched+found.Async.BadSignatures+found.Async.OutOfOrder > 0 {
		return fmt.Errorf("%v: %+v", found.Verdict(), found.Async)
	}
	return nil
}

// resumeLimit is how long everything may take to go on by itself when the last fault
// is over.
const resumeLimit = 30 * time.Second

// resume finds how long each server takes until it is healthy and, if it takes calls,
// a request of its own has been called back.
func (t *trial) resume(ctx context.Context) {
	t.ledger.quiet = time.Now()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var resuming sync.WaitGroup
	for _, s := range t.servers {
		resuming.Go(func() {
			if s.waitHealthy(ctx) == nil && s.takesCalls() {
				t.callBack(ctx, s)
			}
			took := time.Since(t.ledger.quiet)
			t.ledger.note(func() { t.ledger.resumed[s.name] = took })
		})
	}
	resuming.Wait()
}

// callBack repeats a call to a server until it is acknowledged, and waits for its
// callback.
func (t *trial) callBack(ctx context.Context, s *server) {
	own := newCaller([]*server{s}, t.crowd)
	for try := 1; ctx.Err() == nil; try++ {
		made := newCall(fmt.Sprintf("%s%s call %d\n", t.plan.mine(), s.name, try), steady, 0, 0)
		own.make(made, 0)
		for made.Status == http.StatusAccepted && ctx.Err() == nil {
			if t.ledger.hasCome(made.IDs[0]) {
				return
			}
			load.Pause(ctx, 50*time.Millisecond)
		}
		load.Pause(ctx, 200*time.Millisecond)
	}
}
