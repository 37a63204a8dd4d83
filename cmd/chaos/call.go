package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"ringback/cmd/internal/receivers"
	"ringback/cmd/internal/sample"
)

// call is a call of the load, and its result.
type call struct {
	// The call's request.
	Text           string // of the input; no two calls have the same
	Input          json.RawMessage
	Hostile        bool // the upstream does the work, otherwise it is the sample
	Sync           bool
	Receiver       receivers.Behaviour
	OrderingKey    string
	IdempotencyKey string
	ExpiresIn      int           // seconds, 0 for never
	Repeat         bool          // send it once more after it was acknowledged
	CancelAfter    time.Duration // 0 for not at all
	RedeliverAfter time.Duration

	// The call's result.
	Server      string
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

// newCall asks for the sample work: a number of rounds, after a delay.
func newCall(text string, to receivers.Behaviour, rounds int, delay time.Duration) *call {
	return &call{Text: text, Input: json.RawMessage(sample.Input(text, rounds, delay)), Receiver: to}
}

// newHostileCall asks for work of the upstream, which treats the first attempts in these
// manners.
func newHostileCall(text string, to receivers.Behaviour, has ...manner) *call {
	input, err := json.Marshal(map[string]any{"text": text, "manners": has})
	if err != nil {
		panic(err) // texts
	}
	return &call{Text: text, Input: input, Hostile: true, Receiver: to}
}

// acknowledged tells whether the service has promised something.
func (c *call) acknowledged() bool { return len(c.IDs) > 0 }

const (
	lanes        = 16 // callers
	hostileLanes = 4  // callers whose work the upstream does, beside them
	ordered      = 8  // lanes with an ordering key, whose callbacks must arrive in the order of the calls
)

// lane is one caller, which waits for its answer before its next call.
type lane struct {
	prefix  string // of its texts
	key     string // its ordering key, empty for none
	hostile bool
	random  *rand.Rand
	calls   int
}

func newLane(p plan, number int) *lane {
	l := &lane{prefix: fmt.Sprintf("%slane %d", p.mine(), number), hostile: number >= lanes, random: rand.New(rand.NewPCG(p.Seed, 1+uint64(number)))}
	if number < ordered {
		l.key = fmt.Sprintf("key-%d-%d", p.Seed, number)
	}
	return l
}

// next draws the lane's next call.
func (l *lane) next() *call {
	l.calls++
	text := fmt.Sprintf("%s call %d", l.prefix, l.calls)
	to := drawn[pick(l.random, 60, 14, 8, 12, 6)]
	var c *call
	if l.hostile {
		c = newHostileCall(text, to, l.manners()...)
	} else {
		c = newCall(text, to, l.random.IntN(2000), l.delay())
	}
	if l.chance(45) {
		c.IdempotencyKey, c.Repeat = text, l.chance(25)
	}
	if c.Sync = l.key == "" && l.chance(20); c.Sync {
		return c
	}
	c.OrderingKey = l.key
	if l.chance(10) {
		c.ExpiresIn = 1 + l.random.IntN(3)
	}
	follows := 1 + time.Duration(l.random.IntN(400))*time.Millisecond
	switch pick(l.random, 6, 6, 88) {
	case 0:
		c.CancelAfter = follows
	case 1:
		c.RedeliverAfter = follows
	}
	return c
}

// manners are few or none: later attempts than have a manner do the work.
func (l *lane) manners() []manner {
	drawn, all := []manner{}, mannerNames()
	for range pick(l.random, 30, 50, 20) {
		drawn = append(drawn, all[l.random.IntN(len(all))])
	}
	return drawn
}

// delay is now and then long enough that a kill meets the work.
func (l *lane) delay() time.Duration {
	if l.chance(12) {
		return seconds(l.random, 1, 4)
	}
	return seconds(l.random, 0, 0.15)
}

func (l *lane) chance(percent int) bool { return l.random.IntN(100) < percent }
