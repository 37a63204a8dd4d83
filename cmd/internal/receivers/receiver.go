// Package receivers takes callbacks, as receivers that are fine, slow, failing or gone. A Book
// notes the callbacks.
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
	// Answer gets the status that the behaviour answers, 0 for a broken connection, and
	// returns the status to answer instead. It is called for known requests alone.
	Answer func(c *Callback, status int) int
}

// Receiver is at a port of its own, so that to the service each receiver is another.
type Receiver struct {
	URL       string // without a path
	Behaviour Behaviour
	// Close ends waiting answers, and takes no more connections. Open connections stay until
	// the service closes them.
	Close func()

	book     Book
	current  atomic.Uint32 // the behaviour at present
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
	r.Recover()
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
		Logger:                log.New(io.Discard, "", 0), // lines about broken connections would stand among the tool's
	}
	go func() { _ = server.Serve(listener) }() // until the listener is closed
	return r, nil
}

// Suffer lets a receiver answer as another behaviour does, until Recover is called. The
// receiver still listens: with Refusing, it breaks connections.
func (r *Receiver) Suffer(trouble Behaviour) { r.current.Store(uint32(trouble)) }

// Recover gives a receiver its own behaviour back.
func (r *Receiver) Recover() { r.current.Store(uint32(r.Behaviour)) }

func (r *Receiver) behaviour() Behaviour { return Behaviour(r.current.Load()) }

// Callback is a call that came to a receiver. It is valid until it is answered.
type Callback struct {
	*fasthttp.RequestCtx
	Receiver *Receiver
	At       time.Time
}

// RequestID is the request's id, as the callback's header says.
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

// answerOptions answers the handshake of CloudEvents' HTTP webhook if the receiver is
// Granting: any origin may call, at any rate.
func (r *Receiver) answerOptions(ctx *fasthttp.RequestCtx) {
	if r.behaviour() != Granting {
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
	ctx.Hijack(func(net.Conn) {}) // fasthttp closes the connection when this returns
}
