package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"ringback/cmd/internal/sample"
)

// returnWindow is how long after its first attempt a worker counts how many it has at a
// time.
const returnWindow = 10 * time.Second

// worker is an HTTP service that does the sample's work at little cost, because it shares
// the machine with the measured service.
type worker struct {
	began    atomic.Int64 // Unix nanoseconds of the first attempt
	attempts gauge        // that began in the window
}

// gauge counts how many are under way, and how many were at most.
type gauge struct{ now, most atomic.Int64 }

func (g *gauge) enter() (leave func()) {
	now := g.now.Add(1)
	for most := g.most.Load(); now > most && !g.most.CompareAndSwap(most, now); most = g.most.Load() {
	}
	return func() { g.now.Add(-1) }
}

// runWork is bench as that service, at an address.
func runWork(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("usage: bench work ADDRESS")
	}
	listener, err := net.Listen("tcp", args[0])
	if err != nil {
		return fmt.Errorf("listening for work: %w", err)
	}
	server := fasthttp.Server{Handler: new(worker).serve, NoDefaultServerHeader: true, NoDefaultDate: true}
	stop := context.AfterFunc(ctx, func() { _ = server.Shutdown() })
	defer stop()
	return server.Serve(listener)
}

func (w *worker) serve(c *fasthttp.RequestCtx) {
	switch string(c.Path()) {
	case "/do":
		w.do(c)
	case "/later":
		c.SetStatusCode(fasthttp.StatusAccepted)
	case "/most":
		c.SetBodyString(strconv.FormatInt(w.attempts.most.Load(), 10))
	case "/healthz":
	default:
		c.SetStatusCode(fasthttp.StatusNotFound)
	}
}

func (w *worker) do(c *fasthttp.RequestCtx) {
	at := time.Now().UnixNano()
	w.began.CompareAndSwap(0, at)
	if at-w.began.Load() < int64(returnWindow) {
		defer w.attempts.enter()()
	}
	result, err := sample.Do(c, c.PostBody())
	if err != nil {
		c.SetStatusCode(fasthttp.StatusUnprocessableEntity)
		return
	}
	c.SetContentType("application/json")
	c.SetBody(result)
}
