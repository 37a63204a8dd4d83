// Package webhook makes a callback: it checks the URL, guards the dial, sends the POST
// and classifies the answer. The caller decides when and how often to call, and acts on
// the outcome.
package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"time"

	"golang.org/x/net/http/httpguts"
)

// Message is a callback to send.
type Message struct {
	ID          string            // webhook-id (Standard Webhooks): the same on every attempt
	URL         string            // as Policy.Check returned it; checked again, since the policy may have changed
	Body        []byte            // JSON of any size
	Traceparent string            // W3C Trace Context, empty for a request without a trace
	Secrets     []Secret          // a signature is made with each; none for no signature
	Hosts       Hosts             // that may be called; URL is checked against them
	Headers     map[string]string // of the caller, as CheckHeaders returned them
	Admission   Admission         // the zero Admission: the policy alone decides
}

// Attempt is the result of a POST.
type Attempt struct {
	StartedAt, EndedAt time.Time // EndedAt: the status line came, or it was clear that none comes

	Outcome    Outcome
	Status     int           // as the receiver sent it, 0 when there was no answer
	RetryAfter time.Duration // Throttled only: 1 s to 24 h

	// The fields below are for operators only: shown to callers, they would turn
	// callbacks into a port scanner.

	Address     string // last address that was dialled, refused or reused, with its port; empty if none
	Conn        string // local address of the used connection, which identifies the connection; empty if none
	Refused     bool   // the policy, or the client's list of hosts, refused the URL
	NotAdmitted bool   // the admission let no name be looked up or no address be dialled, so that no attempt was made
	Shortage    error  // what this machine has run out of, so that no attempt was made; nil for nothing
	Cause       string // short phrase, empty when the status says it all; never holds the URL or a part of the answer

	// How long each phase took, zero when the phase didn't happen or didn't end. A reused
	// connection has only FirstByte, which starts when the connection is ready.
	DNS, Connect, TLS, FirstByte time.Duration
}

// AboutReceiver is the attempt, or the zero Attempt where it says nothing about the receiver. A
// URL may be refused by one client's own list of hosts, and the receiver of other clients must not
// suffer for that. Without admission, or in a shortage, no attempt was made.
func (a Attempt) AboutReceiver() Attempt {
	if a.Refused || a.NotAdmitted || a.Shortage != nil {
		return Attempt{}
	}
	return a
}

// Sender sends callbacks. It is safe for concurrent use.
type Sender struct {
	policy    Policy
	userAgent string
	origin    string // this service, in a CloudEvents handshake and after it
	guard     *guard
	kept      *Rotating       // keeps connections
	fresh     *http.Transport // makes a connection for each request
	exchange  time.Duration   // bounds an attempt from the first dial to the status line
	drain     time.Duration   // bounds the reading of the body after the status line
}

// LoopID is this service's id in CDN-Loop (RFC 8586): a call that carries it comes from this
// service.
const LoopID = "ringback"

// maxDrain is how much of an answer's body is read so that the connection can be used
// again: more than a polite answer has, and little work.
const maxDrain = 16 << 10 // bytes

// NewSender returns a Sender that follows policy and introduces itself with version.
func NewSender(policy Policy, version string) *Sender {
	// Reads the system's certificates now, once for the process: within the first
	// handshake, reading them may exceed its deadline on a busy machine. Where there are no
	// certificates, that handshake says so.
	_, _ = x509.SystemCertPool()
	guard := newGuard(policy)
	transport := newTransport(guard.dialContext)
	// The clone dials by the original's DialTLSContext, so it resumes the same TLS sessions.
	// Without keep-alives it also asks the receiver to close the connection.
	fresh := transport.Clone()
	fresh.DisableKeepAlives = true
	return &Sender{
		policy:    policy,
		userAgent: userAgent(policy, version),
		origin:    requestOrigin(policy),
		guard:     guard,
		kept:      NewRotating(transport),
		fresh:     fresh,
		exchange:  10 * time.Second, // as GitHub; Shopify takes 5, Standard Webhooks says 15 to 30
		drain:     time.Second,      // the outcome is known by now: a body that drips must not hold a worker
	}
}

