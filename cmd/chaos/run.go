package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"time"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/program"
	"ringback/cmd/internal/receivers"
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
	logs     string
	folder   string // of the files that the run makes
	patience time.Duration
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
// settle, and judges. An error says that the run itself failed; findings are in the
// outcome.
func runPlan(ctx context.Context, p plan, d *database, logs string, out io.Writer) (found outcome, err error) {
	t := &trial{
		plan: p, program: "bin/ringback", logs: logs, patience: patience, database: d,
		say: func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) },
	}
	t.say("%s: servers %v, %d faults in %s", p, p.Roles, len(p.Faults), p.Duration)
	for _, f := range t.plan.Faults {
		t.say("  %s", f)
	}
	if t.folder, err = os.MkdirTemp("", "chaos-"); err != nil {
		return found, fmt.Errorf("making a folder for the run: %w", err)
	}
	defer os.RemoveAll(t.folder)
	running, end := context.WithCancel(ctx)
	defer end()
	if err := t.start(running); err != nil {
		return found, errors.Join(err, t.stop(end))
	}
	err = t.load(ctx)
	settling := time.Now()
	if err == nil {
		err = t.settle(ctx)
	}
	found = outcome{Plan: t.plan, Violations: check(t.ledger), Settled: time.Since(settling).Seconds(), tally: t.ledger.tally()}
	for i := range found.Violations {
		v := &found.Violations[i]
		v.Trace, _ = d.texts(ctx, "SELECT row_to_json(request_trace)::text FROM request_trace WHERE request_id::text = $1", v.ID)
	}
	return found, errors.Join(err, t.stop(end))
}

// start returns when all servers are healthy.
func (t *trial) start(ctx context.Context) error {
	if err := t.setClock(ctx); err != nil {
		return err
	}
	programs, err := t.programs(ctx)
	if err != nil {
		return err
	}
	t.ledger = newLedger(t.plan)
	if err := t.database.create(ctx, t.plan.database()); err != nil {
		return err
	}
	if t.crowd, err = startCrowd(t.ledger); err != nil {
		return err
	}
	if t.upstream, err = startUpstream(ctx, t.folder, t.ledger); err != nil {
		return err
	}
	for number, role := range t.plan.Roles {
		if err := t.startServer(ctx, number, role, programs[number]); err != nil {
			return err
		}
	}
	t.caller = newCaller(t.servers, t.crowd)
	return nil
}

// setClock lets the database's clock differ as planned, where it can.
func (t *trial) setClock(ctx context.Context) error {
	err := t.database.setClock(ctx, t.plan.Ahead)
	if errors.Is(err, errNoFaketime) {
		t.say("  not done: %s: %v", clocks, err)
		t.plan.Ahead = 0
		err = t.database.setClock(ctx, 0)
	}
	if t.plan.Ahead != 0 {
		t.say("  the database's clock is %s ahead", t.plan.Ahead)
	}
	return err
}

// programs are the paths of the programs that servers begin with. They are built where the
// plan wants an earlier commit, or another clock.
func (t *trial) programs(ctx context.Context) (paths []string, err error) {
	path := t.program
	switch {
	case t.plan.From != "":
		path, err = buildEarlier(ctx, t.plan.From, t.folder)
	case t.plan.Skews != nil:
		t.say("  building a server whose clock is another one, which takes minutes the first time")
		path, err = buildSkewed(ctx, t.folder)
	}
	if errors.Is(err, errNoSkew) {
		t.say("  not done: %s: %v", serverClocks, err)
		path, err, t.plan.Skews = t.program, nil, nil
	}
	for range t.plan.Roles {
		paths = append(paths, path)
	}
	return paths, err
}

// errNoCommit is a commit that this clone doesn't hold.
var errNoCommit = errors.New("no such commit here")

func buildEarlier(ctx context.Context, name, folder string) (path string, err error) {
	commit, err := program.FindCommit(ctx, ".", name)
	if err != nil {
		return "", errors.Join(errNoCommit, ctx.Err())
	}
	return program.BuildEarlier(ctx, ".", commit, folder)
}

