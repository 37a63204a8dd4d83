// Package upstream is work that an HTTP service does. README.md is its manual.
package upstream

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/net/http/httpguts"

	"ringback/jobs/webhook"
	"ringback/work"
)

// Config is the configuration of an upstream's work.
type Config struct {
	URL      string           // that the input is POSTed to, by CheckURL
	Secrets  []webhook.Secret // that calls are signed with; none for no signature
	RetryOn  []int            // further statuses that mean "not done": 500 or none
	Schema   jsontext.Value
	Timeout  time.Duration
	Limit    int
	Retries  int           // as work.Policy.Times
	Lease    time.Duration // as work.Work.Lease; 0 for 10 minutes
	Identity string        // the User-Agent
}

// defaultLease is how long a service that answered 202 may say nothing.
const defaultLease = 10 * time.Minute

// New makes the work. It doesn't connect: a service that is away at the start is
// called when there is work for it.
func New(config Config) work.Work {
	u := &upstream{config: config, kept: webhook.NewRotating(newTransport())}
	return work.Work{
		Do: u.do, Schema: config.Schema, Timeout: config.Timeout, Limit: config.Limit,
		Retry: work.Policy{Times: config.Retries}, Paced: true, Service: placeOf(config.URL), Lease: cmp.Or(config.Lease, defaultLease),
	}
}

// CheckURL checks the URL of an upstream. Its error doesn't quote it.
func CheckURL(raw string) error {
	parsed, err := url.Parse(raw)
	switch {
	case err != nil:
		return errors.New("must be a URL such as http://127.0.0.1:9000/summarize")
	case parsed.Scheme != "http" && parsed.Scheme != "https":
		return errors.New("must begin with http:// or https://")
	case parsed.User != nil:
		return errors.New("must hold no user name or password: the service verifies the signature")
	case parsed.Hostname() == "" || parsed.Opaque != "":
		return errors.New("must name a host")
	case strings.Contains(raw, "#"):
		return errors.New("must have no fragment")
	}
	if port := parsed.Port(); port != "" {
		if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 {
			return errors.New("must have a port from 1 to 65535")
		}
	}
	return nil
}

// placeOf is the scheme, host, port and path of a URL, without anything else that it holds.
func placeOf(raw string) string {
	parsed, err := url.Parse(raw)
	if err != nil {
		return "" // CheckURL refuses it
	}
	return (&url.URL{Scheme: parsed.Scheme, Host: parsed.Host, Path: parsed.Path, RawPath: parsed.RawPath}).String()
}

// IsExposed tells whether calls leave this machine without a signature, so that the
// service can't recognise them.
func (c Config) IsExposed() bool {
	parsed, err := url.Parse(c.URL)
	if err != nil || len(c.Secrets) > 0 {
		return false
	}
	ip, err := netip.ParseAddr(parsed.Hostname())
	return parsed.Hostname() != "localhost" && (err != nil || !ip.Unmap().IsLoopback())
}

type upstream struct {
	config Config
	kept   *webhook.Rotating
}

const (
	maxHeader  = 32 << 10
	maxProblem = 16 << 10 // of an answer that isn't a result
	// keepIdle is less than servers keep an idle connection (gunicorn 2 s, Node.js and uvicorn 5
	// s). A call on a connection that the server just closes is a lost attempt, which a sync
	// caller sees. A longer time would save nothing: of n calls a second on a connection, a share
	// of e^-n opens a new connection.
	keepIdle = time.Second
)

// newTransport follows nothing, keeps no cookies and takes no proxy from the
// environment. A bare transport does none of that by itself.
func newTransport() *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:       nil,
		DialContext: (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
		Protocols:   protocols,
		TLSClientConfig: &tls.Config{
			MinVersion:         tls.VersionTLS12,
			NextProtos:         []string{"http/1.1"}, // some proxies pick the service by it
			ClientSessionCache: tls.NewLRUClientSessionCache(64),
		},
		TLSHandshakeTimeout:    3 * time.Second,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
		MaxIdleConnsPerHost:    math.MaxInt, // no more are idle than attempts were under way a moment before
		IdleConnTimeout:        keepIdle,
	}
}

