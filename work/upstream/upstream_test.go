package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"ringback/db/dbtest"
	"ringback/jobs/webhook"
	"ringback/work"
)

// serve starts a service.
func serve(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body) // or the end of the connection isn't seen
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		handler(w, r)
	}))
	t.Cleanup(server.Close)
	return server
}

// call makes an attempt.
func call(t *testing.T, config Config, limit time.Duration) work.Outcome {
	t.Helper()
	w := New(config)
	w.Timeout = limit
	outcome, err := work.Run(t.Context(), w, work.Call{
		Input: jsontext.Value(`{"a":1}`), RequestID: "r1", Attempt: 3, Mode: "async", Client: "acme",
		Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		FinishURL:   "http://ringback.example.com/work/t",
	})
	if err != nil {
		t.Fatal(err)
	}
	return outcome
}

func TestCallSaysWhatItIsFor(t *testing.T) {
	t.Parallel()
	old, fresh := webhook.NewSecret(), webhook.NewSecret()
	var secrets Secrets
	if err := secrets.UnmarshalText([]byte(fresh + "," + old)); err != nil {
		t.Fatal(err)
	}
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		for name, want := range map[string]string{
			"Idempotency-Key": "r1", "Ringback-Attempt": "3", "Ringback-Mode": "async", "Ringback-Client": "acme", "Cdn-Loop": "ringback", "Ringback-Finish": "http://ringback.example.com/work/t",
			"Content-Type": "application/json", "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Cookie": "",
		} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s: got %q, want %q", name, got, want)
			}
		}
		if left, err := strconv.Atoi(r.Header.Get("Request-Timeout")); err != nil || left < 1 || left > 60_000 {
			t.Errorf("Request-Timeout: got %q, want milliseconds up to a minute", r.Header.Get("Request-Timeout"))
		}
		if r.Method != http.MethodPost || r.URL.String() != "/do?x=1" || string(body) != `{"a":1}` {
			t.Errorf("got %s %s with %s, want the input POSTed to /do?x=1", r.Method, r.URL, body)
		}
		for _, secret := range []string{old, fresh} {
			verifier, err := standardwebhooks.NewWebhook(secret)
			if err != nil || verifier.Verify(body, r.Header) != nil {
				t.Errorf("the signature doesn't verify with one of the secrets (%v)", err)
			}
		}
		fmt.Fprint(w, `{"b": 2}`)
	})
	if got := call(t, Config{URL: server.URL + "/do?x=1", Secrets: secrets}, time.Minute); string(got.Result) != `{"b": 2}` {
		t.Errorf("got %+v, want the result", got)
	}
}

// The rows of README.md's table of answers, up to where they are unique.
const (
	rowDone      = "| 200, 201 with JSON; 204 | the result (`null` for 204) | 200 | succeeded |"
	rowRefused   = "| 400, 422 | it refuses this input; the title and detail of a problem+json are told | 422 | failed, `refused` |"
	rowBusy      = "| 408, 425, 429, 502, 503, 504 | not done | 503 | another attempt, no sooner than its `Retry-After` |"
	rowBroken    = "| refused, no connection in 3 s, reset, cut off | not done | 503 | another attempt |"
	rowSlow      = "| no answer in time | not done | 504 | another attempt |"
	rowRetried   = "| 500 with `\"retry_on\": [500]` | not done | 503 | another attempt |"
	rowElsewhere = "| 202 | it goes on, and is finished later | 202 with `Location` and `Retry-After` | goes on |"
	rowFailed    = "| anything else: other 4xx, 500, 3xx, not JSON | the work failed | 500 | failed, `upstream_failed` |"
	rowTooLarge  = "| more than a result may be | the work failed | 500 | failed, `result_too_large` |"
	refusingBody = `{"title": "No such page.", "detail": "Page 7 of 5."}`
)

func status(code int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		fmt.Fprint(w, body)
	}
}

func hijack(act func(io.WriteCloser)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		act(conn)
		conn.Close()
	}
}

