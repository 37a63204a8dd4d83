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
	"slices"
	"strings"
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
	reason  string    // counted in reports; empty when ok or shed
	result  string    // of a sync request, JSON
}

// client sends each request exactly once, over a bounded number of connections.
type client struct {
	config Config
	author *author
	http   *fasthttp.HostClient
}

func newClient(config Config) *client {
	target, err := url.Parse(config.Target)
	if err != nil {
		target = &url.URL{} // nothing answers there
	}
	return &client{config, newAuthor(config.Input, config.Seed), &fasthttp.HostClient{
		Addr:             fasthttp.AddMissingPort(target.Host, target.Scheme == "https"),
		IsTLS:            target.Scheme == "https",
		MaxConns:         config.Connections,
		ConnPoolStrategy: fasthttp.LIFO,
		// Shorter than a server keeps idle connections, so that no request is sent on a
		// connection that the server is just closing.
		MaxIdleConnDuration: 10 * time.Second,
		// A second attempt would hide that the first broke, and the server might accept the
		// same request twice.
		MaxIdemponentCallAttempts: 1,
		RetryIfErr:                func(*fasthttp.Request, int, error) (bool, bool) { return false, false },
		MaxResponseBodySize:       maxAnswerBytes,
		ReadBufferSize:            2 << 10, // far above any answer's headers
		WriteBufferSize:           2 << 10,
		// Workers never wait for each other's connections, but for the moment between closing
		// a connection and counting it as closed.
		MaxConnWaitTimeout: config.Timeout,
		Dial: func(address string) (net.Conn, error) {
			dial := func() (net.Conn, error) { return net.DialTimeout("tcp", address, config.Timeout) }
			first, err := dial()
			if err != nil || target.Scheme == "https" { // TLS state can't move to another connection
				return first, err
			}
			return &conn{first, dial}, nil
		},
		NoDefaultUserAgentHeader:      true,
		DisableHeaderNamesNormalizing: true,
		DisablePathNormalizing:        true,
	}}
}

// ErrInterrupted ends a run before it has begun.
var ErrInterrupted = errors.New("interrupted before the run began")

// waitHealthy is checkHealth until ctx is done.
func (c *client) waitHealthy(ctx context.Context) error {
	healthy := make(chan error, 1)
	go func() { healthy <- c.checkHealth() }()
	select {
	case err := <-healthy:
		return err
	case <-ctx.Done():
		return ErrInterrupted
	}
}

// checkHealth returns an error, worded for the person who typed the command, unless the
// target says that it is healthy.
func (c *client) checkHealth() error {
	status, _, err := c.get("/healthz")
	switch {
	case err != nil:
		return fmt.Errorf("nothing answers at %s: start the server with `make run` first, or name another with -target", c.config.Target)
	case status != http.StatusOK:
		return fmt.Errorf("%s answers GET /healthz with status %d: is a healthy Ringback running there?",
			c.config.Target, status)
	}
	return nil
}

// warmUp opens connections before the run, so that its first requests don't wait for them. A
// connection that fails is opened when it is needed.
func (c *client) warmUp() {
	const enough = 64 // for a healthy server at thousands of requests a second
	var group sync.WaitGroup
	for range min(enough, c.config.Connections) {
		group.Go(func() { _ = c.checkHealth() })
	}
	group.Wait()
}

// offers are the kinds of work of a service.
type offers struct {
	Default string `json:"default"`
	Works   []struct {
		Name          string `json:"name"`
		Deterministic bool   `json:"deterministic"`
	} `json:"works"`
}

// offers asks the service for its kinds of work. The answer is empty where the service gives
// none. The error says that the service takes no request without another API key.
func (c *client) offers() (told offers, err error) {
	status, body, err := c.get("/works")
	switch {
	case err == nil && status == http.StatusUnauthorized:
		return told, fmt.Errorf("%s takes requests with a valid API key only (401): -api-key or RINGBACK_API_KEY gives the key", c.config.Target)
	case err == nil && status == http.StatusOK:
		_ = json.Unmarshal(body, &told)
	}
	return told, nil
}

// isDeterministic tells whether the work gives the same result for the same input. Work that
// the service doesn't list counts as not deterministic.
func (o offers) isDeterministic(name string) bool {
	for _, work := range o.Works {
		if work.Name == cmp.Or(name, o.Default) {
			return work.Deterministic
		}
	}
	return false
}

// choose returns name, or empty if that work is the service's default.
func (o offers) choose(name string) (string, error) {
	names := []string{}
	for _, work := range o.Works {
		names = append(names, work.Name)
	}
	switch {
	case name == "" || len(names) == 0 || o.Default == name:
		return "", nil
	case slices.Contains(names, name):
		return name, nil
	}
	return "", fmt.Errorf("the service doesn't offer the work %s, but %s: give an -input for it", name, strings.Join(names, ", "))
}