// do makes an attempt. It never sends twice: the job tries again.
func (u *upstream) do(ctx context.Context, call work.Call) (jsontext.Value, error) {
	request, err := u.newRequest(ctx, call)
	if err != nil {
		return nil, err
	}
	response, err := u.kept.Transport().RoundTrip(request)
	if err != nil {
		return nil, explain(ctx, err)
	}
	defer response.Body.Close()
	body, err := readBody(response)
	if err != nil && isResult(response.StatusCode) {
		return nil, explain(ctx, err)
	}
	return judge(answer{response.StatusCode, response.Header, body}, u.config.RetryOn, time.Now())
}

func isResult(status int) bool { return status == http.StatusOK || status == http.StatusCreated }

// readBody reads the used part of an answer's body. An answer without a result is judged
// by its status alone.
func readBody(response *http.Response) ([]byte, error) {
	most := int64(maxProblem)
	switch {
	case isResult(response.StatusCode):
		most = work.MaxResultBytes + 1
	case response.StatusCode == http.StatusSwitchingProtocols: // that is the connection, which knows no deadline
		return nil, nil
	}
	body := bytes.NewBuffer(make([]byte, 0, min(most, max(response.ContentLength, 0))+bytes.MinRead))
	_, err := body.ReadFrom(io.LimitReader(response.Body, most))
	return body.Bytes(), err
}

func (u *upstream) newRequest(ctx context.Context, call work.Call) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, u.config.URL, bytes.NewReader(call.Input))
	if err != nil {
		return nil, err
	}
	request.GetBody = nil // with it, net/http sends again by itself
	now := time.Now()
	id, timestamp := "work_"+call.RequestID, strconv.FormatInt(now.Unix(), 10)
	header := map[string]string{
		"Content-Type": "application/json", "Accept": "application/json, application/problem+json",
		"User-Agent": u.config.Identity, "Cdn-Loop": webhook.LoopID,
		"Idempotency-Key": call.RequestID, "Ringback-Attempt": strconv.Itoa(call.Attempt),
		"Ringback-Mode": call.Mode, "Ringback-Client": call.Client,
		"Webhook-Id": id, "Webhook-Timestamp": timestamp,
	}
	if deadline, limited := ctx.Deadline(); limited {
		header["Request-Timeout"] = strconv.FormatInt(max(1, deadline.Sub(now).Milliseconds()), 10)
	}
	if call.FinishURL != "" {
		header["Ringback-Finish"] = call.FinishURL
	}
	if call.Traceparent != "" && httpguts.ValidHeaderFieldValue(call.Traceparent) { // else net/http sends nothing, and the service seems to fail
		header["Traceparent"] = call.Traceparent
	}
	if len(u.config.Secrets) > 0 {
		header["Webhook-Signature"] = webhook.Sign(u.config.Secrets, id, timestamp, call.Input)
	}
	for name, value := range header {
		request.Header.Set(name, value)
	}
	return request, nil
}

// explain returns the meaning of a missing or partial answer: the work was not done, as
// far as can be known. Texts of net/http can hold bytes of the answer, so they aren't
// kept.
func explain(ctx context.Context, err error) error {
	timed, ok := errors.AsType[net.Error](err)
	dial, dialled := errors.AsType[*net.OpError](err) // of which nothing was sent
	dialled = dialled && dial.Op == "dial"
	told := &work.Error{Code: CodeUnreachable, Message: "The service that does the work gave no valid answer."}
	if dialled {
		told.Message = "The service that does the work can't be reached."
	}
	if ctx.Err() != nil || ok && timed.Timeout() && !dialled {
		told = &work.Error{Code: work.CodeDeadline, Message: "The work did not end before its deadline."}
	}
	explained := work.Retry(&detailed{told, webhook.ErrorCause(err)}, 0)
	if dialled {
		return &work.UnreachedError{Err: explained}
	}
	return explained
}
