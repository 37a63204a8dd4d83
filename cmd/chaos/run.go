package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"ringback/cmd/internal/postgres"
)

// lanes are how many callers there are.
const lanes = 16

// trial is one run with everything that it starts.
type trial struct {
	options
	plan     plan
	database *database
	servers  *servers
	crowd    *crowd
	upstream *upstream
	caller   *caller
	injector *injector
	history  *history
	say      func(format string, args ...any)

	skewedServer string // the path of a server built with another clock
}

// runSeed runs the plan of a seed.
func runSeed(ctx context.Context, o options, d *database, seed uint64, out io.Writer) (outcome, error) {
	return runPlan(ctx, o, d, draw(seed, o.duration, o.faults), out)
}

// runPlan starts everything on a fresh database, injects the faults, lets the service
// settle, and judges. An error says that the run itself failed; findings are in the
// outcome.
func runPlan(ctx context.Context, o options, d *database, p plan, out io.Writer) (outcome, error) {
	t := &trial{
		options: o, plan: p, database: d,
		history: &history{Mine: fmt.Sprintf("chaos %d ", p.Seed), Meddled: map[string]*meddling{}, Upgraded: p.From != ""},
	}
	t.say = func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	t.say("%s: servers %v, %d faults in %s", p, p.Roles, len(p.Faults), p.Duration)
	for _, f := range t.plan.Faults {
		t.say("  %s", f)
	}
	if err := t.setClock(ctx); err != nil {
		return outcome{}, err
	}
	unskew, err := t.skewServers(ctx)
	defer unskew()
	if err != nil {
		return outcome{}, err
	}
	t.history.Skewed = t.plan.skewed() > 0
	if err := t.database.create(ctx, p.database()); err != nil {
		return outcome{}, err
	}
	running, end := context.WithCancel(ctx)
	defer end()
	if err := t.start(running); err != nil {
		return outcome{}, errors.Join(err, t.stop(end))
	}
	began := time.Now()
	err = t.load(ctx, p.Seed)
	settling := time.Now()
	if err == nil {
		err = t.settle(ctx)
	}
	t.history.Deaths, t.history.Pauses = t.servers.deaths(), slices.Concat(t.injector.pauses, t.injector.outages)
	found := t.outcome(ctx, settling.Sub(began), time.Since(settling))
	return found, errors.Join(err, t.stop(end))
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
	t.history.Ahead = t.plan.Ahead
	return err
}

// create makes a database for a run, which stays there to be looked into.
func (d *database) create(ctx context.Context, name string) error {
	d.name = "ringback"
	err := d.connect(ctx, func(conn *pgx.Conn) error {
		return postgres.Execute(ctx, conn, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)", "CREATE DATABASE "+name)
	})
	d.name = name
	return err
}

func (t *trial) start(ctx context.Context) error {
	var err error
	if t.crowd, err = startCrowd(t.history); err != nil {
		return err
	}
	if t.upstream, err = startUpstream(ctx, t.history); err != nil {
		return err
	}
	if t.servers, err = startServers(ctx, t.server, t.programs(), t.database.everywhere(), t.logs, t.plan.Roles, t.upstream.settings()); err != nil {
		return err
	}
	t.caller = newCaller(t.servers, t.crowd.urls, t.history)
	t.injector = &injector{
		servers: t.servers, database: t.database, crowd: t.crowd, upstream: t.upstream, history: t.history, say: t.say, done: map[kind]int{},
	}
	if t.plan.Ahead != 0 {
		t.injector.done[clocks]++
	}
	if t.history.Skewed {
		t.injector.done[serverClocks]++
	}
	return nil
}

// programs are the programs and settings that servers start with.
func (t *trial) programs() []started {
	programs := make([]started, len(t.plan.Roles))
	for number := range programs {
		programs[number].path = cmp.Or(t.plan.before, t.server)
		if t.history.Skewed {
			programs[number] = started{t.skewedServer, t.plan.Skews[number]}
		}
	}
	return programs
}

func (t *trial) stop(end context.CancelFunc) error {
	end()
	if t.servers != nil {
		t.servers.supervisors.Wait()
	}
	var err error
	if t.crowd != nil {
		t.crowd.close()
	}
	if t.upstream != nil {
		err = errors.Join(err, t.upstream.close())
	}
	return err
}

// load calls, storms and breaks for the plan's duration. It returns when the last
// fault is over and all goes on; storm then waits for its callbacks until all is
// settled.
func (t *trial) load(ctx context.Context, seed uint64) error {
	calling, end := context.WithTimeout(ctx, t.plan.Duration)
	defer end()
	var callers sync.WaitGroup
	pause := lanes * time.Second / time.Duration(t.rate)
	for number := range lanes {
		callers.Go(func() { t.caller.run(calling, newLane(seed, number), seed, pause) })
	}
	for number := range upstreamLanes {
		if t.plan.From != "" {
			break // the earlier server may not know such work
		}
		callers.Go(func() { t.caller.run(calling, newUpstreamLane(seed, number), seed, pause) })
	}
	callers.Go(func() { t.caller.redeliver(calling, seed) })
	t.history.following.Go(func() {
		t.history.Storm = t.runStorm(ctx)
	})
	err := t.injector.carryOut(ctx, t.plan.Faults)
	t.resume(ctx)
	t.injector.recovery.watching.Wait()
	callers.Wait()
	return err
}

// settle returns when nothing is under way, or patience is at its end.
func (t *trial) settle(ctx context.Context) error {
	if err := t.servers.waitHealthy(ctx); err != nil {
		return err
	}
	if err := settle(ctx, t.database, t.history.Mine, t.patience); err != nil {
		return err
	}
	t.history.following.Wait()
	return audit(ctx, t.database, t.caller, t.history)
}

// outcome judges, and traces an example of each broken invariant.
func (t *trial) outcome(ctx context.Context, loaded, settled time.Duration) outcome {
	o := outcome{
		Plan: t.plan, Faults: t.injector.done, Violations: check(t.history), Loaded: loaded.Seconds(), Settled: settled.Seconds(),
		Storm: t.history.Storm, Unrecovered: t.injector.recovery.open,
	}
	in := t.injector
	o.Recovered = in.recovery.clear(slices.Concat(in.outages, in.pauses)...)
	o.Hindered = len(in.recovery.took) - len(o.Recovered)
	o.count(t.history)
	o.measureOutages(t.history, in.outages)
	for i := range o.Violations {
		o.Traces = append(o.Traces, t.trace(ctx, o.Violations[i].ID))
	}
	return o
}

// trace is the database's record of a request.
func (t *trial) trace(ctx context.Context, id string) (lines []string) {
	err := t.database.connect(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "SELECT row_to_json(request_trace)::text FROM request_trace WHERE request_id::text = $1", id)
		if err != nil {
			return err
		}
		lines, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		lines = append(lines, err.Error())
	}
	return lines
}
