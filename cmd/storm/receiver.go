package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"hash/maphash"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/valyala/fasthttp"
)

const maxCallbackBytes = 256 << 10 // four times what the service promises at most

// delivery is what the receiver reads in a callback.
type delivery struct {
	id       uuid.UUID
	result   uint64 // hash of the result's bytes
	sequence int64  // within its ordering key; 0 where none is told
	flags    flag8
}

// receiver takes the callbacks of one run. Each kind has a port, so that the
// service sees origins which have nothing to do with each other.
type receiver struct {
	ledger  *ledger
	hash    maphash.Seed
	path    []byte                    // of the callbacks, up to the slot's number
	secret  *standardwebhooks.Webhook // nil where callbacks need no signature
	origins [kinds]*origin            // nil where the run has none
	closing chan struct{}
	close   func()
}

// origin is a receiver of one kind, at a port of its own.
type origin struct {
	*receiver
	kind     kind
	listener net.Listener
	server   *fasthttp.Server
	baseURL  []byte // of the callbacks, up to the slot's number
}

// newReceiver returns a receiver that listens; serve makes it answer.
func newReceiver(ledger *ledger, receivers shares, secret *standardwebhooks.Webhook) (*receiver, error) {
	r := &receiver{
		ledger: ledger,
		hash:   maphash.MakeSeed(),
		// Part of the path is new each time: an earlier run may have had the
		// same port.
		path:    []byte("/callbacks/" + rand.Text() + "/"),
		secret:  secret,
		closing: make(chan struct{}),
	}
	r.close = sync.OnceFunc(r.shutDown)
	for index, share := range receivers {
		if share == 0 {
			continue
		}
		origin, err := newOrigin(r, kindOf(index))
		if err != nil {
			r.close()
			return nil, fmt.Errorf("listening for callbacks: %w", err)
		}
		r.origins[index] = origin
	}
	return r, nil
}

func newOrigin(r *receiver, kind kind) (*origin, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	o := &origin{receiver: r, kind: kind, listener: listener}
	o.baseURL = append([]byte("http://"+listener.Addr().String()), r.path...)
	o.server = &fasthttp.Server{
		Handler:               o.handle,
		ReadTimeout:           10 * time.Second,
		IdleTimeout:           2 * time.Minute,
		MaxRequestBodySize:    maxCallbackBytes,
		NoDefaultServerHeader: true,
		NoDefaultDate:         true,
		NoDefaultContentType:  true,
		// Broken connections would tear the progress lines apart.
		Logger: log.New(io.Discard, "", 0),
	}
	return o, nil
}

func (r *receiver) serve() {
	for _, origin := range r.origins {
		if origin != nil {
			go func() { _ = origin.server.Serve(origin.listener) }() // returns when it is closed
		}
	}
}

func (r *receiver) shutDown() {
	close(r.closing)
	for _, origin := range r.origins {
		if origin != nil {
			_ = origin.listener.Close()
		}
	}
}

// appendURL appends the callback URL of a slot.
func (r *receiver) appendURL(to []byte, number int) []byte {
	origin := r.origins[r.ledger.slots[number].kind]
	return strconv.AppendInt(append(to, origin.baseURL...), int64(number), 10)
}

func (o *origin) handle(ctx *fasthttp.RequestCtx) {
	came := o.ledger.clock.now()
	if ctx.IsOptions() {
		o.kind.answerOptions(ctx)
		return
	}
	number, known := o.slot(ctx)
	if !known {
		// Gone, so that a callback of an earlier run isn't tried again.
		o.ledger.stray()
		ctx.SetStatusCode(fasthttp.StatusGone)
		return
	}
	earlier := o.ledger.attempt(number)
	if !o.kind.behave(ctx, earlier, o.closing) {
		return
	}
	if !o.ledger.deliver(number, came, o.read(ctx)) {
		ctx.SetStatusCode(fasthttp.StatusServiceUnavailable)
	}
}

// answerOptions answers the handshake of CloudEvents' HTTP webhook where the kind
// knows it: whoever asks may call, at any rate.
func (k kind) answerOptions(ctx *fasthttp.RequestCtx) {
	if k != kindGranting {
		ctx.SetStatusCode(fasthttp.StatusMethodNotAllowed)
		ctx.Response.Header.Set("Allow", "POST")
		return
	}
	if len(ctx.Request.Header.Peek("WebHook-Request-Origin")) > 0 {
		ctx.Response.Header.Set("WebHook-Allowed-Origin", "*")
		ctx.Response.Header.Set("WebHook-Allowed-Rate", "*")
	}
	ctx.Response.Header.Set("Allow", "POST, OPTIONS")
}

// slot finds the slot that a callback belongs to.
func (o *origin) slot(ctx *fasthttp.RequestCtx) (number int, known bool) {
	digits, known := bytes.CutPrefix(ctx.Path(), o.path)
	if !known || !ctx.IsPost() {
		return 0, false
	}
	number, err := strconv.Atoi(string(digits))
	slots := o.ledger.slots
	return number, err == nil && number >= 0 && number < len(slots) && slots[number].kind == o.kind
}

// read takes from a callback what is checked. A body that can't be read has no
// id, and that is a mismatch.
func (r *receiver) read(ctx *fasthttp.RequestCtx) delivery {
	var told struct {
		Data struct {
			ID       uuid.UUID      `json:"id"`
			Status   string         `json:"status"`
			Result   jsontext.Value `json:"result"`
			Sequence int64          `json:"sequence"`
		} `json:"data"`
	}
	delivery := delivery{flags: r.checkSignature(ctx)}
	if err := json.Unmarshal(ctx.PostBody(), &told); err != nil || told.Data.ID == uuid.Nil {
		delivery.flags |= badBody
		return delivery
	}
	delivery.id, delivery.sequence = told.Data.ID, told.Data.Sequence
	delivery.result = maphash.Bytes(r.hash, told.Data.Result)
	if told.Data.Status != "succeeded" {
		delivery.flags |= workFailed
	}
	return delivery
}

// checkSignature takes every callback where there is no secret.
func (r *receiver) checkSignature(ctx *fasthttp.RequestCtx) flag8 {
	if r.secret == nil {
		return 0
	}
	headers := make(http.Header, 3)
	for _, name := range []string{
		standardwebhooks.HeaderWebhookID, standardwebhooks.HeaderWebhookTimestamp, standardwebhooks.HeaderWebhookSignature,
	} {
		headers.Set(name, string(ctx.Request.Header.Peek(name)))
	}
	if r.secret.Verify(ctx.PostBody(), headers) != nil {
		return badSignature
	}
	return 0
}

// closeAtOnce takes over a connection and does nothing with it: it is closed
// when this returns.
func closeAtOnce(net.Conn) {}
