package main

import (
	"bytes"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"
)

// receiverKind is what a receiver does besides taking callbacks, by the name that
// storm has for it.
type receiverKind string

const (
	ordinary receiverKind = "ok"       // nothing: it answers OPTIONS with 405
	granting receiverKind = "granting" // grants any rate when it is asked for its consent
)

// defaultReceiver is what everything is measured with, by storm too.
const defaultReceiver = ordinary

// receiverOf is what a variant calls back. An earlier server may be slow to
// call a receiver that grants nothing.
func receiverOf(v variant) receiverKind {
	if v == before {
		return granting
	}
	return defaultReceiver
}

// receiver takes callbacks as cheaply as it can, because it shares the machine
// with what is measured, and counts the requests that were called back.
type receiver struct {
	url       string
	kind      receiverKind
	server    fasthttp.Server
	delivered atomic.Int64 // distinct requests
	repeated  atomic.Int64 // callbacks beyond the first of a request
	onNew     func()       // called at a request's first callback, nil for nothing
	seen      [64]shard
}

type shard struct {
	mu  sync.Mutex
	ids map[uuid.UUID]struct{}
}

func startReceiver(kind receiverKind, onNew func()) (*receiver, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for callbacks: %w", err)
	}
	r := &receiver{url: "http://" + listener.Addr().String() + "/callback", kind: kind, onNew: onNew}
	for i := range r.seen {
		r.seen[i].ids = map[uuid.UUID]struct{}{}
	}
	r.server = fasthttp.Server{
		Handler: r.handle, NoDefaultServerHeader: true, NoDefaultContentType: true, NoDefaultDate: true,
	}
	go r.server.Serve(listener) //nolint:errcheck // it ends when close is called
	return r, nil
}

func (r *receiver) handle(c *fasthttp.RequestCtx) {
	if c.IsOptions() {
		r.kind.answerOptions(c)
		return
	}
	id, err := uuid.ParseBytes(bytes.TrimPrefix(c.Request.Header.Peek("Webhook-Id"), []byte("req_")))
	if err != nil {
		c.SetStatusCode(fasthttp.StatusBadRequest)
		return
	}
	if !r.note(id) {
		r.repeated.Add(1)
		return
	}
	r.delivered.Add(1)
	if r.onNew != nil {
		r.onNew()
	}
}

func (k receiverKind) answerOptions(c *fasthttp.RequestCtx) {
	if k != granting {
		c.SetStatusCode(fasthttp.StatusMethodNotAllowed)
		c.Response.Header.Set("Allow", "POST")
		return
	}
	c.Response.Header.Set("WebHook-Allowed-Origin", "*")
	c.Response.Header.Set("WebHook-Allowed-Rate", "*")
}

// note tells whether a request is called back for the first time.
func (r *receiver) note(id uuid.UUID) bool {
	s := &r.seen[id[15]%64] // the random end of a UUIDv7
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.ids[id]; known {
		return false
	}
	s.ids[id] = struct{}{}
	return true
}

// close ends the receiver. The server that calls it has been stopped before.
func (r *receiver) close() { _ = r.server.Shutdown() }
