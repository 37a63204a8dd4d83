package main

import (
	"encoding/json"
	"slices"
	"sync"
	"time"

	"ringback/work"
)

// history is the evidence that a run is judged by: calls and answers, the receivers'
// callbacks, and the rows of the database.
type history struct {
	mu        sync.Mutex
	following sync.WaitGroup // cancels and redeliveries

	Calls       []*call
	Redelivered int // dead letters, many at a time
	Callbacks   []callback
	Rows        []row
	Jobs        []job
	Attempts    []attempt
	Dead        map[string]bool // ids that the table of dead letters lists
	Listed      map[string]int  // how many requests the API lists, by mode
	Mine        string          // the prefix of the texts of the run's own calls
	Storm       stormCounts
	attempts    map[string]int // that came to receivers, by request

	Meddled  map[string]*meddling // by request
	Deaths   []time.Time          // of processes
	Ahead    time.Duration        // the database's clock
	Skewed   bool                 // the clocks of servers differ
	Upgraded bool                 // the servers, and nothing else was done to them
	Quiet    time.Time            // when the last fault was over
	Resumed  []resumption

	Runs     []*workRun // of the upstream
	Finishes []*finish
	Traces   map[int64]workTrace // by work job
	Pauses   []window            // of servers, of tables, and of the database
}

// row is a request as it is stored.
type row struct {
	ID            string
	Seq           int64
	Mode          string
	Status        string
	ErrorCode     string
	CallbackState string
	CallbackURL   string
	Text          string // of the input
	Work          string
	Result        json.RawMessage
	WorkJobID     int64
	CallbackJobID int64
	AcceptedAt    time.Time
	StartedAt     time.Time // zero for never
	FinishedAt    time.Time
}

// freesKey tells whether the idempotency key of a sync request is free again: its caller
// went away, so that nobody has its answer, or was told to come again.
func (r row) freesKey() bool {
	return r.ErrorCode == work.CodeAbandoned || r.Mode == "sync" && r.ErrorCode == work.CodeNotDone
}

// job is a row of River's.
type job struct {
	ID        int64
	Kind      string // work or callback
	State     string
	RequestID string
}

// live tells whether River will still run it.
func (j job) live() bool {
	return j.State != "completed" && j.State != "cancelled" && j.State != "discarded"
}

// attempt is a line in the log of callbacks.
type attempt struct {
	RequestID string
	Number    int
	Outcome   string
}

func (h *history) addMeddling(request string, cancelled bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.Meddled[request]
	if m == nil {
		m = &meddling{}
		h.Meddled[request] = m
	}
	m.Times++
	m.Cancelled = m.Cancelled || cancelled
}

// addCancelled notes that a work job was certainly cancelled. Its meddling must have been
// noted before.
func (h *history) addCancelled(request string, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.Meddled[request]; m.At.IsZero() {
		m.At = at
	}
}

// hasCome tells whether a callback of a request was taken.
func (h *history) hasCome(request string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.Callbacks, func(c callback) bool { return c.ID == request && c.taken() })
}

func (h *history) addResumed(r resumption) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Resumed = append(h.Resumed, r)
}

func (h *history) addCall(c *call) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Calls = append(h.Calls, c)
}

func (h *history) addRedelivered(count int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Redelivered += count
}

// addAttempt notes a callback that has just come, and returns how many of its request
// did before.
func (h *history) addAttempt(request string) (earlier int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.attempts == nil {
		h.attempts = map[string]int{}
	}
	h.attempts[request]++
	return h.attempts[request] - 1
}

func (h *history) addCallback(c callback) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Callbacks = append(h.Callbacks, c)
}
