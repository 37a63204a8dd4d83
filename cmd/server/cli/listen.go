package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

func listenCommand(p Program) *cobra.Command {
	l := &listener{kept: map[string]bool{}, client: http.Client{CheckRedirect: asItIs}}
	var secret, forwardTo string
	addr := "127.0.0.1:9999"
	command := &cobra.Command{
		Use: "listen", Short: "Print callbacks while you develop, or forward them",
		Long: `Takes callbacks by POST on any path, verifies their signatures by Standard
Webhooks, prints the body of each once, and answers 204. With --forward-to it
passes each on, signature and all, and answers as your receiver does. A call
without a valid signature gets 401, and is neither printed nor passed on.

Without --secret it takes the secret of local mode. A server outside local mode calls
loopback addresses only where CALLBACK_ALLOW_CIDRS has them.`,
		Example: `  ringback listen
  ringback listen --forward-to http://127.0.0.1:3000/hooks/ringback
  RINGBACK_SECRET=whsec_… ringback listen --addr 127.0.0.1:9000 --json`,
	}
	command.Args = func(_ *cobra.Command, args []string) error {
		if err := cobra.NoArgs(command, args); err != nil || secret == "" {
			return err
		}
		_, err := verifierOf("--secret", secret)
		return err
	}
	flags := command.Flags()
	flags.SortFlags = false
	flags.Var((*hostPort)(&addr), "addr", "`HOST:PORT` to listen on")
	flags.Var(given(&secret), "secret", "`SECRET` of the client (RINGBACK_SECRET, which other users of the machine can't see)")
	flags.Func("forward-to", "`URL` of your receiver", func(text string) error {
		if _, ok := webURL(text); !ok {
			return errors.New("must be a URL such as http://127.0.0.1:3000/hook")
		}
		forwardTo = text
		return nil
	})
	command.RunE = func(command *cobra.Command, _ []string) (err error) {
		l.command, l.forwardTo = command, forwardTo
		if l.webhook, err = verifierOf("RINGBACK_SECRET", cmp.Or(secret, p.Environ["RINGBACK_SECRET"], p.LocalSecret)); err != nil {
			return err
		}
		return l.serve(command.Context(), addr)
	}
	return command
}

// verifierOf takes a secret of Standard Webhooks. Any other text would verify nothing, and
// an empty secret a signature of anybody. The name says where the secret comes from.
func verifierOf(name, secret string) (*standardwebhooks.Webhook, error) {
	wrong := errors.New(name + " must be whsec_ and the base64 of 24 to 64 bytes, as ringback client add prints it")
	encoded, prefixed := strings.CutPrefix(secret, "whsec_")
	if key, err := base64.StdEncoding.DecodeString(encoded); err != nil || !prefixed || len(key) < 24 || len(key) > 64 {
		return nil, wrong
	}
	webhook, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		return nil, wrong
	}
	return webhook, nil
}

// hostPort is a flag that takes an address to listen on. Port 0 stands for any that is free.
type hostPort string

func (h *hostPort) String() string { return string(*h) }
func (h *hostPort) Type() string   { return "string" }

func (h *hostPort) Set(text string) error {
	if text == "" {
		return errors.New("must not be empty")
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil || port != "0" && !isPort(port) || strings.ContainsAny(host, " */") {
		return errors.New("must be host:port, such as 127.0.0.1:9999")
	}
	*h = hostPort(text)
	return nil
}

// listener takes callbacks.
type listener struct {
	command   *cobra.Command
	webhook   *standardwebhooks.Webhook
	forwardTo string
	client    http.Client

	mu    sync.Mutex // of the fields below, and of the outputs
	kept  map[string]bool
	order []string // of kept, oldest first
}

const (
	// maxCallback is twice the size of the largest callback.
	maxCallback = 128 << 10 // bytes
	// listenKept is how many webhook-ids are kept.
	listenKept = 10_000
	// forwardTime is less than the 10 s in which a callback has to be answered.
	forwardTime = 9 * time.Second
	// closeTime is for callbacks that are being answered when the command ends.
	closeTime = 2 * time.Second
)

func (l *listener) serve(ctx context.Context, addr string) error {
	socket, err := net.Listen("tcp", addr)
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			err = fmt.Errorf("%w: another ringback listen may be running: stop it, or give --addr an address with a free port", err)
		}
		return fmt.Errorf("listening for callbacks (--addr): %w", err)
	}
	server := &http.Server{Handler: l, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	l.note("listening on http://%s/hook", socket.Addr())
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(socket) }()
	select {
	case err := <-failed:
		return fmt.Errorf("listening for callbacks: %w", err)
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		server.Close()
	}
	return nil
}

