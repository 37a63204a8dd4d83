package main

import (
	"net/http"
	"time"

	"ringback/cmd/internal/receivers"
)

// drawn are the receivers of the load, by their behaviour.
var drawn = []receivers.Behaviour{receivers.OK, receivers.Flaky, receivers.Slow, receivers.Shaky, receivers.Gone}

// steady is the receiver that no fault meets: it takes the callbacks after the last fault.
const steady = receivers.Granting

// crowd is all receivers, each at a port of its own.
type crowd struct {
	receivers map[receivers.Behaviour]*receivers.Receiver
	ledger    *ledger
}

func (t *trial) startCrowd() {
	t.crowd = &crowd{map[receivers.Behaviour]*receivers.Receiver{}, t.ledger}
	for _, behaviour := range append([]receivers.Behaviour{steady}, drawn...) {
		started, err := receivers.Start(behaviour, receivers.Book{Came: t.crowd.came, Answer: t.crowd.answer})
		t.Must(err)
		t.AtEnd(func() error { started.Close(); return nil })
		t.crowd.receivers[behaviour] = started
	}
}

// url is where a receiver takes callbacks.
func (c *crowd) url(of receivers.Behaviour) string { return c.receivers[of].URL + "/" + of.String() }

func (c *crowd) came(came *receivers.Callback) (earlier int, known bool) {
	if string(came.Method()) != http.MethodPost {
		return 0, false
	}
	c.ledger.tell(came.RequestID(), func(s *story) {
		earlier = s.came
		s.came++
	})
	return earlier, true
}

// answer notes a callback, and answers as the receiver behaves.
func (c *crowd) answer(came *receivers.Callback, status int) int {
	payload, err := came.Payload()
	noted := callback{payload, came.Receiver.Behaviour, came.At, time.Now(), status, came.IsSigned(c.ledger.verifier) && err == nil}
	c.ledger.tell(came.RequestID(), func(s *story) { s.callbacks = append(s.callbacks, noted) })
	return status
}
