package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// localSecret is what a server in local mode signs with.
const localSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// callback is one that came.
type callback struct {
	ID       string    `json:"id"` // of the request
	Receiver receiver  `json:"receiver"`
	At       time.Time `json:"at"`
	Answered time.Time `json:"answered"`
	Answer   int       `json:"answer"` // 0 for a broken connection
	Signed   bool      `json:"signed"`
	Type     string    `json:"type"`
	Data     struct {
		ID       string          `json:"id"`
		Status   string          `json:"status"`
		Result   json.RawMessage `json:"result"`
		Sequence int64           `json:"sequence"`
	} `json:"data"`
}

func (c callback) taken() bool { return c.Answer >= 200 && c.Answer <= 299 }

// receiversGrant is whether receivers consent to callbacks at any rate when they
// are asked. A receiver that doesn't knows of nothing but POST.
const receiversGrant = false

// crowd is all receivers, each an origin of its own.
type crowd struct {
	urls     map[receiver]string
	servers  []*http.Server
	webhook  *standardwebhooks.Webhook
	history  *history
	count    atomic.Int64
	trouble  atomic.Value // the kind of fault that they have, "" for none
	troubled atomic.Int64 // faults that last
}

func startCrowd(h *history) (*crowd, error) {
	webhook, err := standardwebhooks.NewWebhook(localSecret)
	if err != nil {
		return nil, fmt.Errorf("reading the local secret: %w", err)
	}
	c := &crowd{urls: map[receiver]string{}, webhook: webhook, history: h}
	c.trouble.Store(kind(""))
	for _, r := range append(receivers(), steady) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listening for callbacks: %w", err), c.close())
		}
		c.urls[r] = fmt.Sprintf("http://%s/%s", listener.Addr(), r)
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, call *http.Request) { c.receive(r, w, call) })}
		c.servers = append(c.servers, server)
		go server.Serve(listener)
	}
	return c, nil
}

func (c *crowd) close() error {
	var err error
	for _, server := range c.servers {
		err = errors.Join(err, server.Close())
	}
	return err
}

// suffer gives all receivers a trouble for a while.
func (c *crowd) suffer(ctx context.Context, trouble kind, length time.Duration) {
	c.trouble.Store(trouble)
	c.troubled.Add(1)
	wait(ctx, length)
	if c.troubled.Add(-1) == 0 {
		c.trouble.Store(kind(""))
	}
}

func (c *crowd) receive(r receiver, w http.ResponseWriter, call *http.Request) {
	if call.Method == http.MethodOptions {
		answerOptions(w)
		return
	}
	came := callback{At: time.Now(), Receiver: r, ID: strings.TrimPrefix(call.Header.Get("webhook-id"), "req_")}
	body, err := io.ReadAll(call.Body)
	if err != nil {
		return // a sender that was killed
	}
	verify := c.webhook.Verify
	if c.history.Skewed { // by a server whose clock isn't right
		verify = c.webhook.VerifyIgnoringTimestamp
	}
	came.Signed = verify(body, call.Header) == nil && json.Unmarshal(body, &came) == nil
	came.ID = strings.TrimPrefix(call.Header.Get("webhook-id"), "req_")
	number := c.count.Add(1)
	came.Answer = answerOf(r, c.trouble.Load().(kind), came.ID, number)
	if r == slow {
		wait(call.Context(), time.Duration(300+number%5*300)*time.Millisecond)
	}
	came.Answered = time.Now()
	c.history.addCallback(came)
	if came.Answer == 0 {
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(came.Answer)
}

// answerOptions tells who asks whether callbacks are wanted.
func answerOptions(w http.ResponseWriter) {
	if !receiversGrant {
		w.Header().Set("Allow", http.MethodPost)
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("WebHook-Allowed-Origin", "*")
	w.Header().Set("WebHook-Allowed-Rate", "*")
}

// answerOf is what a receiver answers to its nth callback.
func answerOf(r receiver, trouble kind, id string, n int64) int {
	hash := fnv.New32a()
	fmt.Fprint(hash, id, n)
	bad := hash.Sum32()%3 == 0
	switch {
	case r == steady:
		return http.StatusNoContent
	case r == gone:
		return http.StatusGone
	case trouble == refuse, r == flaky && bad:
		return http.StatusInternalServerError
	case trouble == hang, r == reset && bad:
		return 0
	}
	return http.StatusNoContent
}

// wait returns early when ctx ends.
func wait(ctx context.Context, length time.Duration) {
	timer := time.NewTimer(length)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