// note prints a line that isn't a callback.
func (l *listener) note(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.command.ErrOrStderr(), format+"\n", args...)
}

func (l *listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodPost:
		l.take(w, r)
	case http.MethodOptions:
		grant(w, r)
	default:
		w.Header().Set("Allow", "OPTIONS, POST")
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

// grant answers the handshake of CloudEvents' HTTP webhook, for CALLBACK_CONSENT.
func grant(w http.ResponseWriter, r *http.Request) {
	if origin := r.Header.Get("WebHook-Request-Origin"); origin != "" {
		w.Header().Set("WebHook-Allowed-Origin", origin)
		w.Header().Set("WebHook-Allowed-Rate", "*")
	}
	w.Header().Set("Allow", "OPTIONS, POST")
	w.WriteHeader(http.StatusNoContent)
}

func (l *listener) take(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCallback))
	if err != nil {
		l.note("%s: could not be read: %v", printable(r.URL.Path), err)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if err := l.webhook.Verify(body, r.Header); err != nil {
		l.note("%s: refused with 401, since it was signed with another secret than --secret or RINGBACK_SECRET gives, or not at all: %v", printable(r.URL.Path), err)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	answer := received{
		WebhookID: r.Header.Get("Webhook-Id"), Path: r.URL.RequestURI(), Status: http.StatusNoContent, Body: body,
	}
	if l.forwardTo != "" {
		answer.Status = l.forward(w, r, body)
	}
	l.print(answer)
	w.WriteHeader(answer.Status)
}

// forward passes a callback on and returns the status that came back.
func (l *listener) forward(w http.ResponseWriter, r *http.Request, body []byte) int {
	ctx, cancel := context.WithTimeout(r.Context(), forwardTime)
	defer cancel()
	call, err := http.NewRequestWithContext(ctx, http.MethodPost, l.forwardTo, bytes.NewReader(body))
	if err != nil {
		l.note("forwarding: %v", err)
		return http.StatusBadGateway
	}
	for _, name := range []string{"Content-Type", "User-Agent", "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature", "Traceparent"} {
		if value := r.Header.Values(name); len(value) > 0 {
			call.Header[name] = value
		}
	}
	response, err := l.client.Do(call)
	if err != nil {
		l.note("forwarding to %s: %v; answered 502", l.forwardTo, cause(err))
		return http.StatusBadGateway
	}
	defer response.Body.Close()
	if after := response.Header.Get("Retry-After"); after != "" {
		w.Header().Set("Retry-After", after)
	}
	_, _ = io.CopyN(io.Discard, response.Body, maxCallback) // so that the connection is kept
	return response.StatusCode
}

// received is a callback as it is printed for programs.
type received struct {
	WebhookID string `json:"webhook_id"`
	Path      string `json:"path"`
	Status    int    `json:"status"`            // of the answer
	Repeated  bool   `json:"repeated,omitzero"` // the callback came before
	Body      []byte `json:"-"`
}

// print prints a callback, once for people, and for programs whenever it comes.
func (l *listener) print(r received) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.Repeated = l.keep(r.WebhookID)
	out, errOut := l.command.OutOrStdout(), l.command.ErrOrStderr()
	switch {
	case asJSON(l.command):
		body := jsontext.Value(r.Body)
		if !body.IsValid() {
			body = nil
		}
		_ = WriteJSON(out, struct { // an error means that the reader has gone; the sender is answered all the same
			received
			Body jsontext.Value `json:"body,omitzero"`
		}{r, body})
	case r.Repeated:
		fmt.Fprintf(errOut, "%s came again, answered %d\n", printable(r.WebhookID), r.Status)
	default:
		fmt.Fprintf(out, "%s\n", printable(string(r.Body)))
		if r.Status != http.StatusNoContent {
			fmt.Fprintf(errOut, "%s answered %d\n", printable(r.WebhookID), r.Status)
		}
	}
}

// keep keeps an id, and tells whether it was known.
func (l *listener) keep(id string) (known bool) {
	if l.kept[id] {
		return true
	}
	l.kept[id] = true
	l.order = append(l.order, id)
	if len(l.order) > listenKept {
		delete(l.kept, l.order[0])
		l.order = l.order[1:]
	}
	return false
}
