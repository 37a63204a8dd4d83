package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/program"
	"ringback/cmd/internal/sample"
	"ringback/cmd/internal/stage"
)

const (
	callRate  = 30 // calls a second
	stormRate = 20 // requests a second of the storm beside the calls
	// patience is how long everything may take to settle after the faults.
	patience = 5 * time.Minute
)

// trial is one run with everything that it starts.
type trial struct {
	*stage.Stage
	plan     plan
	program  string // path of the server's program
	first    string // path of the program that servers begin with
	logs     string
	database *database
	ledger   *ledger
	say      func(format string, args ...any)

	going       sync.Map // the groups of faults that are there now
	crowd       *crowd
	upstream    *upstream
	servers     []*server
	supervisors sync.WaitGroup
	caller      *caller
	watching    sync.WaitGroup // jobs of killed processes
}

// runPlan starts everything on a fresh database, injects the faults, lets the service
// settle, and adds what it finds to the report. The stage fails where the run couldn't be
// done.
func runPlan(s *stage.Stage, p plan, d *database, logs string, out io.Writer, found *report) {
	t := &trial{
		Stage: s, plan: p, program: "bin/ringback", logs: logs, database: d,
		say: func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) },
	}
	t.say("%s: servers %v, %d faults in %s", p, p.Roles, len(p.Faults), p.Duration)
	for _, f := range t.plan.Faults {
		t.say("  %s", f)
	}
	t.start()
	t.load()
	settling := time.Now()
	t.settle()
	result := outcome{t.plan, check(t.ledger), time.Since(settling).Seconds()}
	t.say("  settled in %.1f s", result.Settled)
	for i := range result.Violations {
		v := &result.Violations[i]
		v.Trace, _ = query(t.Ctx, d, pgx.RowTo[string], "SELECT row_to_json(request_trace)::text FROM request_trace WHERE request_id::text = $1", v.ID)
	}
	result.print(out)
	found.Runs = append(found.Runs, result)
	found.count(t.ledger)
}

// start returns when all servers are healthy.
func (t *trial) start() {
	folder := t.Folder()
	t.setClock()
	t.build(folder)
	t.ledger = newLedger(t.plan)
	t.startCrowd()
	running, end := context.WithCancel(t.Ctx)
	t.startUpstream(running, folder)
	t.Must(t.database.create(t.Ctx, t.plan.database()))
	t.AtEnd(func() error {
		end()
		t.supervisors.Wait()
		return nil
	})
	t.startServers(running)
	t.caller = newCaller(t.servers, t.crowd)
}

// build builds the program that servers begin with, where the plan has an earlier commit or
// another clock.
func (t *trial) build(folder string) {
	t.first = t.program
	switch {
	case t.plan.From != "":
		var err error
		t.first, err = program.BuildEarlier(t.Ctx, ".", t.plan.From, folder)
		t.Must(err)
	case t.plan.Skews != nil:
		t.say("  building a server with a clock of its own, which takes minutes the first time")
		t.buildSkewed(folder)
	}
}

// startServers starts one server after the other, since the first migrates the schema.
func (t *trial) startServers(ctx context.Context) {
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
		if t.plan.From == "" { // an earlier server may not know work by HTTP
			environ = append(environ, "WORKS="+t.upstream.file)
		}
		s, err := newServer(number, role, t.first, t.logs, environ...)
		t.Must(err)
		t.servers = append(t.servers, s)
		t.supervisors.Go(func() {
			s.supervise(ctx, func() { t.ledger.note(func() { t.ledger.deaths = append(t.ledger.deaths, time.Now()) }) })
		})
		t.Must(s.waitHealthy(ctx))
	}
}

// load calls, storms and injects faults for the plan's duration. It returns when all goes on
// after the last fault. Storm may still wait for its callbacks then.
func (t *trial) load() {
	calling, end := context.WithTimeout(t.Ctx, t.plan.Duration)
	defer end()
	callers := peacefulSeries + hostileSeries
	if t.plan.From != "" {
		callers = peacefulSeries
	}
	var calls sync.WaitGroup
	for number := range callers {
		calls.Go(func() { t.caller.run(calling, newSeries(t.plan, number), peacefulSeries*time.Second/callRate) })
	}
	calls.Go(func() { t.caller.redeliver(calling, rand.New(rand.NewPCG(t.plan.Seed, 0))) })
	t.ledger.following.Go(func() { t.ledger.stormBroke = t.storm(t.Ctx) })
	err := t.carryOut(t.Ctx)
	t.resume(t.Ctx)
	t.watching.Wait()
	calls.Wait()
	t.Must(err)
}

// storm sends a modest load to one server during the faults, and waits for the callbacks as
// long as settling may take.
func (t *trial) storm(ctx context.Context) error {
	config := sample.Config(t.servers[0].url(""), "rounds=100,delay=0s..300ms")
	config.Rate, config.Length, config.Drain = stormRate, t.plan.Duration, patience
	config.Timeout = 30 * time.Second
	if t.ledger.plan.Skews != nil { // storm's receivers refuse signatures of a wrong time; the trial's own take them
		config.Secret = ""
	}
	run, err := load.New(ctx, config)
	if err != nil {
		return err
	}
	defer run.Close()
	found, err := run.Do(ctx)
	if err != nil {
		return err
	}
	t.ledger.storm = found.Async
	// Storm also calls a run broken in which few requests were answered. Here, the database may
	// be away for long.
	if found.Async.Missing+found.Async.Mismatched+found.Async.BadSignatures+found.Async.OutOfOrder > 0 {
		return fmt.Errorf("%v: %+v", found.Verdict(), found.Async)
	}
	return nil
}

// resumeLimit is how long everything may take to go on by itself after the last fault.
const resumeLimit = 30 * time.Second

// resume measures how long each server takes until it is healthy and, if it takes calls, has
// called back a new request.
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

// callBack calls a server until a call is acknowledged, and waits for the callback.
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
