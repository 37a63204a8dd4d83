package load

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/valyala/fasthttp"
)

const maxAnswerBytes = 1 << 20 // far above any answer of the service

// answer is the result of a request.
type answer struct {
	outcome outcome
	id      uuid.UUID // of the request, when ok
	reason  string    // the reason, for counting, unless ok or shed
}

// newClient returns a client that sends each request exactly once, over a bounded number
// of connections.
func newClient(config Config) *fasthttp.HostClient {
	target, err := url.Parse(config.Target)
	if err != nil {
		target = &url.URL{} // nothing answers there
	}
	return &fasthttp.HostClient{
		Addr:             hostPort(target),
		IsTLS:            target.Scheme == "https",
		MaxConns:         config.Connections,
		ConnPoolStrategy: fasthttp.LIFO,
		// Shorter than a server keeps idle connections, so that no request leaves on a
		// connection that the server is just closing.
		MaxIdleConnDuration: 10 * time.Second,
		// A second attempt would hide that the first broke, and might be the same request
		// accepted twice.
		MaxIdemponentCallAttempts: 1,
		RetryIfErr:                func(*fasthttp.Request, int, error) (bool, bool) { return false, false },
		MaxResponseBodySize:       maxAnswerBytes,
		ReadBufferSize:            2 << 10, // far above any answer's headers
		WriteBufferSize:           2 << 10,
		// Workers never wait for each other's connections; this is for the
		// moment between closing one and counting it as closed.
		MaxConnWaitTimeout: config.Timeout,
		Dial: func(address string) (net.Conn, error) {
			dial := func() (net.Conn, error) { return net.DialTimeout("tcp", address, config.Timeout) }
			if target.Scheme == "https" { // TLS state can't move to another connection
				return dial()
			}
			return dialAgain(dial)
		},
		NoDefaultUserAgentHeader:      true,
		DisableHeaderNamesNormalizing: true,
		DisablePathNormalizing:        true,
	}
}

func hostPort(target *url.URL) string {
	if target.Port() != "" {
		return target.Host
	}
	return net.JoinHostPort(target.Hostname(), map[string]string{"http": "80", "https": "443"}[target.Scheme])
}

// ErrInterrupted ends a run before it has begun.
var ErrInterrupted = errors.New("interrupted before the run began")

// askTarget is checkTarget until ctx is done.
func askTarget(ctx context.Context, client *fasthttp.HostClient, config Config) error {
	healthy := make(chan error, 1)
	go func() { healthy <- checkTarget(client, config) }()
	select {
	case err := <-healthy:
		return err
	case <-ctx.Done():
		return ErrInterrupted
	}
}

// checkTarget returns an error, worded for the person who typed the command, unless
// the target says that it is healthy.
func checkTarget(client *fasthttp.HostClient, config Config) error {
	status, _, err := get(client, config, "/healthz")
	switch {
	case err != nil:
		return fmt.Errorf("nothing answers at %s: start the server with `make run` first, or name another with -target", config.Target)
	case status != http.StatusOK:
		return fmt.Errorf("%s answers GET /healthz with status %d: is a healthy Ringback running there?",
			config.Target, status)
	}
	return nil
}

func get(client *fasthttp.HostClient, config Config, path string) (status int, body []byte, err error) {
	var request fasthttp.Request
	var response fasthttp.Response
	prepare(&request, http.MethodGet, path, config)
	err = client.Do(&request, &response)
	return response.StatusCode(), response.Body(), err
}

// warmUp opens connections ahead of the run, so that its first requests don't
// pay for a cold start. Any that fail are opened when they are needed.
func warmUp(client *fasthttp.HostClient, config Config) {
	const enough = 64 // enough for a healthy server at thousands of requests a second
	var group sync.WaitGroup
	for range min(enough, config.Connections) {
		group.Go(func() { _ = checkTarget(client, config) })
	}
	group.Wait()
}

// caller sends requests, one at a time. It owns the buffers.
type caller struct {
	client   *fasthttp.HostClient
	author   *author
	sync     fasthttp.Request
	async    fasthttp.Request
	response fasthttp.Response
	body     []byte
}

func newCaller(client *fasthttp.HostClient, author *author, config Config) *caller {
	c := &caller{client: client, author: author}
	prepare(&c.sync, http.MethodPost, config.path("/sync"), config)
	prepare(&c.async, http.MethodPost, config.path("/async"), config)
	return c
}

func prepare(request *fasthttp.Request, method, path string, config Config) {
	request.Header.DisableNormalizing()
	request.SetRequestURI(config.Target + path)
	request.Header.SetMethod(method)
	request.Header.SetContentType("application/json")
	if config.APIKey != "" {
		request.Header.Set("Authorization", "Bearer "+config.APIKey)
	}
	request.SetTimeout(config.Timeout)
}

// callSync makes a sync request, callAsync an async one.
func (c *caller) callSync(number int) answer {
	c.startBody(number)
	return c.do(&c.sync, expectedOfSync)
}

