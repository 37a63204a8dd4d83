package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/receivers"
)

// kind is a kind of fault.
type kind struct {
	name       string
	share      int                        // of the faults that seeds draw
	of         func(servers int) []string // names of the targets, nil without a choice
	from, to   float64                    // least and greatest length in seconds, 0 for a moment
	group      string                     // of which one fault is there at a time; empty for the kind and target
	stalls     bool                       // the database or a process stands still meanwhile
	begin, end act                        // end is nil where the fault ends by itself
}

// act begins or ends a fault. A begin that itself waits for the fault's end sets the length
// to 0.
type act func(ctx context.Context, t *trial, f *fault) error

// Kinds that are not drawn like the others.
const (
	clocks       = "clocks"        // the database has another clock, during the whole run
	serverClocks = "server-clocks" // a server has another clock, during the whole run
	upgrade      = "upgrade"       // servers of an earlier commit are replaced, in a run of its own
)

// ofDatabase is the group of the faults that take the database away.
const ofDatabase = "database"

var kinds = []kind{
	{name: "kill", share: 25, of: eachServer, begin: kill},
	{name: "pause", share: 15, of: eachServer, from: 3, to: 20, stalls: true, begin: signals(syscall.SIGSTOP), end: signals(syscall.SIGCONT)},
	{name: "pause-leader", share: 10, from: 3, to: 20, stalls: true, begin: pauseLeader, end: signals(syscall.SIGCONT)}, // that River has elected
	{name: "restart", share: 12, of: eachServer, begin: signals(syscall.SIGTERM)},
	{name: "log-blocked", share: 8, of: eachServer, from: 3, to: 20, begin: blockLog, end: readLog},

	{name: "database-fast", share: 8, group: ofDatabase, stalls: true, begin: script("down"), end: script("up")}, // ends all connections
	{name: "database-crash", share: 8, group: ofDatabase, stalls: true, begin: script("down", "STOP=immediate"), end: script("up")},
	{name: "database-away", share: 6, from: 2, to: 30, group: ofDatabase, stalls: true, begin: script("down"), end: script("up")},
	{name: "failover", share: 6, from: 2, to: 12, group: ofDatabase, stalls: true, begin: failOver, end: removeStandby},
	{name: "disk-full", share: 6, from: 2, to: 12, group: ofDatabase, stalls: true, begin: script("fill"), end: freeDisk},
	{name: "table-locked", share: 10, of: everyTable, from: 3, to: 20, stalls: true, begin: lockTable},
	{name: "backends", share: 8, of: someBackends, begin: endBackends},
	{name: "jobs-gone", share: 10, from: 2, to: 12, begin: meddle},

	{name: "receivers-500", share: 4, from: 1, to: 3, group: "receivers", begin: receiversThat(receivers.Failing), end: ownBehaviours},
	{name: "receivers-cut", share: 4, from: 1, to: 3, group: "receivers", begin: receiversThat(receivers.Reset), end: ownBehaviours},
	{name: "upstream-away", share: 8, from: 1, to: 8, group: "upstream", begin: closeUpstream, end: openUpstream},
	{name: "upstream-hangs", share: 5, from: 1, to: 8, group: "upstream", begin: upstreamThat(hangs), end: upstreamThat("")},
	{name: "upstream-503", share: 5, from: 1, to: 8, group: "upstream", begin: upstreamThat(throttles), end: upstreamThat("")},

	{name: clocks},
	{name: serverClocks},
	{name: upgrade, begin: replaceServers},
}

func kindNames() (names []string) {
	for _, k := range kinds {
		names = append(names, k.name)
	}
	return names
}

// kindOf returns the kind of a name that kindNames has.
func kindOf(name string) kind { return kinds[slices.Index(kindNames(), name)] }

func eachServer(servers int) (names []string) {
	for number := range servers {
		names = append(names, fmt.Sprint("server-", number))
	}
	return names
}

// everyTable are the tables that all steps write to.
func everyTable(int) []string { return []string{"requests", "callback_attempts", "river_job"} }

func someBackends(int) []string { return []string{"1", "2", "3", "4"} }

