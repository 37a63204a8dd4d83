package load

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// Closed is a closed loop: each connection sends its next request after its last answer.
// It measures the throughput at saturation. For the latency at a given rate there is Run.
type Closed struct {
	URL         string   // of the call
	Bodies      [][]byte // sent in turn
	Connections int
	Window      chan struct{} // takes a token for each request that isn't called back yet; nil for no limit

	Accepted  atomic.Int64
	Refused   atomic.Int64 // 503
	Failed    atomic.Int64 // anything else
	Measuring atomic.Bool  // Latency has the requests accepted meanwhile

	turn    atomic.Int64
	mu      sync.Mutex
	latency *histogram
}

// NewWindow bounds the requests that are under way. Release is for each request that was
// called back.
func NewWindow(size int) (window chan struct{}, release func()) {
	window = make(chan struct{}, size)
	return window, func() {
		select {
		case <-window:
		default: // a callback that was sent before this load began
		}
	}
}

// Start sends until stop is called, which returns when every connection is done.
func (l *Closed) Start(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	l.latency = newHistogram()
	host, _, _ := strings.Cut(strings.TrimPrefix(l.URL, "http://"), "/")
	client := &fasthttp.HostClient{
		Addr: host, MaxConns: l.Connections,
		MaxIdemponentCallAttempts: 1, // no hidden retries
		ReadTimeout:               30 * time.Second, WriteTimeout: 30 * time.Second,
	}
	var connections sync.WaitGroup
	for range l.Connections {
		connections.Go(func() { l.loop(ctx, client) })
	}
	return func() {
		cancel()
		connections.Wait()
		client.CloseIdleConnections()
	}
}

func (l *Closed) loop(ctx context.Context, client *fasthttp.HostClient) {
	var request fasthttp.Request
	var response fasthttp.Response
	request.Header.SetMethod(fasthttp.MethodPost)
	request.Header.SetContentType("application/json")
	request.SetRequestURI(l.URL)
	for l.enter(ctx) {
		request.SetBodyRaw(l.Bodies[l.turn.Add(1)%int64(len(l.Bodies))])
		start := time.Now()
		err := client.Do(&request, &response)
		if l.count(err, response.StatusCode()) {
			l.note(time.Since(start))
			continue
		}
		l.leave()
		Pause(ctx, 5*time.Millisecond) // or refusals would eat the CPU that serving needs
	}
}

func (l *Closed) note(took time.Duration) {
	if l.Measuring.Load() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.latency.record(took)
	}
}

// Latency is how long accepted requests took, until now.
func (l *Closed) Latency() Quantiles {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.latency.quantiles()
}

// enter waits for room in the window.
func (l *Closed) enter(ctx context.Context) bool {
	if ctx.Err() != nil || l.Window == nil {
		return ctx.Err() == nil
	}
	select {
	case l.Window <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (l *Closed) leave() {
	if l.Window != nil {
		select {
		case <-l.Window:
		default:
		}
	}
}

// FillWindow returns when as many requests are under way as may be, or after patience: a
// service that delivers as fast as it accepts never fills it. Before that, accepting takes
// more than its share of the machine.
func (l *Closed) FillWindow(ctx context.Context, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for len(l.Window) < cap(l.Window)-l.Connections && time.Now().Before(deadline) {
		if !Pause(ctx, 5*time.Millisecond) {
			return ctx.Err()
		}
	}
	return nil
}

// Accept sends until the number of requests is accepted, any failed, or patience is over.
func (l *Closed) Accept(ctx context.Context, requests int64, patience time.Duration) error {
	stop := l.Start(ctx)
	deadline := time.Now().Add(patience)
	for l.Accepted.Load() < requests && l.Failed.Load() == 0 && time.Now().Before(deadline) && Pause(ctx, 10*time.Millisecond) {
	}
	stop()
	if err := l.Check(); err != nil || ctx.Err() != nil {
		return err
	}
	if got := l.Accepted.Load(); got < requests {
		return fmt.Errorf("%d of %d requests were accepted within %v", got, requests, patience)
	}
	return nil
}

// count tells whether the request was accepted.
func (l *Closed) count(err error, status int) bool {
	switch {
	case err == nil && (status == fasthttp.StatusAccepted || status == fasthttp.StatusOK):
		l.Accepted.Add(1)
		return true
	case err == nil && status == fasthttp.StatusServiceUnavailable:
		l.Refused.Add(1)
	default:
		l.Failed.Add(1)
	}
	return false
}

// Check returns an error when requests failed: a figure would mean nothing.
func (l *Closed) Check() error {
	if failed := l.Failed.Load(); failed > 0 {
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
