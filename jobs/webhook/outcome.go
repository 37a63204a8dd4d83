package webhook

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Outcome is the result of an attempt, as callers see it.
type Outcome string

const (
	Delivered        Outcome = "delivered"         // 2xx
	Gone             Outcome = "gone"              // 410: never call this URL again for this message
	Throttled        Outcome = "throttled"         // 429 or 503 with a Retry-After
	HTTPStatus       Outcome = "http_status"       // every other status, redirects too
	Timeout          Outcome = "timeout"           // no status in time
	TLSFailed        Outcome = "tls_failed"        // no trusted connection
	ConnectionFailed Outcome = "connection_failed" // no connection, no HTTP answer, or not allowed to connect
)

const noValidAnswer = "no valid HTTP answer"

// Bounds of a Retry-After, chosen here: a receiver can neither make Ringback hammer it
// nor park a callback for longer than a day.
const (
	minRetryAfter = time.Second
	maxRetryAfter = 24 * time.Hour
)

// classify returns the outcome of an answer and, for Throttled, the time to wait.
func classify(status int, header http.Header, now time.Time) (Outcome, time.Duration) {
	switch {
	case status < 100: // net/http lets three digits of any kind through
		return ConnectionFailed, 0
	case status >= 200 && status <= 299:
		return Delivered, 0
	case status == http.StatusGone:
		return Gone, 0
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		if wait, ok := RetryAfter(header, now); ok {
			return Throttled, wait
		}
	}
	return HTTPStatus, 0
}

// sloppyAnswer is the cause of an outcome that the status line alone tells.
const sloppyAnswer = "the answer behind its status line is not valid HTTP, or did not come"

// statusCause explains a status to operators, where it doesn't explain itself.
func statusCause(status int) string {
	switch {
	case status < 100:
		return noValidAnswer
	case status >= 300 && status <= 399 && status != http.StatusNotModified:
		return "redirects are not followed"
	}
	return ""
}

// withRepetition adds to a cause that the attempt sent its message twice.
func withRepetition(cause string) string {
	const twice = "tried twice: a kept connection failed first"
	if cause == "" {
		return twice
	}
	return cause + "; " + twice
}

// RetryAfter reads a Retry-After of seconds or an HTTP date (RFC 9110, section 10.2.3), and
// clamps it to 1 s to 24 h. It returns false for a value that is absent or malformed. A date
// is by the clock of the server that answers: the answer's Date, or now without a Date.
func RetryAfter(answer http.Header, now time.Time) (time.Duration, bool) {
	value, wait := answer.Get("Retry-After"), maxRetryAfter
	seconds, err := strconv.ParseUint(value, 10, 64)
	if err == nil && seconds < uint64(maxRetryAfter/time.Second) {
		wait = time.Duration(seconds) * time.Second
	}
	if err != nil && !errors.Is(err, strconv.ErrRange) { // digits without end are still seconds
		date, err := http.ParseTime(value)
		if err != nil {
			return 0, false
		}
		if said, err := http.ParseTime(answer.Get("Date")); err == nil {
			now = said
		}
		wait = date.Sub(now)
	}
	return min(max(wait, minRetryAfter), maxRetryAfter), true
}

// explain returns the outcome and the cause of an attempt without an answer. Causes are
// fixed phrases, or texts of the operating system or the TLS alert list. Texts of
// net/http can hold the URL or bytes of the answer.
func explain(err error, seen sighting) (Outcome, string) {
	if refused, ok := errors.AsType[*RefusedError](err); ok {
		return ConnectionFailed, "URL not allowed: " + refused.Rule
	}
	if blocked, ok := errors.AsType[*blockedError](err); ok {
		return ConnectionFailed, blocked.Error()
	}
	if errors.Is(err, context.Canceled) {
		return ConnectionFailed, "cancelled"
	}
	if lookup, ok := errors.AsType[*net.DNSError](err); ok { // before the timeouts: a slow lookup is no slow receiver
		return ConnectionFailed, lookupCause(lookup)
	}
	if timed, ok := errors.AsType[net.Error](err); ok && timed.Timeout() {
		return Timeout, "too slow while " + seen.doing
	}
	if alert := tlsAlert(err); alert != "" {
		return TLSFailed, alert
	}
	if seen.tlsFailed {
		return TLSFailed, tlsCause(err)
	}
	return ConnectionFailed, connectionCause(err)
}

// ErrorCause is why a call got no answer, in the phrases of explain: for logs.
func ErrorCause(err error) string {
	_, cause := explain(err, sighting{doing: "waiting for the answer"})
	return cause
}

// shortages are the errors that say what this machine has run out of.
var shortages = [...]syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM}

// shortageOf returns the shortage of this machine that made an attempt fail, nil for another
// failure. A shortage says nothing about the receiver.
func shortageOf(err error) error {
	for _, shortage := range shortages {
		if errors.Is(err, shortage) {
			return shortage
		}
		// The resolver keeps the text alone.
		if lookup, ok := errors.AsType[*net.DNSError](err); ok && strings.HasSuffix(lookup.Err, shortage.Error()) {
			return shortage
		}
	}
	return nil
}

// tlsAlert returns the text of an alert that either side sent, empty without an alert. An
// alert may follow the handshake: TLS 1.3 refuses client certificates only then. The alert's
// type is private to crypto/tls, which marks the alert by the operation.
func tlsAlert(err error) string {
	operation, ok := errors.AsType[*net.OpError](err)
	if !ok || operation.Op != "remote error" && operation.Op != "local error" {
		return ""
	}
	return operation.Err.Error()
}

func tlsCause(err error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "certificate signed by unknown authority"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "certificate is for another name"
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return "certificate expired or not yet valid"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "certificate not valid"
	}
	return "handshake failed"
}

func lookupCause(err *net.DNSError) string {
	switch {
	case err.IsNotFound:
		return "no such host"
	case err.IsTimeout:
		return "name resolution took too long"
	default:
		return "name resolution failed"
	}
}

func connectionCause(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "connection closed before the answer"
	}
	return noValidAnswer
}