func (c *caller) callAsync(number int, appendURL func([]byte) []byte, orderingKey string) answer {
	c.startBody(number)
	c.body = append(c.body, `,"callback_url":"`...)
	c.body = append(appendURL(c.body), '"')
	if orderingKey != "" {
		c.body = append(c.body, `,"ordering_key":"`...)
		c.body = append(append(c.body, orderingKey...), '"')
	}
	return c.do(&c.async, expectedOfAsync)
}

func (c *caller) startBody(number int) {
	c.body = append(c.body[:0], `{"input":`...)
	c.body = c.author.appendInput(c.body, number)
}

// askSync returns the result of a sync request with the same input.
func (c *caller) askSync(number int) (result jsontext.Value, err error) {
	if answer := c.callSync(number); answer.outcome != ok {
		return nil, fmt.Errorf("asking for a result again: %s", cmp.Or(answer.reason, "shed"))
	}
	var told struct {
		Result jsontext.Value `json:"result"`
	}
	err = json.Unmarshal(c.response.Body(), &told)
	return told.Result, err
}

// isDeterministic asks the service whether its work gives the same result for the same
// input. A service that doesn't say so is taken at that.
func isDeterministic(client *fasthttp.HostClient, config Config) bool {
	status, body, err := get(client, config, "/works")
	if err != nil || status != http.StatusOK {
		return false
	}
	var told struct {
		Default string `json:"default"`
		Works   []struct {
			Name          string `json:"name"`
			Deterministic bool   `json:"deterministic"`
		} `json:"works"`
	}
	_ = json.Unmarshal(body, &told)
	for _, work := range told.Works {
		if work.Name == told.Default {
			return work.Deterministic
		}
	}
	return false
}

func (c *caller) do(request *fasthttp.Request, expected expected) answer {
	c.body = append(c.body, '}')
	request.SetBodyRaw(c.body)
	if err := c.client.Do(request, &c.response); err != nil {
		return judgeError(err)
	}
	return judge(c.response.StatusCode(), c.response.Body(), expected)
}

// judgeError tells an error of sending or of reading the answer.
func judgeError(err error) answer {
	var operation *net.OpError
	var timed interface{ Timeout() bool }
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return answer{outcome: failed, reason: "connection refused"}
	case errors.As(err, &operation) && operation.Op == "dial" || errors.Is(err, fasthttp.ErrNoFreeConns):
		return answer{outcome: failed, reason: "no connection"}
	case errors.As(err, &timed) && timed.Timeout():
		return answer{outcome: ambiguous, reason: "timeout"}
	default:
		return answer{outcome: ambiguous, reason: "connection lost"}
	}
}

// expected describes a good answer, and the meaning of other answers.
type expected struct {
	status    int
	state     string // the answer's field "status"
	otherwise outcome
}

var (
	// The caller of a sync request has no result unless the status is 200, so most else is
	// a failure.
	expectedOfSync = expected{http.StatusOK, "succeeded", failed}
	// Any server error may stand for a request that was accepted before something broke.
	expectedOfAsync = expected{http.StatusAccepted, "accepted", ambiguous}
)

func judge(status int, body []byte, expected expected) answer {
	switch {
	case status == expected.status:
		return judgeBody(body, expected)
	case status == http.StatusServiceUnavailable && mayBeDone(body):
		return answer{outcome: expected.otherwise, reason: reasonOf(status, body)}
	case status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable:
		return answer{outcome: shed}
	case status >= 400 && status < 500:
		return answer{outcome: rejected, reason: reasonOf(status, body)}
	}
	return answer{outcome: expected.otherwise, reason: reasonOf(status, body)}
}

// reasonOf is the status, and which of the service's problems it is, if any.
func reasonOf(status int, body []byte) string {
	const longest = 40 // far above any name of the service's
	_, rest, _ := bytes.Cut(body, []byte(`"/problems/`))
	name, _, found := bytes.Cut(rest, []byte(`"`))
	if !found || len(name) > longest {
		return fmt.Sprintf("status %d", status)
	}
	return fmt.Sprintf("status %d %s", status, name)
}

// mayBeDone tells whether a 503 leaves the request's outcome open: the database may have
// failed after its commit. Any other 503 promises that nothing was accepted.
func mayBeDone(body []byte) bool {
	return bytes.Contains(body, []byte(`"/problems/unavailable"`)) && !bytes.Contains(body, []byte("Nothing was accepted"))
}

func judgeBody(body []byte, expected expected) answer {
	var told struct {
		ID     uuid.UUID `json:"id"`
		Status string    `json:"status"`
	}
	err := json.Unmarshal(body, &told)
	switch {
	case err != nil || told.ID == uuid.Nil:
		return answer{outcome: expected.otherwise, reason: "unreadable answer"}
	case told.Status != expected.state:
		return answer{outcome: expected.otherwise, reason: "work not " + expected.state}
	}
	return answer{outcome: ok, id: told.ID}
}
