package db

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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
	BeatStep   Step = "beat"  // of the process, whose commit doesn't wait for the disk
	ReadStep   Step = "read"  // of a caller
	checkStep  Step = "check"
	lockStep   Step = "lock" // of a table, which some session waits for
)

const (
	// checkedWithin is how long ago the last write may be before a check writes.
	checkedWithin = 5 * time.Second
	// forgottenAfter is how long the fault of a step lasts that is not taken any more.
	forgottenAfter = time.Minute
	// diagnosedFor is how long an answer about locks holds for other steps.
	diagnosedFor = time.Second
	// diagnosisTimeout is how long a pool may take to tell of locks.
	diagnosisTimeout = 500 * time.Millisecond
	// ToldAgainAfter is the least time between two log lines about a fault, which is told
	// again for as long as it lasts: a log that was rotated still shows it.
	ToldAgainAfter = time.Minute
	// toldWithin is how long a fault lasts untold at most, where another of its kind was
	// told within ToldAgainAfter.
	toldWithin = 5 * time.Second
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

	wrote    atomic.Int64  // when a step last did, in Unix nanoseconds
	troubled atomic.Bool   // there are troubles
	readOnly atomic.Int64  // times that the pools were emptied
	again    time.Duration // ToldAgainAfter, less in tests

	mu       sync.Mutex
	troubles map[Step]trouble
	told     map[Fault]time.Time // when a kind of fault was last logged
	open     map[Fault]outage    // kinds that last
	reset    time.Time           // when the pools were last emptied
	met      map[Fault]int64     // times, since the start

	diagnosing sync.Mutex
	diagnosis  holders   // the latest
	diagnosed  time.Time // when they were looked for
}

type trouble struct {
	fault Fault
	since time.Time // of the latest time that it was met
	Lasting
}

// outage is a kind of fault that lasts.
type outage struct {
	since time.Time
	told  bool // in the log
}

// Lasting is what an operator is told of a fault that lasts.
type Lasting struct {
	Remedy    string
	BlockedBy string // the holders of the locks that steps wait for; empty for none
}

// NewHealth checks the database through pool. The others are pools of the same server.
func NewHealth(logger *slog.Logger, pool *pgxpool.Pool, others ...*pgxpool.Pool) *Health {
	return &Health{
		logger: logger, pool: pool, pools: append(others, pool), again: ToldAgainAfter,
		troubles: map[Step]trouble{}, told: map[Fault]time.Time{}, open: map[Fault]outage{}, met: map[Fault]int64{},
	}
}

// Note takes how a step went. An error that isn't a fault of the database changes nothing.
func (h *Health) Note(step Step, err error) {
	now := time.Now()
	fault := faultOf(err)
	switch {
	case err == nil:
		if step != FetchStep && step != BeatStep && step != ReadStep {
			h.wrote.Store(now.UnixNano())
		}
		if h.troubled.Load() {
			h.end(now, func(of Step, _ trouble) bool { return of == step })
		}
	case fault.isWait():
		found := h.diagnose(now)
		if len(found) > 0 || h.meets(lockStep) {
			fault = Locked
		}
		h.begin(step, fault, err, found)
	case fault != "":
		h.begin(step, fault, err, nil)
	}
}

// NoteRead takes how a caller's read went. Only a lack of connections is noted, since steps,
// whose connections are open already, may not meet it.
func (h *Health) NoteRead(err error) {
	if err == nil || faultOf(err) == NoResources {
		h.Note(ReadStep, err)
	}
}

// Explain returns the fields of a line about a step that failed: its error, and the remedy
// of the fault that it shows, or else the given remedy. Where a lock is behind the error,
// they name its holder instead.
func (h *Health) Explain(err error, remedy string) []any {
	fault := faultOf(err)
	if known := Faults[fault]; known != "" && !fault.isWait() {
		remedy = known
	}
	if fault.isWait() {
		if found := h.diagnose(time.Now()); len(found) > 0 {
			return []any{"error", err, "remedy", found.remedy(), "blocked_by", found.String()}
		}
	}
	return []any{"error", err, "remedy", remedy}
}

// diagnose returns the sessions that hold locks which steps wait for. A step that took too
// long has given up by then, so a session that locks a whole table counts although nobody
// waits. The pools are asked in turn, since the waiting steps may hold all connections of
// a pool.
func (h *Health) diagnose(now time.Time) holders {
	h.diagnosing.Lock()
	defer h.diagnosing.Unlock()
	if !h.diagnosed.IsZero() && now.Before(h.diagnosed.Add(diagnosedFor)) {
		return h.diagnosis
	}
	h.diagnosis = nil
	for _, pool := range h.pools {
		ctx, cancel := context.WithTimeout(context.Background(), diagnosisTimeout)
		found, err := findHolders(ctx, pool, holding+" UNION "+waitedFor)
		cancel()
		if err == nil {
			h.diagnosis = found
			break
		}
	}
	h.diagnosed = time.Now()
	return h.diagnosis
}

