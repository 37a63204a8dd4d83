package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"
)

// receiver names how one answers.
type receiver string

const (
	good  receiver = "ok"
	flaky receiver = "flaky" // answers 500 to a third of what comes
	slow  receiver = "slow"  // takes its time
	reset receiver = "reset" // breaks the connection of a third of what comes
	gone  receiver = "gone"  // 410

	// steady is always fine. It is called back when the faults are over.
	steady receiver = "steady"
)

func receivers() []receiver { return []receiver{good, flaky, slow, reset, gone} }

// call is one that the load makes, and what came of it.
type call struct {
	// What is asked.
	Text           string        `json:"text"` // no two calls have the same
	Rounds         int           `json:"rounds"`
	Delay          int           `json:"delay_ms"`
	Sync           bool          `json:"sync"`
	Receiver       receiver      `json:"receiver"`
	OrderingKey    string        `json:"ordering_key"`
	IdempotencyKey string        `json:"idempotency_key"`
	ExpiresIn      int           `json:"expires_in"`   // seconds, 0 for never
	Repeat         bool          `json:"repeat"`       // send it once more after it was acknowledged
	CancelAfter    time.Duration `json:"cancel_after"` // 0 for not at all
	RedeliverAfter time.Duration `json:"redeliver_after"`
	Manners        []manner      `json:"manners"` // of the attempts of work that the upstream does, nil for the sample

	// What came of it.
	Server      int             `json:"server"`
	SentAt      time.Time       `json:"sent_at"`
	AnsweredAt  time.Time       `json:"answered_at"`
	Status      int             `json:"status"`  // of the first sending, 0 when nothing came
	Problem     string          `json:"problem"` // its type, where the answer is one
	IDs         []string        `json:"ids"`     // that 200 and 202 named, of all sendings
	Result      json.RawMessage `json:"result"`  // of a sync call
	Sent        int             `json:"sent"`    // times
	Stopped     []string        `json:"stopped"`
	StoppedAt   time.Time       `json:"stopped_at"`
	Redelivered bool            `json:"redelivered"`
}

// acknowledged tells whether the service has promised something.
func (c *call) acknowledged() bool { return len(c.IDs) > 0 }

// input is what the work gets.
func (c *call) input() map[string]any {
	if c.Manners != nil {
		return map[string]any{"text": c.Text, "manners": c.Manners}
	}
	return map[string]any{"text": c.Text, "rounds": c.Rounds, "delay_ms": c.Delay}
}

// lane is one caller, which waits for its answer before it calls again.
type lane struct {
	number  int
	key     string // its ordering key, empty for none
	random  *rand.Rand
	calls   int
	hostile bool // its work is done by the upstream
}

const (
	ordered = 8  // lanes that have an ordering key, one each: what they send one after the other must arrive so
	keyed   = 45 // calls with an idempotency key, percent
)

func newLane(seed uint64, number int) *lane {
	l := &lane{number: number, random: rand.New(rand.NewPCG(seed, 1+uint64(number)))}
	if number < ordered {
		l.key = fmt.Sprintf("key-%d-%d", seed, number)
	}
	return l
}

// next draws the lane's next call. It draws everything each time, so that what
// follows doesn't depend on what came of the calls before.
func (l *lane) next(seed uint64) *call {
	if l.calls++; l.hostile {
		return l.nextHostile(seed)
	}
	c := &call{
		Text:     fmt.Sprintf("chaos %d lane %d call %d: the quick brown fox\n", seed, l.number, l.calls),
		Rounds:   l.random.IntN(2000),
		Delay:    l.random.IntN(150),
		Receiver: receivers()[pick(l.random, 60, 14, 8, 12, 6)],
	}
	if l.chance(12) { // long enough that a kill meets it
		c.Delay = 1000 + l.random.IntN(3000)
	}
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
