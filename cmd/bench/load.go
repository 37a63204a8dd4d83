package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/valyala/fasthttp"
)

// load is a closed loop: each connection sends its next request when the one
// before was answered. It finds how much there is to be had, and says nothing
// about latency under a given rate: for that there is storm.
type load struct {
	target      string // base URL of the server
	path        string // /async or /sync
	body        []byte
	bodies      [][]byte // sent in turn, instead of body, where there are any
	connections int
	window      chan struct{} // takes one for each request that isn't called back yet; nil for no limit

	turn      atomic.Int64
	accepted  atomic.Int64
	refused   atomic.Int64 // 503
	failed    atomic.Int64 // anything else
	measuring atomic.Bool
	mu        sync.Mutex
	latency   *hdrhistogram.Histogram // µs, of what was accepted while measuring
}

// asyncBody is a small request: 64 bytes of text.
func asyncBody(callbackURL string) []byte {
	return encodeBody(map[string]any{"text": strings.Repeat("ringback", 8)}, callbackURL)
}

func encodeBody(input map[string]any, callbackURL string) []byte {
	body := map[string]any{"input": input}
	if callbackURL != "" {
		body["callback_url"] = callbackURL
	}
	encoded, err := json.Marshal(body)
	if err != nil {
		panic(err) // strings and numbers
	}
	return encoded
}

// newWindow bounds the requests that are under way. Release is for a receiver's
// onNew.
func newWindow(size int) (window chan struct{}, release func()) {
	window = make(chan struct{}, size)
	return window, func() {
		select {
		case <-window:
		default: // a callback that was sent before this load began
		}
	}
}

// start sends until stop is called, which returns when every connection is
// done.
func (l *load) start(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	l.latency = newHistogram()
	client := &fasthttp.HostClient{
		Addr: strings.TrimPrefix(l.target, "http://"), MaxConns: l.connections,
		MaxIdemponentCallAttempts: 1, // no hidden retries
		ReadTimeout:               30 * time.Second, WriteTimeout: 30 * time.Second,
	}
	var connections sync.WaitGroup
	for range l.connections {
		connections.Go(func() { l.loop(ctx, client) })
	}
	return func() {
		cancel()
		connections.Wait()
		client.CloseIdleConnections()
	}
}

func (l *load) loop(ctx context.Context, client *fasthttp.HostClient) {
	latency := newHistogram()
	request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	request.Header.SetMethod(fasthttp.MethodPost)
	request.Header.SetContentType("application/json")
	request.SetRequestURI(l.target + l.path)
	request.SetBodyRaw(l.body)
	for l.enter(ctx) {
		if len(l.bodies) > 0 {
			request.SetBodyRaw(l.bodies[l.turn.Add(1)%int64(len(l.bodies))])
		}
		start := time.Now()
		err := client.Do(request, response)
		if l.count(err, response.StatusCode()) {
			if l.measuring.Load() {
				_ = latency.RecordValue(min(time.Since(start).Microseconds(), latency.HighestTrackableValue()))
			}
			continue
		}
		l.leave()
		pause(ctx, 5*time.Millisecond) // or refusals would eat the CPU that serving needs
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.latency.Merge(latency)
}

// enter waits for room in the window.
func (l *load) enter(ctx context.Context) bool {
	if ctx.Err() != nil {
		return false
	}
	if l.window == nil {
		return true
	}
	select {
	case l.window <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (l *load) leave() {
	if l.window != nil {
		select {
		case <-l.window:
		default:
		}
	}
}

// fillTimeout is how long the window may take to fill. A service that delivers
// as fast as it accepts never fills it.
const fillTimeout = 3 * time.Second

// fillWindow returns when as many requests are under way as may be. Before
// that, accepting takes more than its share of the machine.
func (l *load) fillWindow(ctx context.Context) error {
	deadline := time.Now().Add(fillTimeout)
	for len(l.window) < cap(l.window)-l.connections {
		if time.Now().After(deadline) {
			return nil
		}
		if !pause(ctx, 5*time.Millisecond) {
			return ctx.Err()
		}
	}
	return nil
}

// count tells whether the request was accepted.
func (l *load) count(err error, status int) bool {
	switch {
	case err == nil && (status == fasthttp.StatusAccepted || status == fasthttp.StatusOK):
		l.accepted.Add(1)
		return true
	case err == nil && status == fasthttp.StatusServiceUnavailable:
		l.refused.Add(1)
	default:
		l.failed.Add(1)
	}
	return false
}

// check returns an error when requests failed: a figure would mean nothing.
func (l *load) check() error {
	if failed := l.failed.Load(); failed > 0 {
		return fmt.Errorf("%d of %d requests failed", failed, failed+l.accepted.Load())
	}
	return nil
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, time.Minute.Microseconds(), 3)
}

// quantile is in milliseconds.
func quantile(of *hdrhistogram.Histogram, percent float64) float64 {
	return float64(of.ValueAtPercentile(percent)) / 1000
}

// pause returns false when ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// postOnce sends one request that must be accepted.
func postOnce(url string, body []byte) error {
	request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	request.Header.SetMethod(fasthttp.MethodPost)
	request.Header.SetContentType("application/json")
	request.SetRequestURI(url)
	request.SetBodyRaw(body)
	if err := fasthttp.DoTimeout(request, response, 10*time.Second); err != nil {
		return fmt.Errorf("sending a request: %w", err)
	}
	if status := response.StatusCode(); status != fasthttp.StatusAccepted && status != fasthttp.StatusOK {
		return fmt.Errorf("sending a request: status %d", status)
	}
	return nil
}
