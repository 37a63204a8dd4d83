// Package pacing decides which callback may leave when. README.md is its manual.
//
// A worker that has a callback to send calls Enter, and Leave with the attempt. Four files may
// refuse the callback, in this order: decide.go, consent.go where the receiver must be asked
// first, lookups.go where its name must be looked up, and admit.go for each address. learn.go
// learns from attempts.
package pacing

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"ringback/db"
	"ringback/jobs/limit"
	"ringback/jobs/webhook"
)

// Reasons for which a callback waits. A reason names no other client and no address.
const (
	Down      limit.Reason = "receiver_down"    // the client's callbacks failed in a row
	Paused    limit.Reason = "receiver_paused"  // the client got a Retry-After
	Closed    limit.Reason = "receiver_closed"  // the receiver fails for all clients, or another client got a Retry-After
	Pace      limit.Reason = "receiver_pace"    // the receiver's pace, or the client's own, is used up
	Consent   limit.Reason = "receiver_consent" // the receiver has not granted callbacks
	Denied    limit.Reason = "receiver_denied"  // by the operator, for good
	Strangers limit.Reason = "strangers"        // a budget that strangers share is used up
	Workers   limit.Reason = "workers"          // the client's share of the workers is used up
	Lookups   limit.Reason = "lookups"          // the client's share of the lookups of names is used up
	Unknown   limit.Reason = "memory"           // the database didn't return its memory of the receiver
)

// Reasons returns all reasons for which a callback waits.
func Reasons() []limit.Reason {
	return []limit.Reason{Down, Paused, Closed, Pace, Consent, Denied, Strangers, Workers, Lookups, Unknown}
}

// Config is the configuration of a Pacing.
type Config struct {
	Workers int     // callbacks at a time
	Shared  bool    // clients share the workers
	Rate    float64 // callbacks a second that a receiver gets at most, 0 for no limit
	Consent bool    // a receiver must grant callbacks before it gets one
	Logger  *slog.Logger
	Outside
}

// Outside is a Pacing's calls of other packages.
type Outside struct {
	Load    func(ctx context.Context, name string) (db.Receiver, error) // the zero row where none is stored
	Save    func(ctx context.Context, changes []Change) error
	Rulings func(ctx context.Context) ([]db.Ruling, error)
	// Forget removes the stored receivers of a ruling's target.
	Forget func(ctx context.Context, target string) error
	// Ask asks the receiver of a URL to grant so many callbacks a minute.
	Ask func(ctx context.Context, url string, perMinute int, admission webhook.Admission) (webhook.Consent, error)
}

// Pacing paces the callbacks of this process.
type Pacing struct {
	workers         int     // callbacks at a time
	mostPerReceiver int     // the most of them that go to one receiver
	rate            float64 // of Config
	required        bool    // consent
	shared          bool
	logger          *slog.Logger
	outside         Outside
	lookups         *limit.Gate   // of names
	writing         chan struct{} // has an element while stored receivers are saved or forgotten

	mu            sync.Mutex
	receivers     map[string]*receiver
	slots         limit.Slots              // the workers
	strangers     *budget                  // of all strangers
	strangerSlots limit.Slots              // half of the workers, for strangers
	addresses     map[netip.Prefix]*budget // of the strangers at an address
	clients       map[string]*clientState
	rulings       map[string]ruling    // the operator's, by RulingTarget
	unsaved       map[string]*receiver // to be saved
}

// clientState is what a Pacing knows of a client, for all receivers together.
type clientState struct {
	line         limit.Line    // callbacks that wait for a worker
	lookups      limit.Line    // callbacks that wait for a lookup
	averageTime  time.Duration // moving average of an attempt, 0 before the first
	lastProgress time.Time     // when an attempt last ended, or began with none under way
}

// clientState returns the state of a client. There are no more states than clients.
func (p *Pacing) clientState(client string) *clientState {
	known := p.clients[client]
	if known == nil {
		known = &clientState{}
		p.clients[client] = known
	}
	return known
}

// New returns a Pacing that knows no receiver.
func New(config Config) *Pacing {
	workers := max(1, config.Workers)
	return &Pacing{
		workers: workers, mostPerReceiver: max(1, workers/4), rate: config.Rate, required: config.Consent, shared: config.Shared,
		logger: config.Logger, outside: config.Outside, lookups: newLookups(config.Shared), writing: make(chan struct{}, 1),
		receivers: map[string]*receiver{}, addresses: map[netip.Prefix]*budget{}, clients: map[string]*clientState{}, rulings: map[string]ruling{},
		slots:     limit.NewSlots(workers, config.Shared),
		strangers: newBudget(strangersRate, config.Shared), strangerSlots: limit.NewSlots(max(1, workers/2), config.Shared),
		unsaved: map[string]*receiver{},
	}
}

// Callback is a callback that wants to leave.
type Callback struct {
	Client    string
	URL       string
	CameBack  bool // it has been postponed, or has failed before
	waitedNew bool // it was new when it began to wait in its worker
}

// A callback that may leave within its patience waits in its worker: to postpone it would
// take longer.
const (
	patience     = 50 * time.Millisecond
	pollInterval = 100 * time.Millisecond // of the queue; the patience of a callback that came back
)

