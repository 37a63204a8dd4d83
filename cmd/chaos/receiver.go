package main

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"ringback/cmd/internal/receivers"
)

// callback is a callback that reached a receiver.
type callback struct {
	receivers.Payload
	ID       string // of the request
	Receiver receiver
	At       time.Time
	Answered time.Time
	Answer   int // 0 for a broken connection
	Signed   bool
}

func (c callback) taken() bool { return c.Answer >= 200 && c.Answer <= 299 }

// crowd is all receivers, each at a port of its own.
type crowd struct {
	urls      map[receiver]string
	receivers map[receiver]*receivers.Receiver
	verifier  *receivers.Verifier
	history   *history
	troubled  atomic.Int64 // faults that last
}

func startCrowd(h *history) (*crowd, error) {
	verifier, err := receivers.NewVerifier(receivers.LocalSecret)
	c := &crowd{urls: map[receiver]string{}, receivers: map[receiver]*receivers.Receiver{}, verifier: verifier, history: h}
	for name, behaviour := range map[receiver]receivers.Behaviour{
		good: receivers.OK, flaky: receivers.Flaky, slow: receivers.Slow, shaky: receivers.Shaky, gone: receivers.Gone, steady: receivers.OK,
	} {
		started, failed := receivers.Start(behaviour, receivers.Book{Came: c.came, Answer: func(came *receivers.Callback, status int) int {
			c.note(name, came, status)
			return status
		}})
		if err = errors.Join(err, failed); failed == nil {
			c.urls[name], c.receivers[name] = started.URL+"/"+string(name), started
		}
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *crowd) close() {
	for _, receiver := range c.receivers {
		receiver.Close()
	}
}

// suffer gives the receivers a trouble for a while.
func (c *crowd) suffer(ctx context.Context, trouble kind, length time.Duration) {
	behaviour := map[kind]receivers.Behaviour{refuse: receivers.Failing, hang: receivers.Reset}[trouble]
	for name, receiver := range c.receivers {
		if name != steady && name != gone {
			receiver.Suffer(behaviour)
		}
	}
	c.troubled.Add(1)
	wait(ctx, length)
	if c.troubled.Add(-1) == 0 {
		for _, receiver := range c.receivers {
			receiver.Recover()
		}
	}
}

func (c *crowd) came(came *receivers.Callback) (earlier int, known bool) {
	if string(came.Method()) != http.MethodPost {
		return 0, false
	}
	return c.history.addAttempt(came.RequestID()), true
}

func (c *crowd) note(name receiver, came *receivers.Callback, status int) {
	payload, err := came.Payload()
	c.history.addCallback(callback{
		Payload: payload, ID: came.RequestID(), Receiver: name, At: came.At, Answered: time.Now(), Answer: status,
		Signed: c.takes(came) && err == nil,
	})
}

// takes tells whether a callback is signed as it should be, by a server whose clock may be
// wrong where clocks are skewed.
func (c *crowd) takes(came *receivers.Callback) bool {
	if c.history.Skewed {
		return c.verifier.TakesWhenever(came)
	}
	return c.verifier.Takes(came)
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