// window is the time of a fault.
type window struct {
	kind     string
	from, to time.Time
}

func (w window) meets(from, to time.Time) bool { return w.from.Before(to) && from.Before(w.to) }

// carryOut injects the plan's faults, and returns when the last is over.
func (t *trial) carryOut(ctx context.Context) error {
	start := time.Now()
	var lasting sync.WaitGroup
	for _, f := range t.plan.Faults {
		if !load.Pause(ctx, time.Until(start.Add(f.At))) {
			break
		}
		lasting.Go(func() {
			if err := t.inject(ctx, f); err != nil {
				t.say("  not done: %s: %v", f, err)
			}
		})
	}
	lasting.Wait()
	return ctx.Err()
}

// errGoing means that another fault of the same group is there.
var errGoing = errors.New("another fault is there already")

// inject begins a fault, and ends it after its length. An error means that the fault couldn't
// be begun or ended, as where it needs a database that is away.
func (t *trial) inject(ctx context.Context, f fault) error {
	k := kindOf(f.Kind)
	group := cmp.Or(k.group, f.Kind+f.Of)
	if _, going := t.going.LoadOrStore(group, true); going {
		return errGoing
	}
	defer t.going.Delete(group)
	w := window{kind: f.Kind, from: time.Now()}
	err := k.begin(ctx, t, &f)
	if err != nil {
		return err
	}
	load.Pause(ctx, f.Length)
	if k.end != nil {
		err = k.end(context.WithoutCancel(ctx), t, &f)
	}
	w.to = time.Now()
	t.ledger.note(func() { t.ledger.windows = append(t.ledger.windows, w) })
	return err
}

func signals(signal syscall.Signal) act {
	return func(_ context.Context, t *trial, f *fault) error {
		process, err := t.servers[f.Target].current()
		if err == nil {
			process.Signal(signal)
		}
		return err
	}
}

// kill also measures how long the dead process keeps its jobs.
func kill(ctx context.Context, t *trial, f *fault) error {
	clients, _ := t.database.clientsOf(ctx, t.servers[f.Target].name) // none while the database is away
	if err := signals(syscall.SIGKILL)(ctx, t, f); err != nil {
		return err
	}
	died := time.Now()
	t.watching.Go(func() { t.watchJobs(ctx, died, clients) })
	return nil
}

func pauseLeader(ctx context.Context, t *trial, f *fault) error {
	name, err := t.database.leader(ctx)
	if err != nil {
		return err
	}
	f.Target = slices.IndexFunc(t.servers, func(s *server) bool { return s.name == name })
	return signals(syscall.SIGSTOP)(ctx, t, f)
}

func blockLog(_ context.Context, t *trial, f *fault) error {
	t.servers[f.Target].gate.Lock()
	return nil
}

func readLog(_ context.Context, t *trial, f *fault) error {
	t.servers[f.Target].gate.Unlock()
	return nil
}

// replaceServers restarts each server with this commit's program, one after the other.
func replaceServers(ctx context.Context, t *trial, _ *fault) error {
	for _, s := range t.servers {
		old, err := s.current()
		if err != nil {
			return err
		}
		s.path.Store(&t.program)
		old.Signal(syscall.SIGTERM)
		if err := errors.Join(old.Wait(ctx), s.waitHealthy(ctx)); err != nil {
			return err
		}
	}
	return nil
}

func receiversThat(behave receivers.Behaviour) act {
	return func(_ context.Context, t *trial, _ *fault) error {
		for name, receiver := range t.crowd.receivers {
			if name != steady && name != receivers.Gone {
				receiver.Suffer(behave)
			}
		}
		return nil
	}
}

func ownBehaviours(_ context.Context, t *trial, _ *fault) error {
	for _, receiver := range t.crowd.receivers {
		receiver.Recover()
	}
	return nil
}

func upstreamThat(has manner) act {
	return func(_ context.Context, t *trial, _ *fault) error {
		t.upstream.trouble.Store(has)
		return nil
	}
}

func closeUpstream(_ context.Context, t *trial, _ *fault) error { return t.upstream.close() }

func openUpstream(_ context.Context, t *trial, _ *fault) error { return t.upstream.listen() }
