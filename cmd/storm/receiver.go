package main

import (
	"bytes"
	"crypto/rand"
	"hash/maphash"
	"io"
	"log"
	"net"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/valyala/fasthttp"
)

const maxCallbackBytes = 256 << 10 // four times what the service promises at most

// delivery is what the receiver reads in a callback.
type delivery struct {
	id     uuid.UUID
	result uint64 // hash of the result's bytes
	flags  flag8
}

// receiver takes the callbacks of one run.
type receiver struct {
	ledger *ledger
	run    string // part of each path: an earlier run may have had the same port
	hash   maphash.Seed

	listener net.Listener
	server   *fasthttp.Server
	baseURL  []byte
	path     []byte // of the callbacks, up to the slot's number
}

// newReceiver returns a receiver that listens. Its callers start it by serve.
func newReceiver(ledger *ledger) (*receiver, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	run := rand.Text()
	path := "/callbacks/" + run + "/"
	r := &receiver{
		ledger:   ledger,
		run:      run,
		hash:     maphash.MakeSeed(),
		listener: listener,
		baseURL:  []byte("http://" + listener.Addr().String() + path),
		path:     []byte(path),
	}
	r.server = &fasthttp.Server{
		Handler:               r.handle,
		ReadTimeout:           10 * time.Second,
		IdleTimeout:           2 * time.Minute,
		MaxRequestBodySize:    maxCallbackBytes,
		NoDefaultServerHeader: true,
		NoDefaultDate:         true,
		NoDefaultContentType:  true,
		CloseOnShutdown:       true,
		// Broken connections would tear the progress lines apart.
		Logger: log.New(io.Discard, "", 0),
	}
	return r, nil
}

func (r *receiver) serve() {
	go func() { _ = r.server.Serve(r.listener) }() // returns when close is called
}

func (r *receiver) close() { _ = r.listener.Close() }

// appendURL appends the callback URL of a slot.
func (r *receiver) appendURL(to []byte, number int) []byte {
	return strconv.AppendInt(append(to, r.baseURL...), int64(number), 10)
}

func (r *receiver) handle(ctx *fasthttp.RequestCtx) {
	came := r.ledger.clock.now()
	number, known := r.slot(ctx.Path())
	if !known || !ctx.IsPost() {
		// Gone, so that a callback of an earlier run isn't tried again.
		r.ledger.stray()
		ctx.SetStatusCode(fasthttp.StatusGone)
		return
	}
	r.ledger.attempt(number)
	r.ledger.deliver(number, came, r.read(ctx.PostBody()))
	ctx.SetStatusCode(fasthttp.StatusNoContent)
}

// slot finds the slot that a path belongs to.
func (r *receiver) slot(path []byte) (number int, known bool) {
	digits, known := bytes.CutPrefix(path, r.path)
	if !known {
		return 0, false
	}
	number, err := strconv.Atoi(string(digits))
	return number, err == nil && number >= 0 && number < len(r.ledger.slots)
}

// read takes from a body what is checked. What can't be read has no id, and
// that is a mismatch.
func (r *receiver) read(body []byte) delivery {
	var told struct {
		Data struct {
			ID     uuid.UUID      `json:"id"`
			Status string         `json:"status"`
			Result jsontext.Value `json:"result"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &told); err != nil || told.Data.ID == uuid.Nil {
		return delivery{flags: badBody}
	}
	delivery := delivery{id: told.Data.ID, result: maphash.Bytes(r.hash, told.Data.Result)}
	if told.Data.Status != "succeeded" {
		delivery.flags |= workFailed
	}
	return delivery
}
