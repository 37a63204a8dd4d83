package db

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Step is a part of the program that writes.
type Step string

// These faults, of accepting, recording and checking, keep the process from accepting.
const (
	AcceptStep Step = "accept"
	RecordStep Step = "record"
	FinishStep Step = "finish"
	SettleStep Step = "settle"
	EndStep    Step = "end"   // of jobs that didn't end with their step
	FetchStep  Step = "fetch" // of jobs, which writes nothing where there are none
	StartStep  Step = "start" // of the process
	checkStep  Step = "check"
)

const (
	// checkedWithin is how long ago the last write may be before a check writes.
	checkedWithin = 5 * time.Second
	// forgottenAfter is how long the fault of a step lasts that is not taken any more.
	forgottenAfter = time.Minute
	// toldAgainAfter is the least time between two lines about a kind of fault.
	toldAgainAfter = time.Minute
	// resetInterval is the least time between two emptyings of the pools.
	resetInterval = 500 * time.Millisecond
	// checkLockTimeout is how long a check waits for the tables that accepting needs.
	checkLockTimeout = time.Second
	// fillingBytes is more than a table's file is likely to have free.
	fillingBytes = 256 << 10
)

// Health collects the faults that the program's steps meet at the database. Each step
// notes how its latest run went. A fault is over once the step that met it succeeds, or a
// check that writes does, so it ends by itself also where nobody calls any more.
type Health struct {
	logger *slog.Logger
	pool   *pgxpool.Pool
	pools  []*pgxpool.Pool // to empty when their server can't be written

	wrote    atomic.Int64 // when a step last did, in Unix nanoseconds
	troubled atomic.Bool  // there are troubles
	readOnly atomic.Int64 // times that the pools were emptied

	mu       sync.Mutex
	troubles map[Step]trouble
	told     map[Fault]time.Time // when a kind of fault was last logged
	open     map[Fault]time.Time // since when a kind that was logged lasts
	reset    time.Time           // when the pools were last emptied
	met      map[Fault]int64     // times, since the start
}

type trouble struct {
	fault Fault
	since time.Time // of the latest time that it was met
}

// NewHealth checks the database through pool. The others are pools of the same server.
func NewHealth(logger *slog.Logger, pool *pgxpool.Pool, others ...*pgxpool.Pool) *Health {
	return &Health{
		logger: logger, pool: pool, pools: append(others, pool),
		troubles: map[Step]trouble{}, told: map[Fault]time.Time{}, open: map[Fault]time.Time{}, met: map[Fault]int64{},
	}
}

// Note takes how a step went. An error that isn't a fault of the database changes nothing.
func (h *Health) Note(step Step, err error) {
	now := time.Now()
	fault := faultOf(err)
	switch {
	case err == nil:
		if step != FetchStep {
			h.wrote.Store(now.UnixNano())
		}
		if h.troubled.Load() {
			h.end(now, func(of Step, _ trouble) bool { return of == step })
		}
	case fault != "":
		h.begin(step, fault, err, now)
	}
}

func (h *Health) begin(step Step, fault Fault, err error, now time.Time) {
	h.mu.Lock()
	h.troubles[step] = trouble{fault, now}
	h.troubled.Store(true)
	h.met[fault]++
	_, open := h.open[fault]
	tell := !open && now.Sub(h.told[fault]) >= toldAgainAfter
	if tell {
		h.open[fault], h.told[fault] = now, now
	}
	empty := fault == ReadOnly && now.Sub(h.reset) >= resetInterval
	if empty {
		h.reset = now
	}
	h.mu.Unlock()
	if tell {
		go h.tell(step, fault, err)
	}
	if empty {
		h.empty()
	}
}

// empty closes the connections of all pools, which lead to the same server.
func (h *Health) empty() {
	h.readOnly.Add(1)
	for _, pool := range h.pools {
		pool.Reset()
	}
}

// tell logs that a fault began, with the sessions that hold the locks waited for.
func (h *Health) tell(step Step, fault Fault, err error) {
	attrs := []any{"fault", fault, "step", step, "error", err, "remedy", Faults[fault]}
	if fault.isOfOne() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if blockers, err := findBlockers(ctx, h.pool); err == nil && blockers != "" {
			attrs = append(attrs, "blocked_by", blockers)
		}
	}
	h.logger.Error("database_fault", attrs...)
}

