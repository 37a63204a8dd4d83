package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"syscall"
	"time"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/program"
	"ringback/cmd/internal/receivers"
	"ringback/cmd/internal/sample"
)

// answerTimeout is how long a caller waits: longer than the 2 s within which the service says
// that its database is away, shorter than the longest pause of a process.
const answerTimeout = 8 * time.Second

// newClient keeps no connection: on a kept connection that is dead, the transport would repeat
// a call by itself, and each sending must be counted.
func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: answerTimeout}
}

// caller makes the calls of all series, and notes the results.
type caller struct {
	client  *http.Client
	servers []*server // only servers that take calls
	crowd   *crowd
	ledger  *ledger
}

func newCaller(servers []*server, c *crowd) *caller {
	takers := slices.DeleteFunc(slices.Clone(servers), func(s *server) bool { return !s.takesCalls() })
	return &caller{newClient(), takers, c, c.ledger}
}

// run makes the calls of a series until ctx ends, at least pause apart. The cancel or
// redelivery that follows a call may end later.
func (c *caller) run(ctx context.Context, s *series, pause time.Duration) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		made := s.next()
		server := s.random.IntN(len(c.servers))
		c.make(made, server)
		if made.acknowledged() && (made.CancelAfter > 0 || made.RedeliverAfter > 0) {
			c.ledger.following.Go(func() { c.follow(ctx, made, server) })
		}
	}
}

// make sends a call and notes it. A call with an idempotency key is repeated until an answer
// tells the result. server is the number of a server that takes calls.
func (c *caller) make(made *call, server int) {
	c.ledger.note(func() { c.ledger.calls = append(c.ledger.calls, made) })
	made.SentAt = time.Now()
	for range c.servers { // where one is down, the next is called, as by a load balancer
		if made.Status = c.send(made, server); made.Status != nobody {
			break
		}
		server++
	}
	made.Server, made.Status = c.at(server).name, max(0, made.Status)
	made.AnsweredAt = time.Now()
	if made.IdempotencyKey == "" || made.Status != 0 && !made.Repeat {
		return
	}
	for try := range 3 {
		if status := c.send(made, server+try+1); status > 0 && status != http.StatusConflict {
			return
		}
	}
}

// at is the server of a number. After the last server comes the first.
func (c *caller) at(number int) *server { return c.servers[number%len(c.servers)] }

// nobody stands for the status where no server listens, so that nothing was sent.
const nobody = -1

// send returns the answer's status, 0 where there was none, or nobody.
func (c *caller) send(made *call, server int) int {
	body := map[string]any{"input": made.Input}
	path := "/sync"
	if !made.Sync {
		path = "/async"
		body["callback_url"] = c.crowd.url(made.Receiver)
		for name, value := range map[string]any{"ordering_key": made.OrderingKey, "expires_in": made.ExpiresIn} {
			if value != "" && value != 0 {
				body[name] = value
			}
		}
	}
	if made.Hostile {
		path += "/" + upstreamWork
	}
	status, answer := c.post(server, path, made.IdempotencyKey, body)
	if status == nobody {
		return status
	}
	if made.Sent++; status >= http.StatusBadRequest && made.Sent == 1 {
		var problem struct{ Type string }
		_ = json.Unmarshal(answer, &problem) // no problem, no type
		made.Problem = problem.Type
	}
	if status == http.StatusOK || status == http.StatusAccepted {
		var got struct {
			ID     string          `json:"id"`
			Result json.RawMessage `json:"result"`
		}
		if json.Unmarshal(answer, &got) != nil {
			return 0 // cut off in the middle
		}
		made.IDs, made.Result = append(made.IDs, got.ID), got.Result
	}
	return status
}

func (c *caller) post(server int, path, key string, body any) (int, []byte) {
	return exchange(context.Background(), c.client, http.MethodPost, c.at(server).url(path), key, body)
}

// exchange calls with JSON. It returns status 0 for no answer, and nobody where no server
// listens.
func exchange(ctx context.Context, client *http.Client, method, address, key string, body any) (int, []byte) {
	status, answer, err := program.Call(ctx, client, method, address, body, "Idempotency-Key", key)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return nobody, nil
	case err != nil:
		return 0, nil
	}
	return status, answer
}

// unknown stands for what an unanswered cancel stopped: work, callback or nothing.
const unknown = "unknown"

// follow cancels or redelivers, a moment after the call was acknowledged, and never tries
// again.
func (c *caller) follow(ctx context.Context, made *call, server int) {
	if !load.Pause(ctx, max(made.CancelAfter, made.RedeliverAfter)) {
		return
	}
	path := "/requests/" + made.IDs[0]
	if made.RedeliverAfter > 0 {
		status, _ := c.post(server, path+"/redeliver", "", struct{}{})
		made.Redelivered = status == 0 || status == http.StatusAccepted
		return
	}
	status, answer := c.post(server, path+"/cancel", "", struct{}{})
	made.StoppedAt = time.Now()
	var got struct {
		Stopped []string `json:"stopped"`
	}
	switch {
	case status == http.StatusOK && json.Unmarshal(answer, &got) == nil:
		made.Stopped = got.Stopped
	case status == 0 || status >= 500: // perhaps cancelled
		made.Stopped = []string{unknown}
	}
}

