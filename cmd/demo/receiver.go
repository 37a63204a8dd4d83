package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// localSecret is the signing secret of local mode.
const localSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// receiver is an ordinary receiver: it verifies callbacks, answers 204, and knows
// nothing else of Ringback.
type receiver struct {
	URL    string
	server *http.Server
	verify *standardwebhooks.Webhook
	down   atomic.Bool // it answers 500

	mu      sync.Mutex
	arrived map[string]chan time.Time // when its callback was first taken, by request
}

func newReceiver() (*receiver, error) {
	verify, err := standardwebhooks.NewWebhook(localSecret)
	if err != nil {
		return nil, fmt.Errorf("reading the secret: %w", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for callbacks: %w", err)
	}
	r := &receiver{URL: "http://" + listener.Addr().String() + "/hook", verify: verify, arrived: map[string]chan time.Time{}}
	r.server = &http.Server{Handler: r, ReadHeaderTimeout: 5 * time.Second}
	go r.server.Serve(listener) //nolint:errcheck // Serve ends with close
	return r, nil
}

func (r *receiver) close() { r.server.Close() }

func (r *receiver) ServeHTTP(w http.ResponseWriter, call *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, call.Body, 128<<10))
	switch {
	case call.Method != http.MethodPost:
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	case err != nil, r.verify.Verify(body, call.Header) != nil:
		w.WriteHeader(http.StatusUnauthorized)
		return
	case r.down.Load():
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	select {
	case r.of(strings.TrimPrefix(call.Header.Get("webhook-id"), "req_")) <- time.Now():
	default: // the callback had come before
	}
	w.WriteHeader(http.StatusNoContent)
}

func (r *receiver) of(request string) chan time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.arrived[request] == nil {
		r.arrived[request] = make(chan time.Time, 1)
	}
	return r.arrived[request]
}

// await returns the time when the callback of a request was taken. It waits a minute at
// most.
func (r *receiver) await(ctx context.Context, request string) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	select {
	case at := <-r.of(request):
		return at, nil
	case <-ctx.Done():
		return time.Time{}, fmt.Errorf("waiting for the callback of %s: %w", request, ctx.Err())
	}
}
