package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"syscall"
	"time"

	"ringback/work"
)

const (
	// maxConnections is far above what a healthy server needs at the default
	// rate and well below the usual limit of 1024 open files. A request that
	// waits for one of them does so after its intended send time, where it shows.
	maxConnections = 256

	maxAnswerBytes = 1 << 20 // far above any answer of the service
)

// endpoint is where requests go and what tells a good answer.
type endpoint struct {
	path   string
	status int
	state  string // the answer's field "status"
}

func sync200() endpoint  { return endpoint{"/sync", http.StatusOK, "succeeded"} }
func async202() endpoint { return endpoint{"/async", http.StatusAccepted, "accepted"} }

// answer is what came of one request. It is ok when it is neither shed nor a
// failure.
type answer struct {
	id      string // of the request, when ok
	shed    bool   // the server said that it has no room now
	failure string // why it is neither ok nor shed: one of few, to be counted by
	unsure  bool   // a failure that doesn't tell whether the request was accepted
}

// sender makes requests of one run.
type sender struct {
	client    *http.Client
	target    string
	apiKey    string
	textBytes int
}

func newSender(config config) *sender {
	transport := &http.Transport{ // without a proxy: everything stays on loopback
		MaxConnsPerHost:     maxConnections,
		MaxIdleConnsPerHost: maxConnections,
		// Shorter than a server keeps idle connections, so that no request
		// leaves on one that the server is just closing.
		IdleConnTimeout: 10 * time.Second,
	}
	client := &http.Client{
		Transport:     transport,
		Timeout:       config.timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return &sender{client, config.target, config.apiKey, config.textBytes}
}

// checkTarget returns an error, worded for whoever typed the command, unless
// the target says that it is healthy.
func (s *sender) checkTarget(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.target+"/healthz", nil)
	if err != nil {
		return fmt.Errorf("asking %s for its health: %w", s.target, err)
	}
	response, err := s.client.Do(request)
	if err != nil {
		return fmt.Errorf("nothing answers at %s: start the server with `make run` first", s.target)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers GET /healthz with status %d: is a healthy Ringback running there?",
			s.target, response.StatusCode)
	}
	return nil
}

// post makes request n once. It sets no Idempotency-Key: with one, net/http
// would send a second time when a connection breaks, and hide that it broke.
func (s *sender) post(ctx context.Context, to endpoint, n int, callbackURL string) answer {
	request, err := s.newRequest(ctx, to, n, callbackURL)
	if err != nil {
		return answer{failure: "request not built"}
	}
	response, err := s.client.Do(request)
	if err != nil {
		return judgeError(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes))
	if err != nil {
		return judgeError(err)
	}
	return judge(to, response.StatusCode, body)
}

func (s *sender) newRequest(ctx context.Context, to endpoint, n int, callbackURL string) (*http.Request, error) {
	body, err := json.Marshal(struct {
		Input       work.Input `json:"input"`
		CallbackURL string     `json:"callback_url,omitempty"`
	}{work.Input{Text: text(n, s.textBytes)}, callbackURL})
	if err != nil {
		return nil, fmt.Errorf("encoding the body: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.target+to.path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("building the request: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	if s.apiKey != "" {
		request.Header.Set("Authorization", "Bearer "+s.apiKey)
	}
	return request, nil
}

// text returns words of random letters, the same for the same n, so that a
// run can be repeated.
func text(n, size int) string {
	const letters = "abcdefghijklmnopqrstuvwxyz     " // words of five letters or so
	random := rand.New(rand.NewPCG(uint64(n), 0))
	text := make([]byte, size)
	for i := range text {
		text[i] = letters[random.IntN(len(letters))]
	}
	return string(text)
}

// judgeError tells an error of net/http or of reading the answer.
func judgeError(err error) answer {
	var network net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return answer{failure: "connection refused"}
	case errors.As(err, &network) && network.Timeout():
		return answer{failure: "timeout", unsure: true}
	default:
		return answer{failure: "connection lost", unsure: true}
	}
}

func judge(from endpoint, status int, body []byte) answer {
	switch {
	case status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable:
		return answer{shed: true}
	case status != from.status:
		isRefusal := status >= 400 && status < 500
		return answer{failure: fmt.Sprintf("status %d", status), unsure: !isRefusal}
	}
	var told struct{ ID, Status string }
	err := json.Unmarshal(body, &told)
	switch {
	case err != nil || told.ID == "":
		return answer{failure: "unreadable answer", unsure: true}
	case told.Status != from.state:
		return answer{failure: "work not " + from.state, unsure: true}
	}
	return answer{id: told.ID}
}
