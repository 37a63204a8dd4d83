package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"ringback/cmd/internal/sample"
)

// receiver names a receiver of the run.
type receiver string

const (
	good  receiver = "ok"
	flaky receiver = "flaky"
	slow  receiver = "slow"
	shaky receiver = "shaky"
	gone  receiver = "gone"

	// steady is always fine. It is called back when the faults are over.
	steady receiver = "steady"
)

func drawn() []receiver { return []receiver{good, flaky, slow, shaky, gone} }

// call is a call of the load, and its result.
type call struct {
	// The call's request.
	Text           string // of the input; no two calls have the same
	Input          jsontext.Value
	Sync           bool
	Receiver       receiver
	OrderingKey    string
	IdempotencyKey string
	ExpiresIn      int           // seconds, 0 for never
	Repeat         bool          // send it once more after it was acknowledged
	CancelAfter    time.Duration // 0 for not at all
	RedeliverAfter time.Duration
	Manners        []manner // of the attempts of work that the upstream does, nil for the sample

	// The call's result.
	Server      int
	SentAt      time.Time
	AnsweredAt  time.Time
	Status      int             // of the first sending, 0 when nothing came
	Problem     string          // its type, where the answer is a problem
	IDs         []string        // that 200 and 202 named, of all sendings
	Result      json.RawMessage // of a sync call
	Sent        int             // times
	Stopped     []string
	StoppedAt   time.Time
	Redelivered bool
}

// newCall asks for work of a number of rounds, after a delay.
func newCall(text string, to receiver, rounds int, delay time.Duration) *call {
	return &call{Text: text, Input: sample.Input(text, rounds, delay), Receiver: to}
}

// acknowledged tells whether the service has promised something.
func (c *call) acknowledged() bool { return len(c.IDs) > 0 }

// input is the input of the work.
func (c *call) input() any {
	if c.Manners != nil {
		return map[string]any{"text": c.Text, "manners": c.Manners}
	}
	return json.RawMessage(c.Input)
}

// lane is one caller, which waits for its answer before its next call.
type lane struct {
	number  int
	key     string // its ordering key, empty for none
	random  *rand.Rand
	calls   int
	hostile bool // its work is done by the upstream
}

const (
	ordered = 8  // lanes with an ordering key, whose callbacks must arrive in the order of the calls
	keyed   = 45 // calls with an idempotency key, percent
)

func newLane(seed uint64, number int) *lane {
	l := &lane{number: number, random: rand.New(rand.NewPCG(seed, 1+uint64(number)))}
	if number < ordered {
		l.key = fmt.Sprintf("key-%d-%d", seed, number)
	}
	return l
}

// next draws the lane's next call. It draws every value each time, so that later draws
// don't depend on the results of earlier calls.
func (l *lane) next(seed uint64) *call {
	if l.calls++; l.hostile {
		return l.nextHostile(seed)
	}
	text := fmt.Sprintf("chaos %d lane %d call %d: the quick brown fox\n", seed, l.number, l.calls)
	rounds, delay := l.random.IntN(2000), l.random.IntN(150)
	to := drawn()[pick(l.random, 60, 14, 8, 12, 6)]
	if l.chance(12) { // long enough that a kill meets it
		delay = 1000 + l.random.IntN(3000)
	}
	c := newCall(text, to, rounds, time.Duration(delay)*time.Millisecond)
	once, again, expires, sync := l.chance(keyed), l.chance(25), l.chance(10), l.chance(15)
	cancel, redeliver := l.chance(6), l.chance(6)
	c.Sync = sync && l.key == ""
	if once {
		c.IdempotencyKey = fmt.Sprintf("chaos-%d-%d-%d", seed, l.number, l.calls)
		c.Repeat = again
	}
	if !c.Sync {
		l.addAsync(c, expires, cancel, redeliver)
	}
	return c
}

func (l *lane) addAsync(c *call, expires, cancel, redeliver bool) {
	wait, end := time.Duration(l.random.IntN(400))*time.Millisecond, 1+l.random.IntN(3)
	c.OrderingKey = l.key
	if expires {
		c.ExpiresIn = end
	}
	switch {
	case cancel:
		c.CancelAfter = wait + 1
	case redeliver:
		c.RedeliverAfter = wait + 1
	}
}

func (l *lane) chance(percent int) bool { return l.random.IntN(100) < percent }

// pick draws an index by its share.
func pick(random *rand.Rand, shares ...int) int {
	total := 0
	for _, share := range shares {
		total += share
	}
	left := random.IntN(total)
	for i, share := range shares {
		if left -= share; left < 0 {
			return i
		}
	}
	return 0
}
