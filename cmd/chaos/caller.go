package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// answerTimeout is how long a caller waits: above the 2 s in which the service
// says that its database is away, below the longest pause.
const answerTimeout = 8 * time.Second

// caller makes the calls of the lanes and notes their results.
type caller struct {
	client    *http.Client
	servers   *servers
	receivers map[receiver]string // callback URLs
	history   *history
}

func newCaller(servers *servers, receivers map[receiver]string, h *history) *caller {
	// No connection is kept: the transport repeats a call by itself on a dead connection,
	// and each sending must be noted here.
	transport := &http.Transport{DisableKeepAlives: true}
	return &caller{&http.Client{Transport: transport, Timeout: answerTimeout}, servers, receivers, h}
}

// run makes a lane's calls until ctx ends, at least pause apart. The cancel or redelivery
// that follows a call may end later.
func (c *caller) run(ctx context.Context, l *lane, seed uint64, pause time.Duration) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		made := l.next(seed)
		c.history.addCall(made)
		c.make(made, c.servers.pick(l.random))
		if made.acknowledged() && (made.CancelAfter > 0 || made.RedeliverAfter > 0) {
			c.history.following.Go(func() { c.follow(ctx, made) })
		}
	}
}

// make sends a call, and repeats it with the same idempotency key until an answer tells
// its result.
func (c *caller) make(made *call, server int) {
	made.SentAt = time.Now()
	for range len(c.servers.roles) { // where nobody is there, the next is asked, as by a load balancer
		made.Server, made.Status = server, c.send(made, server)
		if made.Status != nobody {
			break
		}
		server = c.servers.callable(server + 1)
	}
	made.Status = max(0, made.Status)
	made.AnsweredAt = time.Now()
	if made.IdempotencyKey == "" || made.Status != 0 && !made.Repeat {
		return
	}
	for try := range 3 {
		if status := c.send(made, c.servers.callable(server+try+1)); status > 0 && status != http.StatusConflict {
			return
		}
	}
}

// nobody stands for the status where there is no server, so that nothing was sent.
const nobody = -1

// send returns the answer's status, 0 where there was none, or nobody.
func (c *caller) send(made *call, server int) int {
	body := map[string]any{"input": made.input()}
	path := "/sync"
	if !made.Sync {
		path = "/async"
		body["callback_url"] = c.receivers[made.Receiver]
		for name, value := range map[string]any{"ordering_key": made.OrderingKey, "expires_in": made.ExpiresIn} {
			if value != "" && value != 0 {
				body[name] = value
			}
		}
	}
	if made.Manners != nil {
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

// post returns status 0 for no answer, and nobody where no server is there.
func (c *caller) post(server int, path, key string, body any) (int, []byte) {
	return postJSON(context.Background(), c.client, c.servers.url(server)+path, key, body)
}

func postJSON(ctx context.Context, client *http.Client, address, key string, body any) (int, []byte) {
	encoded, err := json.Marshal(body)
	if err != nil {
		panic(err) // strings and numbers
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(encoded))
	if err != nil {
		panic(err) // a URL of the plan, not of a caller
	}
	request.Header.Set("Content-Type", "application/json")
	if key != "" {
		request.Header.Set("Idempotency-Key", key)
	}
	response, err := client.Do(request)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nobody, nil
	}
	if err != nil {
		return 0, nil
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, nil
	}
	return response.StatusCode, answer
}

// unknown stands for the work or callback that an unanswered cancel stopped.
const unknown = "unknown"

// follow cancels or redelivers, a moment after the call was acknowledged. A call that the
// service misses while it is away is not repeated.
func (c *caller) follow(ctx context.Context, made *call) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(max(made.CancelAfter, made.RedeliverAfter)):
	}
	id := made.IDs[0]
	server := c.servers.callable(made.Server)
	if made.RedeliverAfter > 0 {
		status, _ := c.post(server, "/requests/"+id+"/redeliver", "", struct{}{})
		made.Redelivered = status == 0 || status == http.StatusAccepted
		return
	}
	status, answer := c.post(server, "/requests/"+id+"/cancel", "", struct{}{})
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
func (c *caller) redeliver(ctx context.Context, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 1+lanes))
	for wait(ctx, seconds(random, 2, 8)); ctx.Err() == nil; wait(ctx, seconds(random, 2, 8)) {
		status, answer := c.post(c.servers.pick(random), "/redeliveries", "", map[string]int{"rate": 100})
		var got struct {
			Redelivered int `json:"redelivered"`
		}
		if status == http.StatusAccepted && json.Unmarshal(answer, &got) == nil {
			c.history.addRedelivered(got.Redelivered)
		}
	}
}

// get reads something, with a status other than 200 as an error.
func (c *caller) get(ctx context.Context, path string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.servers.url(0)+path, nil)
	if err != nil {
		return fmt.Errorf("asking for %s: %w", path, err)
	}
	response, err := c.client.Do(request)
	if err != nil {
		return fmt.Errorf("asking for %s: %w", path, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("asking for %s: status %d", strings.Split(path, "?")[0], response.StatusCode)
	}
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}