func (c Callback) patience() time.Duration {
	if c.CameBack {
		return pollInterval
	}
	return patience
}

// Enter lets a callback leave, and returns its pass, of which the caller must call Leave. Or
// it returns a nil pass, and the decision that says when the callback may come back, and why:
// no attempt was made, and none is to be charged. A nil pass after the end of ctx comes with a
// decision that means nothing.
func (p *Pacing) Enter(ctx context.Context, callback Callback) (*Pass, limit.Decision) {
	r, err := p.meet(ctx, ReceiverOf(callback.URL))
	if err != nil {
		return nil, limit.Decision{Reason: Unknown, RetryAt: time.Now().Add(faultDelay())}
	}
	for deadline := time.Now().Add(callback.patience()); ctx.Err() == nil; {
		pass, decision := p.next(r, callback)
		if pass != nil {
			return p.askFirst(ctx, pass, callback.URL)
		}
		if decision.RetryAt.IsZero() || decision.RetryAt.After(deadline) || !p.wait(ctx, callback.Client, decision.RetryAt) {
			return nil, decision
		}
		callback.CameBack, callback.waitedNew = true, !callback.CameBack || callback.waitedNew
	}
	return nil, limit.Decision{}
}

// wait sleeps until at or the end of ctx, and holds a worker of the client's share meanwhile.
// It returns false at once where the client has no worker left: its waiting callbacks would
// take the workers of other clients.
func (p *Pacing) wait(ctx context.Context, client string, at time.Time) bool {
	p.mu.Lock()
	taken := p.slots.Take(client, 1)
	p.mu.Unlock()
	if !taken {
		return false
	}
	sleep(ctx, time.Until(at))
	p.mu.Lock()
	p.slots.Release(client, 1)
	p.mu.Unlock()
	return true
}

// faultDelay is how long a callback waits after the database didn't return a memory.
func faultDelay() time.Duration { return time.Second + rand.N(2*time.Second) }

func sleep(ctx context.Context, pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// errUnknown says that the database didn't return its memory of a receiver to another callback.
var errUnknown = errors.New("the memory of the receiver was not loaded")

// meet returns a receiver with its memory. The first caller asks the database, and other
// callers wait for the answer.
func (p *Pacing) meet(ctx context.Context, name string) (*receiver, error) {
	r, isNew := p.find(name)
	if isNew {
		return r, p.load(ctx, r)
	}
	select {
	case <-r.loading:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if !r.memory.loaded { // nothing writes loaded after loading is closed
		return nil, errUnknown
	}
	return r, nil
}

func (p *Pacing) find(name string) (r *receiver, isNew bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r = p.receivers[name]; r != nil {
		return r, false
	}
	return p.add(name, time.Now()), true
}

// loadTimeout bounds the first callback's wait for the database.
const loadTimeout = 10 * time.Second

// load reads a receiver's memory from the database. After a failure the next callback
// reads again.
func (p *Pacing) load(ctx context.Context, r *receiver) error {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	row, err := p.outside.Load(ctx, r.name)
	p.mu.Lock()
	defer p.mu.Unlock()
	defer close(r.loading)
	if err != nil {
		delete(p.receivers, r.name)
		return err
	}
	r.recall(row, time.Now())
	return nil
}

func (p *Pacing) next(r *receiver, callback Callback) (*Pass, limit.Decision) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.decide(r, callback, time.Now())
}

// Leave ends the pass of a callback with its attempt, or with the zero Attempt where the
// attempt says nothing of the receiver.
func (pass *Pass) Leave(sent webhook.Attempt) {
	p, r, now := pass.pacing, pass.receiver, time.Now()
	p.mu.Lock()
	before := r.breaker.trips
	p.conclude(pass, sent, now)
	after := r.breaker
	p.mu.Unlock()
	switch {
	case after.trips > before:
		p.logger.Warn("receiver_closed", "receiver", r.name, "failures", after.failures, "until", after.until,
			"outcome", sent.Outcome, "status", sent.Status, "cause", sent.Cause,
			"remedy", "callbacks wait and try again by themselves; once the receiver is well, ringback receiver forget lets them leave at once")
	case after.trips < before:
		p.logger.Info("receiver_open", "receiver", r.name)
	}
}

// Counts returns how many receivers are known, and the number of them whose breaker for all
// clients is open. Clients without a failure since it opened may still probe them.
func (p *Pacing) Counts(now time.Time) (known, closed int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.receivers {
		if r.breaker.isOpen(now) {
			closed++
		}
	}
	return len(p.receivers), closed
}

// ReceiverOf returns the scheme, host and port of a URL in canonical form, "" for a text that
// is no URL.
func ReceiverOf(callbackURL string) string {
	parsed, err := url.Parse(callbackURL)
	if err != nil {
		return "" // the sender will refuse it
	}
	port := parsed.Port()
	switch {
	case port != "":
	case parsed.Scheme == "http":
		port = "80"
	default:
		port = "443"
	}
	return parsed.Scheme + "://" + net.JoinHostPort(parsed.Hostname(), port)
}
