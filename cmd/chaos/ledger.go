package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/receivers"
	"ringback/work"
)

// ledger is the evidence of a run: calls and answers, what came to the receivers and to the
// upstream, faults, and the rows of the database.
type ledger struct {
	plan      plan
	verifier  *receivers.Verifier // of callbacks, and of the upstream's attempts
	following sync.WaitGroup      // cancels, redeliveries and reports

	mu          sync.Mutex
	calls       []*call
	stories     map[string]*story // by request
	redelivered int               // dead letters, by caller.redeliver
	windows     []window          // of faults
	deaths      []time.Time       // of processes
	returned    []window          // from a kill until the jobs of the process were given back
	quiet       time.Time         // when the last fault was over
	resumed     map[string]time.Duration
	listed      map[string]int // how many requests the API lists, by mode
	storm       load.Async     // counts of the storm beside the calls
	stormBroke  error          // what the storm found broken
}

// story is all that is known of a request.
type story struct {
	id        string
	stored    bool
	row       // zero unless stored
	jobs      []job
	call      *call // nil for a request of storm
	came      int   // callbacks, the unanswered included
	callbacks []callback
	runs      []*workRun
	finishes  []*finish
	meddled   meddling
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
	Dead          bool     // in the table of dead letters
	Attempts      []string // outcomes in the table of callback attempts
	LastAttempt   int      // the highest number there
}

// freesKey tells whether the idempotency key of a sync request is free again: the caller went
// away, or was told to come again.
func (r row) freesKey() bool {
	return r.ErrorCode == work.CodeAbandoned || r.Mode == "sync" && r.ErrorCode == work.CodeNotDone
}

// outcome is the result of a request whose work has ended, or its failure.
func (r row) outcome() string {
	if r.Status == "failed" {
		return failure(r.ErrorCode)
	}
	return compact(r.Result)
}

// compact is JSON without white space. Other text stays as it is.
func compact(text []byte) string {
	var compacted bytes.Buffer
	if json.Compact(&compacted, text) != nil {
		return string(text)
	}
	return compacted.String()
}

// failure is the outcome of a request that failed with code. No result is equal to it.
func failure(code string) string { return "error " + code }

// job is a row of River's.
type job struct {
	ID        int64
	Kind      string // work or callback
	State     string
	RequestID string
	Attempt   int // the latest that was charged
	Snoozes   int // how often the job was postponed, uncharged
	Errors    []jobError
}

// jobError is how an attempt ended that did not do the work, as River and the service store it.
type jobError struct {
	Attempt int    `json:"attempt"`
	Error   string `json:"error"`
}

// live tells whether River will still run the job.
func (j job) live() bool {
	return j.State != "completed" && j.State != "cancelled" && j.State != "discarded"
}

// ends tells how attempts ended that did not do the work: the error of each charged attempt,
// and how many runs of each attempt the stop of a process cut off.
func (j job) ends() (failed map[int]string, cutOff map[int]int) {
	failed, cutOff = map[int]string{}, map[int]int{}
	for _, e := range j.Errors {
		code, isUncharged := strings.CutPrefix(e.Error, "not charged: ")
		switch {
		case !isUncharged:
			failed[e.Attempt] = e.Error
		case code == "cut_off":
			cutOff[e.Attempt]++
		}
	}
	return failed, cutOff
}

// job finds a job, zero without one.
func (s *story) job(id int64) job {
	if i := slices.IndexFunc(s.jobs, func(j job) bool { return j.ID == id }); i >= 0 {
		return s.jobs[i]
	}
	return job{}
}

// wasTried tells whether an attempt may have ended that did not do the work. The upstream saw
// the attempt, or the job has its error, or had the error when the job was taken away.
func (s *story) wasTried() bool {
	return len(s.runs) > 0 || len(s.workJob().Errors) > 0 || s.meddled.times > 0
}

func (s *story) workJob() job { return s.job(s.WorkJobID) }

// callback is a callback that reached a receiver.
type callback struct {
	receivers.Payload
	Receiver receivers.Behaviour
	At       time.Time
	Answered time.Time
	Answer   int // 0 for a broken connection
	Signed   bool
}

func (c callback) taken() bool { return c.Answer >= 200 && c.Answer <= 299 }

// hasCome tells whether a callback of the request was taken.
func (s *story) hasCome() bool { return slices.ContainsFunc(s.callbacks, callback.taken) }

// meddling is how jobs of a request were taken away behind the service's back.
type meddling struct {
	times     int       // tries
	cancelled bool      // a work job was, perhaps
	at        time.Time // when the first work job was certainly cancelled, by the database's clock
}

func newLedger(p plan) *ledger {
	verifier := receivers.LocalVerifier()
	verifier.Whenever = p.Skews != nil
	return &ledger{plan: p, verifier: verifier, stories: map[string]*story{}, resumed: map[string]time.Duration{}, listed: map[string]int{}}
}

// note locks the ledger while do writes in it.
func (l *ledger) note(do func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	do()
}

// tell locks the ledger while do reads or writes the story of a request.
func (l *ledger) tell(id string, do func(*story)) {
	l.note(func() { do(l.story(id)) })
}

// story returns the story of a request, a new one if need be. The caller holds the lock, or
// nothing else uses the ledger.
func (l *ledger) story(id string) *story {
	s := l.stories[id]
	if s == nil {
		s = &story{id: id}
		l.stories[id] = s
	}
	return s
}

func (l *ledger) hasCome(id string) (has bool) {
	l.tell(id, func(s *story) { has = s.hasCome() })
	return has
}
