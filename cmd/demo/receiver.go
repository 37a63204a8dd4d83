package main

import (
	"net/http"
	"sync"
	"time"

	"ringback/cmd/internal/receivers"
)

// receiver is an ordinary receiver: it verifies callbacks, and knows nothing else of
// Ringback.
type receiver struct {
	*receivers.Receiver
	verifier *receivers.Verifier

	mu      sync.Mutex
	arrived map[string]chan time.Time // when its callback was first taken, by request
}

func newReceiver() (*receiver, error) {
	r := &receiver{verifier: receivers.LocalVerifier(), arrived: map[string]chan time.Time{}}
	var err error
	r.Receiver, err = receivers.Start(receivers.OK, receivers.Book{
		Came:   func(came *receivers.Callback) (int, bool) { return 0, came.IsPost() },
		Answer: r.answer,
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (r *receiver) answer(came *receivers.Callback, status int) int {
	switch {
	case !came.IsSigned(r.verifier):
		return http.StatusUnauthorized
	case status != http.StatusOK:
		return status
	}
	select {
	case r.of(came.RequestID()) <- time.Now():
	default: // the callback had come before
	}
	return status
}

func (r *receiver) of(request string) chan time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.arrived[request] == nil {
		r.arrived[request] = make(chan time.Time, 1)
	}
	return r.arrived[request]
}