func newTransport(dial func(ctx context.Context, network, address string) (net.Conn, error)) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	transport := &http.Transport{
		Proxy:       nil, // through a proxy, the guard would see only the proxy's address
		DialContext: keepingHeads(dial),
		Protocols:   protocols,
		TLSClientConfig: &tls.Config{
			MinVersion:         tls.VersionTLS12,
			NextProtos:         []string{"http/1.1"},               // some proxies pick the service by it, and others can say that they don't speak it
			ClientSessionCache: tls.NewLRUClientSessionCache(1024), // sessions, about one a receiver
		},
		TLSHandshakeTimeout:    3 * time.Second,
		DisableCompression:     true, // so that no answer inflates
		MaxResponseHeaderBytes: 32 << 10,
		MaxIdleConns:           4096,             // a POST on a kept connection costs a third of a POST that dials
		MaxIdleConnsPerHost:    256,              // default of callbacks at a time to a receiver
		IdleConnTimeout:        45 * time.Second, // below the 60 s after which many servers hang up
	}
	transport.DialTLSContext = keepingHeads(overTLS(dial, transport))
	return transport
}

// requestOrigin is the first public name of the service, or a constant: the machine's name
// stays private.
func requestOrigin(policy Policy) string {
	if len(policy.Names) > 0 {
		return policy.Names[0]
	}
	return "ringback"
}

// userAgent names this service to a receiver and, where the service has a public name, tells
// where to ask.
func userAgent(policy Policy, version string) string {
	if len(policy.Names) > 0 {
		return "Ringback/" + version + " (+https://" + policy.Names[0] + ")"
	}
	return "Ringback/" + version
}

// Close drops the idle connections. Attempts that are under way go on.
func (s *Sender) Close() { s.kept.Close() }

// Send makes an attempt, which takes at most 10 s and then 1 s to leave the connection
// clean. Expected results of the network, the receiver and the policy are values. An
// attempt during which ctx was cancelled is a value, too, but says nothing about the
// receiver: the caller checks ctx.Err() and drops the attempt.
//
// A kept connection may turn out to be closed only when the message has been sent on it.
// So when a kept connection fails before any byte of an answer, the message is sent once
// more, on a fresh connection. A receiver may see the message twice in an attempt, with the
// same webhook-id, and no more often.
//
// A connection is kept only where the admission allows that. Otherwise the message is sent on a
// connection of its own, if the admission allows that.
func (s *Sender) Send(ctx context.Context, m Message) Attempt {
	ctx, cancel := context.WithTimeout(ctx, s.exchange)
	defer cancel()
	attempt := Attempt{StartedAt: time.Now()}
	response, seen, again, err := s.postOnceOrTwice(ctx, m)
	attempt.EndedAt = time.Now()
	attempt.Address, attempt.Conn = seen.address, seen.localAddress
	attempt.DNS, attempt.Connect, attempt.TLS, attempt.FirstByte = seen.dns, seen.connect, seen.tls, seen.firstByte
	switch {
	case err == nil:
		attempt.Status = response.StatusCode
		attempt.Outcome, attempt.RetryAfter = classify(response.StatusCode, response.Header, attempt.EndedAt)
		attempt.Cause = statusCause(response.StatusCode)
		s.finish(response, cancel)
	case seen.status != 0:
		attempt.Status = seen.status
		attempt.Outcome, _ = classify(seen.status, nil, attempt.EndedAt)
		attempt.Cause = sloppyAnswer
	default:
		attempt.Outcome, attempt.Cause = explain(err, seen)
		attempt.Shortage, attempt.NotAdmitted = shortageOf(err), isTurnedAway(err, seen)
		_, attempt.Refused = errors.AsType[*RefusedError](err)
		if blocked, ok := errors.AsType[*blockedError](err); ok {
			attempt.Address = blocked.address
		}
	}
	if again {
		attempt.Cause = withRepetition(attempt.Cause)
	}
	return attempt
}

