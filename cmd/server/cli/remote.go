package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"
)

// remote is the server that a command calls.
type remote struct {
	Program
	address, key string // flags

	client http.Client
	date   time.Time // of the latest answer, by the server's clock
}

const localAddress = "http://127.0.0.1:8080"

func newRemote(p Program) *remote {
	return &remote{Program: p, client: http.Client{CheckRedirect: asItIs}}
}

// asItIs follows no redirect: a POST would come out of it as a GET.
func asItIs(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// flags name the server, in all commands below the given command.
func (r *remote) flags(command *cobra.Command) {
	flags := command.PersistentFlags()
	flags.SortFlags = false
	flags.Func("url", "`URL` of the server (RINGBACK_URL, otherwise "+localAddress+")", func(text string) error {
		r.address = text
		_, err := baseOf(text)
		return err
	})
	// Not in its default: the help would print it.
	flags.Var(given(&r.key), "key", "API `key` (RINGBACK_API_KEY, which other users of the machine can't see)")
}

func baseOf(text string) (*url.URL, error) {
	base, ok := webURL(text)
	if !ok || base.RawQuery != "" {
		return nil, errors.New("must be a URL such as https://ringback.example.com")
	}
	return base, nil
}

func (r *remote) base() (*url.URL, error) {
	base, err := baseOf(cmp.Or(r.address, r.Environ["RINGBACK_URL"], localAddress))
	if err != nil {
		return nil, fmt.Errorf("RINGBACK_URL %w", err)
	}
	return base, nil
}

// call is a call of the API.
type call struct {
	method string // GET where there is none
	path   string
	query  url.Values
	body   any           // sent as JSON
	wait   time.Duration // preferred
}

// answerTime bounds a call beyond the wait that it prefers.
const answerTime = 30 * time.Second

// maxAnswer is more than any answer of the API has: a page of a hundred requests.
const maxAnswer = 16 << 20 // bytes

// do makes a call and decodes the answer. A call that the server refuses is a *refusal.
func (r *remote) do(whole context.Context, c call, answer any) error {
	ctx, cancel := context.WithTimeout(whole, c.wait+answerTime)
	defer cancel()
	request, err := r.request(ctx, c)
	if err != nil {
		return err
	}
	response, err := r.client.Do(request)
	if whole.Err() != nil { // the command was told to end
		return whole.Err()
	}
	if err != nil {
		return &unreachableError{request.URL.Host, cause(err)}
	}
	defer response.Body.Close()
	r.date, _ = http.ParseTime(response.Header.Get("Date"))
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return &unreachableError{request.URL.Host, cause(err)}
	}
	if response.StatusCode/100 != 2 {
		return refusalOf(response, body)
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return fmt.Errorf("%s doesn't answer as Ringback does: %w", request.URL.Host, err)
	}
	return nil
}

func (r *remote) request(ctx context.Context, c call) (*http.Request, error) {
	base, err := r.base()
	if err != nil {
		return nil, err
	}
	address := base.JoinPath(c.path)
	address.RawQuery = c.query.Encode()
	var body io.Reader
	if c.body != nil {
		encoded, err := json.Marshal(c.body)
		if err != nil {
			return nil, fmt.Errorf("encoding the call: %w", err)
		}
		body = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, cmp.Or(c.method, http.MethodGet), address.String(), body)
	if err != nil {
		return nil, fmt.Errorf("calling %s: %w", address.Host, err)
	}
	if c.body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if key := cmp.Or(r.key, r.Environ["RINGBACK_API_KEY"]); key != "" {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	if c.wait > 0 {
		request.Header.Set("Prefer", "wait="+strconv.Itoa(int(c.wait/time.Second)))
	}
	request.Header.Set("User-Agent", "ringback/"+r.Version)
	return request, nil
}

// cause is an error of net/http without the URL, which stands before it.
func cause(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// unreachableError says that there was no answer.
type unreachableError struct {
	host string
	err  error
}

func (e *unreachableError) Error() string {
	return fmt.Sprintf("no answer from %s (RINGBACK_URL or --url): %v", e.host, e.err)
}

func (e *unreachableError) Unwrap() error { return e.err }

// refusal is a problem (RFC 9457) that the server answered.
type refusal struct {
	status     int
	name       string // the last word of its type; empty where the answer is no problem
	detail     string
	retryAfter time.Duration
}

func refusalOf(response *http.Response, body []byte) *refusal {
	r := &refusal{status: response.StatusCode}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds > 0 {
		r.retryAfter = time.Duration(seconds) * time.Second
	}
	var problem struct {
		Type   jsontext.Value `json:"type"`
		Title  jsontext.Value `json:"title"`
		Detail jsontext.Value `json:"detail"`
	}
	if !strings.HasPrefix(response.Header.Get("Content-Type"), "application/problem+json") || json.Unmarshal(body, &problem) != nil {
		return r
	}
	kind := textOf(problem.Type)
	r.name = printable(kind[strings.LastIndex(kind, "/")+1:])
	r.detail = strings.TrimRight(printable(cmp.Or(textOf(problem.Detail), textOf(problem.Title))), ".")
	return r
}

// textOf is a string in JSON, and empty for everything else.
func textOf(value jsontext.Value) (text string) {
	if value.Kind() == '"' {
		_ = json.Unmarshal(value, &text) // it is a string
	}
	return text
}

// Error is one sentence.
func (r *refusal) Error() string {
	later := ""
	if r.retryAfter > 0 {
		later = fmt.Sprintf(", retry after %s", r.retryAfter)
	}
	if r.detail == "" {
		return fmt.Sprintf("the server gave no reason (%d %s%s)", r.status, http.StatusText(r.status), later)
	}
	told := fmt.Sprintf("%s (%d %s%s)", r.detail, r.status, r.name, later)
	if r.status == http.StatusUnauthorized {
		told += ": RINGBACK_API_KEY or --key gives the key"
	}
	return told
}

// isTemporary tells whether the same call may succeed later.
func isTemporary(err error) bool {
	var refused *refusal
	if errors.As(err, &refused) {
		return refused.status == http.StatusTooManyRequests || refused.status >= 500 && refused.status != http.StatusNotImplemented
	}
	var unreachable *unreachableError
	return errors.As(err, &unreachable)
}

// isGone tells whether there is no such request any more.
func isGone(err error) bool {
	var refused *refusal
	return errors.As(err, &refused) && refused.status == http.StatusNotFound
}

// The shortest and the longest wait after a call that failed.
const (
	firstPause = time.Second
	lastPause  = 30 * time.Second
)

// patience repeats calls that failed for a time, and tells so once. It is silent where it calls
// too often: to wait is all there is to do.
type patience struct {
	*remote
	out   io.Writer
	known bool // a call has succeeded: the address and the key are right
}

// do is remote.do, which goes on until ctx ends.
func (p *patience) do(ctx context.Context, c call, answer any) error {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := p.remote.do(ctx, c, answer)
		if err == nil {
			p.known = true
			return nil
		}
		if !p.known || ctx.Err() != nil || !isTemporary(err) {
			return err
		}
		var refused *refusal
		isRefused := errors.As(err, &refused)
		if pause == firstPause && !(isRefused && refused.status == http.StatusTooManyRequests) {
			fmt.Fprintf(p.out, "ringback: %v; trying again\n", err)
		}
		if isRefused {
			pause = max(pause, refused.retryAfter)
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