func (t *trial) startServer(ctx context.Context, number int, role, path string) error {
	var clock time.Duration
	if t.plan.Skews != nil {
		clock = t.plan.Skews[number]
		t.say("  the clock of server-%d is %s ahead", number, clock)
	}
	s, err := newServer(number, role, path, t.logs,
		fmt.Sprintf("DATABASE_URL=%s&application_name=server-%d", t.database.everywhere(), number),
		"WORKS="+t.upstream.file, fmt.Sprintf("%s=%s", clockSetting, clock))
	if err != nil {
		return err
	}
	t.servers = append(t.servers, s)
	t.supervisors.Go(func() {
		s.supervise(ctx, func() { t.ledger.note(func() { t.ledger.deaths = append(t.ledger.deaths, time.Now()) }) })
	})
	return s.waitHealthy(ctx)
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
		callers = lanes // the earlier server may not know such work
	}
	var calls sync.WaitGroup
	for number := range callers {
		calls.Go(func() { t.caller.run(calling, newLane(t.plan, number), lanes*time.Second/callRate) })
	}
	calls.Go(func() { t.caller.redeliver(calling, rand.New(rand.NewPCG(t.plan.Seed, 0))) })
	t.ledger.following.Go(func() { t.storm(ctx) })
	err := t.carryOut(ctx)
	t.resume(ctx)
	t.watching.Wait()
	calls.Wait()
	return err
}

// storm sends a modest load to one server while the faults last, and waits for the
// callbacks as long as settling may take. (Storm calls a run broken in which it got no
// answer, since that run shows nothing; here, where the database is away for long, it is
// no fault.)
func (t *trial) storm(ctx context.Context) {
	found, err := t.runStorm(ctx)
	if err != nil {
		t.ledger.stormSays = err.Error()
		return
	}
	t.ledger.storm = found.Async
	if found.Async.Missing+found.Async.Mismatched+found.Async.BadSignatures+found.Async.OutOfOrder > 0 {
		var text bytes.Buffer
		fmt.Fprintln(&text, found.Verdict())
		_ = found.WriteJSON(&text)
		t.ledger.stormSays = text.String()
	}
}

func (t *trial) runStorm(ctx context.Context) (*load.Findings, error) {
	config := load.Defaults()
	config.Target = t.servers[0].url("")
	config.Rate, config.Length, config.Drain = stormRate, t.plan.Duration, t.patience
	config.Timeout = 30 * time.Second
	config.Secret, config.Result = receivers.LocalSecret, sample.Result
	if t.ledger.Skewed { // its receivers take no signature of a wrong time; the run's own do
		config.Secret = ""
	}
	config.DatabaseURL = t.database.everywhere() + "&target_session_attrs=read-write"
	var err error
	if config.Input, err = sample.Pattern("rounds=100,delay=0s..300ms"); err != nil {
		return nil, err
	}
	run, err := load.New(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("running storm: %w", err)
	}
	return run.Do(ctx, nil)
}

// resumeLimit is how long everything may take to go on by itself when the last fault
// is over.
const resumeLimit = 30 * time.Second

// resume finds how long each server takes until it is healthy and, if it takes calls,
// a request of its own has been called back.
func (t *trial) resume(ctx context.Context) {
	t.ledger.quiet = time.Now()
	ctx, cancel := context.WithTimeout(ctx, t.patience)
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
		made := newCall(fmt.Sprintf("%s%s call %d\n", t.ledger.Mine, s.name, try), steady, 0, 0)
		own.make(made, 0)
		for made.Status == http.StatusAccepted && ctx.Err() == nil {
			if t.ledger.hasCome(made.IDs[0]) {
				return
			}
			wait(ctx, 50*time.Millisecond)
		}
		wait(ctx, 200*time.Millisecond)
	}
}