// end takes back the troubles that over selects, and logs which kinds are over.
func (h *Health) end(now time.Time, over func(Step, trouble) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for step, trouble := range h.troubles {
		if over(step, trouble) {
			delete(h.troubles, step)
		}
	}
	lasting := map[Fault]bool{}
	for _, trouble := range h.troubles {
		lasting[trouble.fault] = true
	}
	for fault, since := range h.open {
		if !lasting[fault] {
			delete(h.open, fault)
			h.logger.Warn("database_fault_over", "fault", fault, "duration_ms", now.Sub(since).Milliseconds())
		}
	}
	h.troubled.Store(len(h.troubles) > 0)
}

// Trouble returns the fault for which nothing can be accepted at the moment, "" for
// none.
func (h *Health) Trouble() Fault {
	if !h.troubled.Load() {
		return ""
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for step, trouble := range h.troubles {
		if !trouble.fault.isOfOne() || step == AcceptStep || step == RecordStep || step == StartStep || step == checkStep {
			return trouble.fault
		}
	}
	return ""
}

// Lasts tells whether some step meets a fault at the moment.
func (h *Health) Lasts(fault Fault) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, trouble := range h.troubles {
		if trouble.fault == fault {
			return true
		}
	}
	return false
}

// Met is how often a fault was met since the start.
func (h *Health) Met(fault Fault) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.met[fault]
}

// Emptied is how often connections were given up since their server could not be
// written.
func (h *Health) Emptied() int64 { return h.readOnly.Load() }

// Check asks whether the database answers, and makes sure that it can be written
// where a step failed or none has written lately. It is to be called every second.
func (h *Health) Check(ctx context.Context) error {
	start := time.Now()
	if !h.troubled.Load() && start.UnixNano()-h.wrote.Load() < int64(checkedWithin) {
		err := h.pool.Ping(ctx)
		if err != nil {
			h.Note(checkStep, err)
		}
		return err
	}
	err := h.write(ctx)
	h.Note(checkStep, err)
	h.end(time.Now(), func(step Step, t trouble) bool {
		if t.fault.isOfOne() && step != AcceptStep && step != RecordStep {
			return start.Sub(t.since) > forgottenAfter
		}
		return err == nil && t.since.Before(start)
	})
	return err
}

// write takes the locks that accepting takes, writes a row, and commits to the disk.
// Where the disk was full, it makes a file grow.
func (h *Health) write(ctx context.Context) error {
	filling := 0
	if h.Lasts(DiskFull) {
		filling = fillingBytes
	}
	id := uuid.New()
	return InTx(ctx, h.pool, func(tx pgx.Tx) error {
		batch := &pgx.Batch{}
		batch.Queue("SELECT set_config('lock_timeout', $1, true)", milliseconds(checkLockTimeout))
		batch.Queue("LOCK TABLE requests, river_job IN ROW EXCLUSIVE MODE")
		batch.Queue("INSERT INTO write_checks (id, filling) VALUES ($1, repeat('x', $2))", id, filling)
		batch.Queue("DELETE FROM write_checks WHERE id = $1", id)
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return fmt.Errorf("checking that the database can be written: %w", err)
		}
		return nil
	})
}

// findBlockers describes the sessions whose locks other sessions of this database wait
// for, with the age of their transactions; "" where nobody waits.
func findBlockers(ctx context.Context, q Querier) (string, error) {
	const sql = `
		SELECT coalesce(string_agg(DISTINCT format(
		           'pid %s (%s, %s, its transaction is %s s old)', blocker.pid,
		           coalesce(nullif(blocker.application_name, ''), blocker.backend_type, 'unknown'),
		           coalesce(blocker.state, 'unknown'),
		           coalesce(extract(epoch FROM clock_timestamp() - blocker.xact_start)::bigint::text, '?')), ', '), '')
		FROM pg_stat_activity AS waiting
		CROSS JOIN LATERAL unnest(pg_blocking_pids(waiting.pid)) AS blocking (pid)
		JOIN pg_stat_activity AS blocker ON blocker.pid = blocking.pid
		WHERE waiting.datname = current_database()
		  AND waiting.wait_event_type = 'Lock'
		  AND blocker.wait_event_type IS DISTINCT FROM 'Lock' -- who waits as well isn't the cause`
	var blockers string
	if err := q.QueryRow(ctx, sql).Scan(&blockers); err != nil {
		return "", fmt.Errorf("looking for the holders of locks: %w", err)
	}
	return blockers, nil
}
