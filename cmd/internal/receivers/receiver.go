// Package receivers takes callbacks, as receivers that are fine, slow, failing or gone.
// Its user notes the callbacks in a Book.
package receivers

import (
	"fmt"
	"io"
	"log"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// LocalSecret signs the callbacks of a server in local mode: the secret that Standard
// Webhooks publishes in its examples.
const LocalSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

const maxCallbackBytes = 256 << 10 // four times the longest callback

// Book notes the callbacks that receivers get. Its functions are called concurrently.
type Book struct {
	// Came notes a callback, and returns how many callbacks of the same request came before.
	// A callback of an unknown request is answered 410, so that it isn't repeated, or by
	// Unknown, if that isn't nil.
	Came    func(*Callback) (earlier int, known bool)
	Unknown func(*Callback)
	// Answer is told the status that is about to be answered, 0 for a broken connection,
	// and returns the status that is answered instead. It is told of known callbacks alone.
	Answer func(c *Callback, status int) int
}

// Receiver is at a port of its own, so that the service sees receivers that have nothing
// to do with each other.
type Receiver struct {
	URL       string // without a path
	Behaviour Behaviour
	// Close ends waiting answers, and takes no more connections. Open connections end with
	// the service's.
	Close func()

	book     Book
	trouble  atomic.Uint32 // a temporary behaviour, plus 1; 0 for none
	listener net.Listener
	closing  chan struct{}
}

// Start returns a receiver that listens, unless its behaviour is Refusing.
func Start(behaviour Behaviour, book Book) (*Receiver, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for callbacks: %w", err)
	}
	r := &Receiver{
		URL: "http://" + listener.Addr().String(), Behaviour: behaviour,
		book: book, listener: listener, closing: make(chan struct{}),
	}
	r.Close = sync.OnceFunc(func() {
		close(r.closing)
		_ = r.listener.Close()
	})
	if behaviour == Refusing {
		r.Close()
		return r, nil
	}
	server := &fasthttp.Server{
		Handler:               r.handle,
		ReadTimeout:           10 * time.Second,
		IdleTimeout:           2 * time.Minute,
		MaxRequestBodySize:    maxCallbackBytes,
		NoDefaultServerHeader: true,
		NoDefaultDate:         true,
		NoDefaultContentType:  true,
		Logger:                log.New(io.Discard, "", 0), // broken connections would tear the user's lines apart
	}
	go func() { _ = server.Serve(listener) }() // returns when it is closed
	return r, nil
}

// Suffer lets a receiver behave otherwise until Recover is called.
func (r *Receiver) Suffer(trouble Behaviour) { r.trouble.Store(uint32(trouble) + 1) }

// Recover ends Suffer.
func (r *Receiver) Recover() { r.trouble.Store(0) }

func (r *Receiver) behaviour() Behaviour {
	if trouble := r.trouble.Load(); trouble > 0 {
		return Behaviour(trouble - 1)
	}
	return r.Behaviour
}

// Callback is a call that came to a receiver. It is good until it is answered.
type Callback struct {
	*fasthttp.RequestCtx
	Receiver *Receiver
	At       time.Time
}

// RequestID is the id of the request, as the header tells it.
func (c *Callback) RequestID() string {
	return strings.TrimPrefix(string(c.Request.Header.Peek("Webhook-Id")), "req_")
}

func (r *Receiver) handle(ctx *fasthttp.RequestCtx) {
	came := &Callback{ctx, r, time.Now()}
	if ctx.IsOptions() {
		r.answerOptions(ctx)
		return
	}
	earlier, known := r.book.Came(came)
	if !known {
		ctx.SetStatusCode(fasthttp.StatusGone)
		if r.book.Unknown != nil {
			r.book.Unknown(came)
		}
		return
	}
	status := r.book.Answer(came, r.behaviour().answer(earlier, r.closing))
	if status == 0 {
		reset(ctx)
		return
	}
	ctx.SetStatusCode(status)
}

// answerOptions answers the handshake of CloudEvents' HTTP webhook where the receiver
// knows it: any origin may call, at any rate.
func (r *Receiver) answerOptions(ctx *fasthttp.RequestCtx) {
	if r.Behaviour != Granting {
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

// reset ends the connection without an answer, by RST rather than FIN.
func reset(ctx *fasthttp.RequestCtx) {
	if connection, ok := ctx.Conn().(interface{ SetLinger(seconds int) error }); ok {
		_ = connection.SetLinger(0)
	}
	ctx.HijackSetNoResponse(true)
	ctx.Hijack(func(net.Conn) {}) // which is closed when this returns
}