// switchProtocols keeps the connection open until the other side closes it.
func switchProtocols(c io.WriteCloser) {
	fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	_, _ = io.Copy(io.Discard, c.(io.Reader))
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	again := func(after time.Duration) *work.Again { return &work.Again{After: after} }
	large := `"` + strings.Repeat("x", work.MaxResultBytes) + `"`
	tests := []struct {
		name    string
		row     string
		handler http.HandlerFunc
		result  string
		code    string
		message string // in the error's
		again   *work.Again
	}{
		{"200", rowDone, status(200, `[1]`), `[1]`, "", "", nil},
		{"201", rowDone, status(201, `null`), `null`, "", "", nil},
		{"204", rowDone, status(204, ``), `null`, "", "", nil},
		{"400", rowRefused, status(400, refusingBody, "Content-Type", "application/problem+json"), "", work.CodeRefused, "No such page. Page 7 of 5.", nil},
		{"422", rowRefused, status(422, refusingBody), "", work.CodeRefused, "it answered 422", nil},
		{"408", rowBusy, status(408, ``), "", CodeBusy, "408", again(0)},
		{"425", rowBusy, status(425, ``), "", CodeBusy, "425", again(0)},
		{"429", rowBusy, status(429, ``, "Retry-After", "7"), "", CodeBusy, "429", again(7 * time.Second)},
		{"502", rowBusy, status(502, ``), "", CodeBusy, "502", again(0)},
		{"503", rowBusy, status(503, ``, "Retry-After", "0"), "", CodeBusy, "503", again(time.Second)},
		{"504", rowBusy, status(504, ``, "Retry-After", "soon"), "", CodeBusy, "504", again(0)},
		{"Reset", rowBroken, hijack(func(io.WriteCloser) {}), "", CodeUnreachable, "", again(0)},
		{"CutOff", rowBroken, hijack(func(c io.WriteCloser) { fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"a\"") }), "", CodeUnreachable, "", again(0)},
		{"Garbage", rowBroken, hijack(func(c io.WriteCloser) { fmt.Fprint(c, "what?\r\n\r\n") }), "", CodeUnreachable, "", again(0)},
		{"HugeHead", rowBroken, status(200, `1`, "X", strings.Repeat("x", maxHeader+1)), "", CodeUnreachable, "", again(0)},
		{"500", rowFailed, status(500, ``), "", CodeFailed, "500", nil},
		{"403", rowFailed, status(403, ``), "", CodeFailed, "403", nil},
		{"302", rowFailed, status(302, ``, "Location", "/else"), "", CodeFailed, "302", nil},
		{"202", rowElsewhere, status(202, `{}`), "", "", "", nil},
		{"202ThatIsCutOff", rowElsewhere, hijack(func(c io.WriteCloser) { fmt.Fprint(c, "HTTP/1.1 202 Accepted\r\nContent-Length: 9\r\n\r\n{\"a\"") }), "", "", "", nil},
		{"202ElsewhereStill", rowElsewhere, status(202, ``, "Location", "http://169.254.169.254/latest/meta-data/"), "", "", "", nil},
		{"101", rowFailed, hijack(switchProtocols), "", CodeFailed, "101", nil},
		{"307ToMetadata", rowFailed, status(307, ``, "Location", "http://169.254.169.254/latest/meta-data/"), "", CodeFailed, "307", nil},
		{"Hints", rowDone, hijack(func(c io.WriteCloser) {
			fmt.Fprint(c, strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 10)+"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1")
		}), `1`, "", "", nil},
		{"HintsWithoutEnd", rowBroken, hijack(func(c io.WriteCloser) {
			for err := error(nil); err == nil; {
				_, err = fmt.Fprint(c, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
			}
		}), "", CodeUnreachable, "", again(0)},
		{"Trailers", rowDone, hijack(func(c io.WriteCloser) {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n1\r\n1\r\n0\r\nX: y\r\n\r\n")
		}), `1`, "", "", nil},
		{"TrailersWithoutEnd", rowBroken, hijack(func(c io.WriteCloser) {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n")
			for err := error(nil); err == nil; {
				_, err = fmt.Fprint(c, "X: y\r\n")
			}
		}), "", CodeUnreachable, "", again(0)},
		{"TwoAnswers", rowDone, hijack(func(c io.WriteCloser) {
			fmt.Fprint(c, strings.Repeat("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1", 2))
		}), `1`, "", "", nil},
		{"503UntilADate", rowBusy, status(503, ``, "Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT"), "", CodeBusy, "503", again(24 * time.Hour)},
		{"503UntilADateThatIsOver", rowBusy, status(503, ``, "Retry-After", "Fri, 31 Dec 1999 23:59:59 GMT"), "", CodeBusy, "503", again(time.Second)},
		{"503ForEver", rowBusy, status(503, ``, "Retry-After", "99999999999999999999999"), "", CodeBusy, "503", again(24 * time.Hour)},
		{"503ForLessThanNothing", rowBusy, status(503, ``, "Retry-After", "-5"), "", CodeBusy, "503", again(0)},
		{"503WithABodyThatIsCutOff", rowBusy, hijack(func(c io.WriteCloser) {
			fmt.Fprint(c, "HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 9\r\n\r\nno")
		}), "", CodeBusy, "503", again(7 * time.Second)},
		{"NoUTF8", rowFailed, status(200, "\"\xff\""), "", CodeFailed, "", nil},
		{"NoUTF8InATitle", rowRefused, status(422, "{\"title\":\"\xff\"}", "Content-Type", "application/problem+json"), "", work.CodeRefused, "it answered 422", nil},
		{"NULInATitle", rowRefused, status(422, `{"title":"a\u0000b"}`, "Content-Type", "application/problem+json"), "", work.CodeRefused, "ab", nil},
		{"TwiceTheSameName", rowFailed, status(200, `{"a":1,"a":2}`), "", CodeFailed, "", nil},
		{"NotJSON", rowFailed, status(200, `<p>`), "", CodeFailed, "", nil},
		{"Nothing", rowFailed, status(200, ``), "", CodeFailed, "", nil},
		{"TwoValues", rowFailed, status(200, `1 2`), "", CodeFailed, "", nil},
		{"TooLarge", rowTooLarge, status(200, large), "", "result_too_large", "", nil},
		{"FarTooLarge", rowTooLarge, status(200, strings.Repeat(large, 100)), "", "result_too_large", "", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var calls atomic.Int64
			server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				calls.Add(1)
				test.handler(w, r)
			})
			got := call(t, Config{URL: server.URL}, time.Minute)
			var code, message string
			if got.Error != nil {
				code, message = got.Error.Code, got.Error.Message
			}
			if string(got.Result) != test.result || code != test.code || !strings.Contains(message, test.message) {
				t.Errorf("got %s and %s: %s, want %s and %s: …%s…", got.Result, code, message, test.result, test.code, test.message)
			}
			if got.Cause != nil && strings.Contains(got.Cause.Error(), "what?") {
				t.Errorf("the cause is %q, which holds what the service sent", got.Cause)
			}
			if got.Elsewhere != (test.row == rowElsewhere) {
				t.Errorf("it goes on elsewhere: got %v", got.Elsewhere)
			}
			if (got.Again == nil) != (test.again == nil) || got.Again != nil && *got.Again != *test.again {
				t.Errorf("again: got %+v, want %+v", got.Again, test.again)
			}
			if calls.Load() != 1 {
				t.Errorf("got %d calls, want one: nothing is repeated or followed", calls.Load())
			}
			if !strings.Contains(string(readme), test.row+"\n") {
				t.Errorf("README.md doesn't hold %s", test.row)
			}
		})
	}

	t.Run("RetryOn500", func(t *testing.T) {
		t.Parallel()
		got := call(t, Config{URL: serve(t, status(500, ``)).URL, RetryOn: []int{500}}, time.Minute)
		if got.Again == nil || got.Error.Code != CodeBusy || !strings.Contains(string(readme), rowRetried+"\n") {
			t.Errorf("got %+v, want another attempt", got)
		}
	})

	t.Run("ConnectionRefused", func(t *testing.T) {
		t.Parallel()
		server := serve(t, status(200, `1`))
		server.Close()
		got := call(t, Config{URL: server.URL}, time.Minute)
		if got.Again == nil || got.Error.Code != CodeUnreachable {
			t.Errorf("got %+v, want another attempt", got)
		}
		if _, ok := errors.AsType[*work.UnreachedError](got.Cause); !ok {
			t.Errorf("got %v, want that it wasn't reached", got.Cause)
		}
		if cause, want := got.Cause.Error(), "upstream_unreachable: The service that does the work can't be reached: connection refused"; cause != want {
			t.Errorf("got cause %q, want %q", cause, want)
		}
	})

	t.Run("TooSlow", func(t *testing.T) {
		t.Parallel()
		for name, begin := range map[string]bool{"no head": false, "half a body": true} { // nothing is read for longer than the attempt may take
			server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if begin {
					fmt.Fprint(w, `{"a":`)
					_ = http.NewResponseController(w).Flush()
				}
				<-r.Context().Done()
			})
			limit := 100 * time.Millisecond
			got := call(t, Config{URL: server.URL}, limit)
			for got.Again != nil && got.Error.Code == CodeUnreachable && limit < dbtest.Patience { // a busy machine needs longer to connect
				limit *= 2
				got = call(t, Config{URL: server.URL}, limit)
			}
			if got.Again == nil || got.Error.Code != work.CodeDeadline || !strings.Contains(string(readme), rowSlow+"\n") {
				t.Errorf("%s: got %+v, want another attempt", name, got)
			}
		}
	})

	t.Run("NoConnectionInTime", func(t *testing.T) {
		t.Parallel()
		got := explain(t.Context(), &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded})
		_, unreached := errors.AsType[*work.UnreachedError](got)
		if told, ok := errors.AsType[*work.Error](got); !ok || told.Code != CodeUnreachable || !unreached {
			t.Errorf("got %v, want that it can't be reached: nothing was sent", got)
		}
	})

	t.Run("NobodyWaitsAnyMore", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		server := serve(t, func(_ http.ResponseWriter, r *http.Request) {
			cancel()
			<-r.Context().Done()
		})
		w := New(Config{URL: server.URL})
		w.Timeout = time.Minute
		if got, err := work.Run(ctx, w, work.Call{}); err == nil {
			t.Errorf("got %+v, want the context's error", got)
		}
	})
}

