package load

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"ringback/cmd/internal/receivers"
)

// Closed is a closed loop: each connection sends its next request after its last answer,
// and callbacks come to a receiver that counts them at little cost, because it shares the
// machine with the measured service. It measures the throughput at saturation. For the
// latency at a given rate there is Run.
type Closed struct {
	*receivers.Receiver
	Accepted  atomic.Int64 // requests
	Delivered atomic.Int64 // requests that were called back

	connections int
	window      chan struct{} // holds a token for each request that isn't called back yet; nil for no limit
	failed      atomic.Int64  // requests that were neither accepted nor refused by a 503
	turn        atomic.Int64
	seen        sync.Map // ids of the requests that were called back
}

// NewClosed returns a load over a number of connections whose receiver listens. At most
// window requests wait for their callbacks at a time, any number if it is 0.
func NewClosed(behaviour receivers.Behaviour, connections, window int) (*Closed, error) {
	l := &Closed{connections: connections}
	if window > 0 {
		l.window = make(chan struct{}, window)
	}
	known := func(*receivers.Callback) (earlier int, known bool) { return 0, true }
	var err error
	l.Receiver, err = receivers.Start(behaviour, receivers.Book{Came: known, Answer: l.answer})
	return l, err
}

// answer refuses a callback that has no id of a request.
func (l *Closed) answer(came *receivers.Callback, status int) int {
	if status != fasthttp.StatusOK {
		return status
	}
	id, err := uuid.Parse(came.RequestID())
	if err != nil {
		return fasthttp.StatusBadRequest
	}
	if _, again := l.seen.LoadOrStore(id, nil); !again {
		l.Delivered.Add(1)
		l.leave()
	}
	return status
}

// Start sends the bodies in turn to a URL until stop is called, which returns when every
// connection is done.
func (l *Closed) Start(ctx context.Context, url string, bodies ...[]byte) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	host, _, _ := strings.Cut(strings.TrimPrefix(url, "http://"), "/")
	client := &fasthttp.HostClient{
		Addr: host, MaxConns: l.connections,
		MaxIdemponentCallAttempts: 1, // no hidden retries
		ReadTimeout:               30 * time.Second, WriteTimeout: 30 * time.Second,
	}
	var connections sync.WaitGroup
	for range l.connections {
		connections.Go(func() { l.loop(ctx, client, url, bodies) })
	}
	return func() {
		cancel()
		connections.Wait()
		client.CloseIdleConnections()
	}
}

func (l *Closed) loop(ctx context.Context, client *fasthttp.HostClient, url string, bodies [][]byte) {
	var request fasthttp.Request
	var response fasthttp.Response
	request.Header.SetMethod(fasthttp.MethodPost)
	request.Header.SetContentType("application/json")
	request.SetRequestURI(url)
	for l.enter(ctx) {
		request.SetBodyRaw(bodies[l.turn.Add(1)%int64(len(bodies))])
		err := client.Do(&request, &response)
		switch status := response.StatusCode(); {
		case err == nil && (status == fasthttp.StatusAccepted || status == fasthttp.StatusOK):
			l.Accepted.Add(1)
			continue
		case err != nil || status != fasthttp.StatusServiceUnavailable:
			l.failed.Add(1)
		}
		l.leave()
		Pause(ctx, 5*time.Millisecond) // or refusals would eat the CPU that serving needs
	}
}

// enter waits for room in the window.
func (l *Closed) enter(ctx context.Context) bool {
	if ctx.Err() != nil || l.window == nil {
		return ctx.Err() == nil
	}
	select {
	case l.window <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (l *Closed) leave() {
	select {
	case <-l.window: // never, where there is none
	default: // a callback that came without its request, after an earlier load
	}
}

// FillWindow returns when as many requests are under way as may be, or after patience: a
// service that delivers as fast as it accepts never fills it. Before that, accepting takes
// more than its share of the machine.
func (l *Closed) FillWindow(ctx context.Context, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for len(l.window) < cap(l.window)-l.connections && time.Now().Before(deadline) {
		if !Pause(ctx, 5*time.Millisecond) {
			return ctx.Err()
		}
	}
	return nil
}

// Accept sends until the number of requests is accepted in all, any failed, or patience is
// over.
func (l *Closed) Accept(ctx context.Context, requests int64, patience time.Duration, url string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	stop := l.Start(ctx, url, body)
	for l.Accepted.Load() < requests && l.failed.Load() == 0 && Pause(ctx, 10*time.Millisecond) {
	}
	stop()
	if err := l.Check(); err != nil {
		return err
	}
	if got := l.Accepted.Load(); got < requests {
		return fmt.Errorf("%d of %d requests were accepted: %w", got, requests, ctx.Err())
	}
	return nil
}

// Await returns when all accepted requests were called back, or fails when they were not
// in time: a rate that is reached by losing some would be no rate.
func (l *Closed) Await(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for l.Delivered.Load() < l.Accepted.Load() {
		if !Pause(ctx, 10*time.Millisecond) {
			return fmt.Errorf("%d of %d accepted requests were not called back: %w",
				l.Accepted.Load()-l.Delivered.Load(), l.Accepted.Load(), ctx.Err())
		}
	}
	return l.Check()
}

// Check returns an error when requests failed: a figure would mean nothing.
func (l *Closed) Check() error {
	if failed := l.failed.Load(); failed > 0 {
		return fmt.Errorf("%d of %d requests failed", failed, failed+l.Accepted.Load())
	}
	return nil
}

// Pause returns false when ctx ends first.
func Pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