// postOnceOrTwice posts the message, and again on a fresh connection where the admission allowed
// no kept connection, or where a kept connection failed.
func (s *Sender) postOnceOrTwice(ctx context.Context, m Message) (response *http.Response, seen sighting, again bool, err error) {
	response, seen, err = s.post(ctx, s.kept.Transport(), m)
	again = err != nil && seen.reused && !seen.answered
	if ctx.Err() != nil || !again && !errors.Is(err, ErrTurnedAway) {
		return response, seen, false, err
	}
	second, later, failure := s.post(ctx, s.fresh, m)
	if again && isTurnedAway(failure, later) {
		return response, seen, false, err
	}
	return second, later, again, failure
}

// isTurnedAway tells whether the admission let no address be dialled.
func isTurnedAway(err error, seen sighting) bool {
	return errors.Is(err, ErrTurnedAway) && seen.address == ""
}

// post returns the answer's head, and the phases before it. A bare round trip follows no
// redirect and keeps no cookie. Unlike a client that follows no redirects, it doesn't fail on
// a redirect's malformed Location.
func (s *Sender) post(ctx context.Context, transport *http.Transport, m Message) (*http.Response, sighting, error) {
	var followed phases
	ctx = withAdmission(ctx, m.Admission, transport != s.fresh)
	request, err := s.newPost(httptrace.WithClientTrace(ctx, followed.trace()), m)
	if err != nil {
		return nil, followed.report(), err
	}
	response, err := transport.RoundTrip(request)
	return response, followed.report(), err
}

func (s *Sender) newPost(ctx context.Context, m Message) (*http.Request, error) {
	if err := m.Hosts.Check(m.URL); err != nil {
		return nil, err
	}
	request, err := s.newRequest(ctx, http.MethodPost, m.URL, bytes.NewReader(m.Body))
	if err != nil {
		return nil, err
	}
	for name, value := range m.Headers {
		if !isTaken(name) {
			request.Header.Set(name, value)
		}
	}
	// By GetBody, net/http would send a request again by itself on one kept connection after
	// the other, while they fail.
	request.GetBody = nil
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Webhook-Id", m.ID)
	timestamp := strconv.FormatInt(time.Now().Unix(), 10)
	request.Header.Set("Webhook-Timestamp", timestamp)
	if len(m.Secrets) > 0 {
		request.Header.Set("Webhook-Signature", Sign(m.Secrets, m.ID, timestamp, m.Body))
	}
	if m.Traceparent != "" && httpguts.ValidHeaderFieldValue(m.Traceparent) { // else net/http sends nothing, and the receiver seems to fail
		request.Header.Set("Traceparent", m.Traceparent)
	}
	return request, nil
}

// newRequest checks the URL and sets the headers of every outgoing request.
func (s *Sender) newRequest(ctx context.Context, method, rawURL string, body io.Reader) (*http.Request, error) {
	target, err := s.policy.Check(rawURL)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", s.userAgent)
	request.Header.Set("Accept", "*/*") // firewalls with the usual rules refuse a request without it
	request.Header.Set("Cdn-Loop", LoopID)
	request.Header.Set("Webhook-Request-Origin", s.origin)
	return request, nil
}

// finish reads the rest of an answer, so that the connection can be used again. It closes the
// connection when the rest has more than maxDrain bytes, or takes longer than s.drain.
func (s *Sender) finish(response *http.Response, cancel context.CancelFunc) {
	defer response.Body.Close()
	if response.StatusCode == http.StatusSwitchingProtocols {
		return // the body is the bare connection, where a read heeds no cancel
	}
	defer time.AfterFunc(s.drain, cancel).Stop()
	_, _ = io.CopyN(io.Discard, response.Body, maxDrain)
}