func TestProxiesOfTheEnvironmentAreNotUsed(t *testing.T) {
	if newTransport().Proxy != nil {
		t.Error("the transport has a proxy")
	}
}

func TestExposedAreServicesElsewhereThatCanNotTellWhoCalls(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]bool{
		"http://127.0.0.1:9000/": false, "http://[::1]/": false, "http://localhost/x": false, "http://[::ffff:127.0.0.1]/": false,
		"https://work.example.com/": true, "http://10.0.0.7:9000/": true, "http://[fd00::7]/": true, "http://localhost.example.com/": true,
	} {
		if got := (Config{URL: url}).IsExposed(); got != want {
			t.Errorf("%s: got %v, want %v", url, got, want)
		}
		if (Config{URL: url, Secrets: make([]webhook.Secret, 1)}).IsExposed() {
			t.Errorf("%s, signed: want it not to be exposed", url)
		}
	}
}

func TestServiceIsTheURLWithoutSecrets(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"http://127.0.0.1:9000/summarize?key=secret": "http://127.0.0.1:9000/summarize", "https://work.example.com/a%2Fb": "https://work.example.com/a%2Fb",
		"http://work.example.com": "http://work.example.com", "http://[::1]/": "http://[::1]/", "http://me:secret@work.example.com:8000/": "http://work.example.com:8000/",
	} {
		if got := New(Config{URL: url}).Service; got != want {
			t.Errorf("%s: got %q, want %q", url, got, want)
		}
	}
}