// redeliver redelivers dead letters, many at a time, every few seconds until ctx ends.
func (c *caller) redeliver(ctx context.Context, random *rand.Rand) {
	for load.Pause(ctx, seconds(random, 2, 8)) {
		status, answer := c.post(random.IntN(len(c.servers)), "/redeliveries", "", map[string]int{"rate": 100})
		var got struct {
			Redelivered int `json:"redelivered"`
		}
		if status == http.StatusAccepted && json.Unmarshal(answer, &got) == nil {
			c.ledger.note(func() { c.ledger.redelivered += got.Redelivered })
		}
	}
}

// call is a call of the load, and its result.
type call struct {
	// The call's request.
	Text           string // of the input; no two calls have the same
	Input          json.RawMessage
	Hostile        bool // the upstream does the work, otherwise it is the sample work
	Sync           bool
	Receiver       receivers.Behaviour
	OrderingKey    string
	IdempotencyKey string
	ExpiresIn      int           // seconds, 0 for never
	Repeat         bool          // also after an acknowledgement
	CancelAfter    time.Duration // 0 for not at all
	RedeliverAfter time.Duration

	// The call's result.
	Server      string
	SentAt      time.Time
	AnsweredAt  time.Time
	Status      int             // of the first sending, 0 without an answer
	Problem     string          // the type of a problem in the first answer
	IDs         []string        // in the answers 200 and 202 to all sendings
	Result      json.RawMessage // of a sync call
	Sent        int             // times
	Stopped     []string
	StoppedAt   time.Time
	Redelivered bool
}

// newCall asks for the sample work: a number of rounds, after a delay.
func newCall(text string, to receivers.Behaviour, rounds int, delay time.Duration) *call {
	return &call{Text: text, Input: json.RawMessage(sample.InputJSON(text, rounds, delay)), Receiver: to}
}

// newHostileCall asks for work of the upstream, which has a manner for each of the first
// attempts.
func newHostileCall(text string, to receivers.Behaviour, has ...manner) *call {
	input, err := json.Marshal(map[string]any{"text": text, "manners": has})
	if err != nil {
		panic(err) // texts can be encoded
	}
	return &call{Text: text, Input: input, Hostile: true, Receiver: to}
}

// acknowledged tells whether the service has promised something.
func (c *call) acknowledged() bool { return len(c.IDs) > 0 }

const (
	peacefulSeries = 16 // of the sample work
	orderedSeries  = 8  // of them with an ordering key: callbacks must arrive in the order of the calls
	hostileSeries  = 4  // beside them, of the upstream's work
)

// series draws calls of which each is answered before the next is made.
type series struct {
	prefix  string // of its texts
	key     string // its ordering key, empty for none
	hostile bool
	random  *rand.Rand
	calls   int
}

func newSeries(p plan, number int) *series {
	s := &series{prefix: fmt.Sprintf("%sseries %d", p.mine(), number), hostile: number >= peacefulSeries, random: rand.New(rand.NewPCG(p.Seed, 1+uint64(number)))}
	if number < orderedSeries {
		s.key = fmt.Sprintf("key-%d-%d", p.Seed, number)
	}
	return s
}

// next draws the next call.
func (s *series) next() *call {
	s.calls++
	text := fmt.Sprintf("%s call %d", s.prefix, s.calls)
	to := drawn[load.Pick(s.random, 60, 14, 8, 12, 6)]
	var c *call
	if s.hostile {
		c = newHostileCall(text, to, s.manners()...)
	} else {
		c = newCall(text, to, s.random.IntN(2000), s.delay())
	}
	if s.chance(45) {
		c.IdempotencyKey, c.Repeat = text, s.chance(25)
	}
	if c.Sync = s.key == "" && s.chance(20); c.Sync {
		return c
	}
	c.OrderingKey = s.key
	if s.chance(10) {
		c.ExpiresIn = 1 + s.random.IntN(3)
	}
	follows := 1 + time.Duration(s.random.IntN(400))*time.Millisecond
	switch load.Pick(s.random, 6, 6, 88) {
	case 0:
		c.CancelAfter = follows
	case 1:
		c.RedeliverAfter = follows
	}
	return c
}

// manners draws how the upstream treats the first attempts, at most two. Later attempts do
// the work.
func (s *series) manners() []manner {
	drawn, all := []manner{}, mannerNames()
	for range load.Pick(s.random, 30, 50, 20) {
		drawn = append(drawn, all[s.random.IntN(len(all))])
	}
	return drawn
}

// delay is now and then so long that a kill meets the work.
func (s *series) delay() time.Duration {
	if s.chance(12) {
		return seconds(s.random, 1, 4)
	}
	return seconds(s.random, 0, 0.15)
}

func (s *series) chance(percent int) bool { return s.random.IntN(100) < percent }