func (c *client) get(path string) (status int, body []byte, err error) {
	err = c.do(http.MethodGet, path, nil, func(response *fasthttp.Response) {
		status, body = response.StatusCode(), bytes.Clone(response.Body())
	})
	return status, body, err
}

// call makes a request, a sync request where there is no callback URL.
func (c *client) call(number int, callbackURL, orderingKey string) (got answer) {
	const usual = 512 // bytes, so that a body seldom grows
	body := c.author.appendInput(append(make([]byte, 0, usual), `{"input":`...), number)
	expected := expectedOfSync
	if callbackURL != "" {
		expected = expectedOfAsync
		body = fmt.Appendf(body, `,"callback_url":%q`, callbackURL)
	}
	if orderingKey != "" {
		body = fmt.Appendf(body, `,"ordering_key":%q`, orderingKey)
	}
	path := strings.TrimSuffix(expected.path+"/"+c.config.Work, "/")
	err := c.do(http.MethodPost, path, append(body, '}'), func(response *fasthttp.Response) {
		got = judge(response.StatusCode(), response.Body(), expected)
	})
	if err != nil {
		return judgeError(err)
	}
	return got
}

// do calls, and lets read see the answer, which is only valid during read.
func (c *client) do(method, path string, body []byte, read func(*fasthttp.Response)) error {
	request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(request)
	defer fasthttp.ReleaseResponse(response)
	request.Header.DisableNormalizing()
	request.SetRequestURI(c.config.Target + path)
	request.Header.SetMethod(method)
	request.Header.SetContentType("application/json")
	if c.config.APIKey != "" {
		request.Header.Set("Authorization", "Bearer "+c.config.APIKey)
	}
	request.SetTimeout(c.config.Timeout)
	request.SetBodyRaw(body)
	if err := c.http.Do(request, response); err != nil {
		return fmt.Errorf("calling %s: %w", path, err)
	}
	read(response)
	return nil
}

// judgeError returns the answer that an error of sending or of reading counts as.
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

// expected describes a call's good answer, and the meaning of other answers.
type expected struct {
	path      string
	status    int
	state     string // the answer's field "status"
	otherwise outcome
}

var (
	// The caller of a sync request has no result unless the status is 200, so most else is
	// a failure.
	expectedOfSync = expected{"/sync", http.StatusOK, "succeeded", failed}
	// Any server error may stand for a request that was accepted before something broke.
	expectedOfAsync = expected{"/async", http.StatusAccepted, "accepted", ambiguous}
)

func judge(status int, body []byte, expected expected) answer {
	switch {
	case status == expected.status:
		return judgeBody(body, expected)
	case status == http.StatusServiceUnavailable && mayBeTaken(body):
		return answer{outcome: expected.otherwise, reason: reasonOf(status, body)}
	case status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable:
		return answer{outcome: shed}
	case status >= 400 && status < 500:
		return answer{outcome: rejected, reason: reasonOf(status, body)}
	}
	return answer{outcome: expected.otherwise, reason: reasonOf(status, body)}
}

// reasonOf is the status, and the name of the problem in the body, if any.
func reasonOf(status int, body []byte) string {
	const longest = 40 // far above any name of a problem
	_, rest, _ := bytes.Cut(body, []byte(`"/problems/`))
	name, _, found := bytes.Cut(rest, []byte(`"`))
	if !found || len(name) > longest {
		return fmt.Sprintf("status %d", status)
	}
	return fmt.Sprintf("status %d %s", status, name)
}

// mayBeTaken tells whether a 503 leaves the request's outcome open: the database may have
// failed after its commit. Any other 503 of this problem says that nothing was accepted or
// done, which TestUnavailableSaysThatNothingWasTaken of package api sees to.
func mayBeTaken(body []byte) bool {
	return bytes.Contains(body, []byte(`"/problems/unavailable"`)) &&
		!bytes.Contains(body, []byte("Nothing was accepted")) && !bytes.Contains(body, []byte("Nothing was done"))
}

func judgeBody(body []byte, expected expected) answer {
	var told struct {
		ID     uuid.UUID      `json:"id"`
		Status string         `json:"status"`
		Result jsontext.Value `json:"result"`
	}
	err := json.Unmarshal(body, &told)
	switch {
	case err != nil || told.ID == uuid.Nil:
		return answer{outcome: expected.otherwise, reason: "unreadable answer"}
	case told.Status != expected.state:
		return answer{outcome: expected.otherwise, reason: "work not " + expected.state}
	}
	return answer{outcome: ok, id: told.ID, result: string(told.Result)}
}
