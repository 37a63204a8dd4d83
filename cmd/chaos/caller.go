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

// answerTimeout is how long a caller waits: above the 2 s in which the service
// says that its database is away, below the longest pause.
const answerTimeout = 8 * time.Second

// newClient keeps no connection: the transport repeats a call by itself on a dead
// connection, and each sending must be noted.
func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: answerTimeout}
}

// caller makes the calls of the peacefulSeries and notes the results.
type caller struct {
	client  *http.Client
	servers []*server // that take calls
	crowd   *crowd
	ledger  *ledger
}

func newCaller(servers []*server, c *crowd) *caller {
	takers := slices.DeleteFunc(slices.Clone(servers), func(s *server) bool { return !s.takesCalls() })
	return &caller{newClient(), takers, c, c.ledger}
}

// run makes a series's calls until ctx ends, at least pause apart. The cancel or redelivery
// that follows a call may end later.
func (c *caller) run(ctx context.Context, l *series, pause time.Duration) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		made := l.next()
		server := l.random.IntN(len(c.servers))
		c.make(made, server)
		if made.acknowledged() && (made.CancelAfter > 0 || made.RedeliverAfter > 0) {
			c.ledger.following.Go(func() { c.follow(ctx, made, server) })
		}
	}
}

// make sends a call, notes it, and repeats it with the same idempotency key until an
// answer tells its result. server is the number of a server that takes calls.
func (c *caller) make(made *call, server int) {
	c.ledger.note(func() { c.ledger.calls = append(c.ledger.calls, made) })
	made.SentAt = time.Now()
	for range c.servers { // where nobody is there, the next is asked, as by a load balancer
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

// at is a server that takes calls, going round.
func (c *caller) at(number int) *server { return c.servers[number%len(c.servers)] }

// nobody stands for the status where there is no server, so that nothing was sent.
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

// exchange calls with JSON. It returns status 0 for no answer, and nobody where nobody
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

// unknown stands for the work or callback that an unanswered cancel stopped.
const unknown = "unknown"

// follow cancels or redelivers, a moment after the call was acknowledged. A call that the
// service misses while it is away is not repeated.
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
	case status == 0 || status >= 500: // done, perhaps
		made.Stopped = []string{unknown}
	}
}

// redeliver has dead letters delivered again, many at a time, every few seconds
// until ctx ends.
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
	return &call{Text: text, Input: json.RawMessage(sample.InputJSON(text, rounds, delay)), Receiver: to}
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
	peacefulSeries = 16
	hostileSeries  = 4 // peacefulSeries whose work the upstream does, beside the other peacefulSeries
	ordered        = 8 // peacefulSeries with an ordering key, whose callbacks must arrive in the order of the calls
)

// series draws the calls of one caller, who waits for each answer before the next call.
type series struct {
	prefix  string // of its texts
	key     string // its ordering key, empty for none
	hostile bool
	random  *rand.Rand
	calls   int
}

func newSeries(p plan, number int) *series {
	l := &series{prefix: fmt.Sprintf("%sseries %d", p.mine(), number), hostile: number >= peacefulSeries, random: rand.New(rand.NewPCG(p.Seed, 1+uint64(number)))}
	if number < ordered {
		l.key = fmt.Sprintf("key-%d-%d", p.Seed, number)
	}
	return l
}

// next draws the next call.
func (l *series) next() *call {
	l.calls++
	text := fmt.Sprintf("%s call %d", l.prefix, l.calls)
	to := drawn[load.Pick(l.random, 60, 14, 8, 12, 6)]
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
	switch load.Pick(l.random, 6, 6, 88) {
	case 0:
		c.CancelAfter = follows
	case 1:
		c.RedeliverAfter = follows
	}
	return c
}

// manners draws the behaviours of the first attempts, at most two. Later attempts do the
// work.
func (l *series) manners() []manner {
	drawn, all := []manner{}, mannerNames()
	for range load.Pick(l.random, 30, 50, 20) {
		drawn = append(drawn, all[l.random.IntN(len(all))])
	}
	return drawn
}

// delay is now and then long enough that a kill meets the work.
func (l *series) delay() time.Duration {
	if l.chance(12) {
		return seconds(l.random, 1, 4)
	}
	return seconds(l.random, 0, 0.15)
}

func (l *series) chance(percent int) bool { return l.random.IntN(100) < percent }
