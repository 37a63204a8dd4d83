package main

import (
	"context"
	"errors"
	"os"
	"sync"
	"syscall"
	"time"
)

// injector carries out the faults of a plan.
type injector struct {
	servers  *servers
	database *database
	crowd    *crowd
	upstream *upstream
	history  *history
	say      func(format string, args ...any)
	recovery recovery

	lasting sync.WaitGroup // faults that have begun
	cluster sync.Mutex     // one fault of the database at a time

	mu      sync.Mutex
	outages []window // of the database
	pauses  []window // of servers, and of tables
	done    map[kind]int
}

// window is a time in which something was away.
type window struct{ from, to time.Time }

func (w window) meets(from, to time.Time) bool { return w.from.Before(to) && from.Before(w.to) }

// carryOut returns when the last fault is over. Jobs of the dead may still be watched.
func (in *injector) carryOut(ctx context.Context, faults []fault) error {
	start := time.Now()
	for _, f := range faults {
		if wait(ctx, time.Until(start.Add(f.At))); ctx.Err() != nil {
			break
		}
		in.lasting.Go(func() {
			in.note(f, in.inject(ctx, f))
		})
	}
	in.lasting.Wait()
	return ctx.Err()
}

func (in *injector) inject(ctx context.Context, f fault) error {
	switch f.Kind {
	case kill:
		return in.kill(ctx, f.Target)
	case pause:
		return in.pause(ctx, f.Target, f.Length)
	case leader:
		return in.pauseLeader(ctx, f.Length)
	case restart:
		return in.servers.terminate(f.Target)
	case fast, outage:
		return in.stopDatabase(ctx, syscall.SIGINT, f.Length)
	case crash:
		return in.stopDatabase(ctx, syscall.SIGQUIT, f.Length)
	case backends:
		return in.database.endBackends(ctx, f.Target)
	case refuse, hang:
		in.crowd.suffer(ctx, f.Kind, f.Length)
	case lock:
		return in.lockTable(ctx, lockable[f.Target], f.Length)
	case failover:
		return in.failOver(ctx, f.Length)
	case full:
		return in.fillDisk(ctx, f.Length)
	case jobs:
		return in.meddle(ctx, in.history.Mine, f.Length)
	case upstreamAway, upstreamHang, upstreamBusy:
		return in.upstream.suffer(ctx, f.Kind, f.Length)
	case upgrade:
		return in.servers.upgrade(ctx)
	case logs:
		return in.servers.logs[f.Target].stop(ctx, f.Length)
	}
	return nil
}

// kill also starts to watch when the jobs of the dead are taken up.
func (in *injector) kill(ctx context.Context, number int) error {
	process := in.servers.process(number)
	if process == nil {
		return errDown
	}
	process.Signal(os.Kill)
	_ = process.Wait(ctx)
	in.recovery.watch(ctx, in.database, time.Now(), func(client string) bool {
		server, known := in.servers.find(client)
		return known && server == number
	})
	return nil
}

func (in *injector) pause(ctx context.Context, number int, length time.Duration) error {
	from := time.Now()
	err := in.servers.pause(ctx, number, length)
	in.addPause(from)
	return err
}

func (in *injector) lockTable(ctx context.Context, table string, length time.Duration) error {
	from := time.Now()
	err := in.database.lockTable(ctx, table, length)
	in.addPause(from)
	return err
}

// addPause notes a pause that has just ended.
func (in *injector) addPause(from time.Time) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.pauses = append(in.pauses, window{from, time.Now()})
}

func (in *injector) pauseLeader(ctx context.Context, length time.Duration) error {
	id, err := in.database.leader(ctx)
	if err != nil {
		return err
	}
	number, known := in.servers.find(id)
	if !known {
		return errDown
	}
	return in.pause(ctx, number, length)
}

func (in *injector) stopDatabase(ctx context.Context, signal syscall.Signal, away time.Duration) error {
	in.cluster.Lock()
	defer in.cluster.Unlock()
	from := time.Now()
	back, err := in.database.restart(ctx, signal, away)
	if err != nil {
		return err
	}
	in.addOutage(window{from, back})
	return nil
}

// errBusy says that the database has another fault: long faults don't queue.
var errBusy = errors.New("the database has another fault")

func (in *injector) failOver(ctx context.Context, length time.Duration) error {
	if !in.cluster.TryLock() {
		return errBusy
	}
	defer in.cluster.Unlock()
	away, err := in.database.failOver(ctx, length)
	if err != nil {
		return err
	}
	in.addOutage(away)
	return nil
}

func (in *injector) fillDisk(ctx context.Context, length time.Duration) error {
	if !in.cluster.TryLock() {
		return errBusy
	}
	defer in.cluster.Unlock()
	from := time.Now()
	if err := in.database.fillDisk(ctx, length); err != nil {
		return err
	}
	in.addOutage(window{from, time.Now()})
	return nil
}

func (in *injector) addOutage(w window) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.outages = append(in.outages, w)
}

// note counts a fault, or tells why it was none, such as a look into a database
// that is away.
func (in *injector) note(f fault, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if err != nil {
		in.say("  not done: %s: %v", f, err)
		return
	}
	in.done[f.Kind]++
}