func TestServiceThatMovesIsFound(t *testing.T) {
	t.Parallel()
	var callers []string
	service := serve(t, func(w http.ResponseWriter, r *http.Request) {
		callers = append(callers, r.RemoteAddr)
		_, _ = io.WriteString(w, "{}")
	})
	u := &upstream{Config{URL: service.URL}, webhook.NewRotating(newTransport())}
	for range 2 {
		u.kept.Rotate()
		if _, err := u.do(t.Context(), work.Call{Input: jsontext.Value(`{}`)}); err != nil {
			t.Fatal(err)
		}
	}
	if callers[0] == callers[1] {
		t.Errorf("got both calls from %s, want the second on a new connection, to where the name leads now", callers[0])
	}
}

func TestServiceLearnsTheProtocolBeforeTheFirstByte(t *testing.T) {
	t.Parallel()
	var offered atomic.Value
	service := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }))
	service.TLS = &tls.Config{GetConfigForClient: func(client *tls.ClientHelloInfo) (*tls.Config, error) {
		offered.Store(client.SupportedProtos)
		return service.TLS, nil
	}}
	service.StartTLS()
	t.Cleanup(service.Close)
	transport := newTransport()
	transport.TLSClientConfig.RootCAs = x509.NewCertPool()
	transport.TLSClientConfig.RootCAs.AddCert(service.Certificate())
	u := &upstream{Config{URL: service.URL}, webhook.NewRotating(transport)}
	if _, err := u.do(t.Context(), work.Call{Input: jsontext.Value(`{}`)}); err != nil {
		t.Fatal(err)
	}
	if got, want := offered.Load(), []string{"http/1.1"}; !reflect.DeepEqual(got, want) {
		t.Errorf("offered protocols are %v, want %v", got, want)
	}
}

// A traceparent that somebody wrote by hand doesn't count against the service.
func TestCallWithoutATraceparentThatIsNone(t *testing.T) {
	t.Parallel()
	service := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") })
	u := &upstream{Config{URL: service.URL}, webhook.NewRotating(newTransport())}
	if _, err := u.do(t.Context(), work.Call{Input: jsontext.Value(`{}`), Traceparent: "x\ny"}); err != nil {
		t.Errorf("got %v, want the call to be made without it", err)
	}
}
