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
	began atomic.Int64 // Unix nanoseconds of the first attempt
	now   atomic.Int64 // attempts under way
	most  atomic.Int64 // of them in the window
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
		c.SetBodyString(strconv.FormatInt(w.most.Load(), 10))
	case "/healthz":
	default:
		c.SetStatusCode(fasthttp.StatusNotFound)
	}
}

func (w *worker) do(c *fasthttp.RequestCtx) {
	at := time.Now().UnixNano()
	w.began.CompareAndSwap(0, at)
	count := w.now.Add(1)
	defer w.now.Add(-1)
	for most := w.most.Load(); count > most && at-w.began.Load() < int64(returnWindow); most = w.most.Load() {
		w.most.CompareAndSwap(most, count)
	}
	result, err := sample.Do(c, c.PostBody())
	if err != nil {
		c.SetStatusCode(fasthttp.StatusUnprocessableEntity)
		return
	}
	c.SetContentType("application/json")
	c.SetBody(result)
}