// begin notes that a step met a fault, with the holders of the locks that it waits for.
func (h *Health) begin(step Step, fault Fault, err error, found holders) {
	now, lasting := time.Now(), Lasting{Remedy: Faults[fault]}
	if len(found) > 0 {
		lasting = Lasting{found.remedy(), found.String()}
	}
	h.mu.Lock()
	h.troubles[step] = trouble{fault, now, lasting}
	h.troubled.Store(true)
	h.met[fault]++
	this, open := h.open[fault]
	if !open {
		this = outage{since: now}
	}
	tell := now.Sub(h.told[fault]) >= h.again || !this.told && now.Sub(this.since) >= toldWithin
	if tell {
		h.told[fault] = now
	}
	h.open[fault] = outage{this.since, this.told || tell}
	empty := fault == ReadOnly && now.Sub(h.reset) >= resetInterval
	if empty {
		h.reset = now
	}
	h.mu.Unlock()
	if tell {
		attrs := []any{"fault", fault, "step", step, "error", err, "remedy", lasting.Remedy}
		if lasting.BlockedBy != "" {
			attrs = append(attrs, "blocked_by", lasting.BlockedBy)
		}
		if this.told {
			h.logger.Error("database_fault_lasts", append(attrs, "duration_ms", now.Sub(this.since).Milliseconds())...)
		} else {
			h.logger.Error("database_fault", attrs...)
		}
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
	for fault, outage := range h.open {
		if lasting[fault] {
			continue
		}
		delete(h.open, fault)
		if outage.told {
			h.logger.Warn("database_fault_over", "fault", fault, "duration_ms", now.Sub(outage.since).Milliseconds())
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
		if step == ReadStep {
			continue
		}
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

// Lasting returns the faults that steps meet at the moment, with their remedies.
func (h *Health) Lasting() map[Fault]Lasting {
	h.mu.Lock()
	defer h.mu.Unlock()
	lasting := make(map[Fault]Lasting, len(h.troubles))
	for _, trouble := range h.troubles {
		if lasting[trouble.fault].Remedy == "" || trouble.BlockedBy != "" {
			lasting[trouble.fault] = trouble.Lasting
		}
	}
	return lasting
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

// Check asks whether the database answers and whether a table is locked, and makes sure
// that it can be written where a step failed or none has written lately. It is to be
// called every second.
func (h *Health) Check(ctx context.Context) error {
	start := time.Now()
	if !h.troubled.Load() && start.UnixNano()-h.wrote.Load() < int64(checkedWithin) {
		_, err := h.look(ctx)
		if err != nil {
			h.Note(checkStep, err)
		}
		return err
	}
	err := h.write(ctx)
	h.noteCheck(err)
	locked, _ := h.look(ctx) // what keeps the database from answering was noted
	h.end(time.Now(), func(step Step, t trouble) bool {
		switch {
		case step == lockStep:
			return false
		case t.fault.isOfOne() && step != AcceptStep && step != RecordStep, t.fault == Locked && locked && err == nil:
			return start.Sub(t.since) > forgottenAfter
		case t.fault.isOfSchema(): // perhaps in a way that a check doesn't meet
			return err == nil && start.Sub(t.since) > checkedWithin
		}
		return err == nil && t.since.Before(start)
	})
	return err
}

// noteCheck notes how a check went. While it fails nothing is accepted, so an error that no
// kind of fault explains is told, too.
func (h *Health) noteCheck(err error) {
	var answer *pgconn.PgError
	if errors.As(err, &answer) && !IsUnavailable(err) {
		h.begin(checkStep, Broken, err, nil)
		return
	}
	h.Note(checkStep, err)
}

// look notes whether a session keeps others waiting for a table or its rows. A locked table
// is noted for as long as it is locked, also while nobody waits. It returns whether a table
// is locked.
func (h *Health) look(ctx context.Context) (locked bool, err error) {
	holding, blocking, err := findTableLocks(ctx, h.pool)
	if err != nil && faultOf(err) != "" {
		return false, err
	}
	switch {
	case len(blocking) > 0:
		h.begin(lockStep, Locked, errTableLocked, blocking)
	case len(holding) > 0 && h.meets(lockStep):
		h.begin(lockStep, Locked, errTableLocked, holding)
	case h.troubled.Load():
		h.end(time.Now(), func(step Step, _ trouble) bool { return step == lockStep })
	}
	return len(holding) > 0, nil
}

var errTableLocked = errors.New("sessions wait for a table, or for rows, that a session has locked")

func (h *Health) meets(step Step) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, meets := h.troubles[step]
	return meets
}

// mayInsert fails where accepting may not insert. It is parsed as it runs: parsing locks
// a table, and a batch is parsed before lock_timeout is set.
const mayInsert = `
	DO $$ BEGIN
		EXECUTE 'INSERT INTO requests (id) SELECT NULL::uuid WHERE false';
		EXECUTE 'INSERT INTO river_job (kind) SELECT NULL::text WHERE false';
	END $$`

// write takes the locks that accepting takes, writes a row, and commits to the disk. It
// changes no row of the tables that accepting needs, and may do so.
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
		batch.Queue(mayInsert)
		batch.Queue("INSERT INTO write_checks (id, filling) VALUES ($1, repeat('x', $2))", id, filling)
		batch.Queue("DELETE FROM write_checks WHERE id = $1", id)
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return fmt.Errorf("checking that the database can be written: %w", err)
		}
		return nil
	})
}
