package api_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"ringback/api"
	"ringback/internal/bubble"
	"ringback/jobs"
	"ringback/work/fingerprint"
)

// The sentences name the field, and are no texts of Go's libraries.
func TestMalformedBodiesAreToldInSentences(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	for _, test := range []struct{ name, body, sentence, detail string }{
		{"FieldTwice", `{"input":{"text":"a","text":"b"}}`, `The field "text" stands twice.`, "stands twice"},
		{"CutOff", `{"input":{"text":"a"`, "The body ends before its JSON does.", "ends too early"},
		{"NoValue", " ", "The body ends before its JSON does.", "ends too early"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := s.call(t, "POST", "/sync", test.body)
			told := decode[problem](t, got, http.StatusBadRequest)
			if told.Detail != test.sentence || len(told.Errors) != 1 || told.Errors[0].Detail != test.detail {
				t.Errorf("%s: got %s, want %q and %q", test.body, got.body, test.sentence, test.detail)
			}
		})
	}
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	input := func(fields string) string { return `{"input":{` + fields + `}CALLBACK}` }
	long := strings.Repeat("x", 64<<10+1)
	const malformed, invalid = "malformed-json", "invalid-input"
	for _, test := range []struct {
		name    string
		body    string // CALLBACK stands for the callback URL of an async call
		status  int
		problem string
		fields  []string
		header  []string
	}{
		{name: "EmptyBody", body: "", status: 400, problem: malformed},
		{name: "NotJSON", body: "text=a", status: 400, problem: malformed, fields: []string{"#"}},
		{name: "CutOff", body: `{"input":{"text":"a"`, status: 400, problem: malformed, fields: []string{"#/input"}},
		{name: "TrailingData", body: input(`"text":"a"`) + `{}`, status: 400, problem: malformed, fields: []string{"#"}},
		{name: "DuplicateField", body: `{"input":{"text":"a"},"input":{"text":"b"}CALLBACK}`, status: 400, problem: malformed, fields: []string{"#/input"}},
		{name: "DuplicateFieldBelow", body: input(`"text":"a","text":"b"`), status: 400, problem: malformed, fields: []string{"#/input/text"}},
		{name: "LoneSurrogate", body: input(`"text":"\ud800"`), status: 400, problem: malformed, fields: []string{"#/input/text"}},
		{name: "InvalidUTF8", body: input("\"text\":\"\xff\""), status: 400, problem: malformed, fields: []string{"#/input/text"}},
		{name: "NotAnObject", body: `[]`, status: 422, problem: invalid, fields: []string{"#"}},
		{name: "BeginsAsNull", body: `nonsense`, status: 400, problem: malformed, fields: []string{"#"}},
		{name: "BeginsAsNullBelow", body: `{"input":{"text":nope}CALLBACK}`, status: 400, problem: malformed, fields: []string{"#/input/text"}},
		{name: "Null", body: `null`, status: 422, problem: invalid, fields: []string{"#"}},
		{name: "MissingInput", body: `{}`, status: 422, problem: invalid, fields: []string{"#/input"}},
		{name: "InputNotAnObject", body: `{"input":5CALLBACK}`, status: 422, problem: invalid, fields: []string{"#/input"}},
		{name: "InputNull", body: `{"input":nullCALLBACK}`, status: 422, problem: invalid, fields: []string{"#/input"}},
		{name: "ManyMistakes", body: input(`"rounds":-1,"colour":1`), status: 422, problem: invalid, fields: []string{"#/input/colour", "#/input/rounds", "#/input/text"}},
		{name: "UnknownField", body: `{"input":{"text":"a"},"inputs":1CALLBACK}`, status: 422, problem: invalid, fields: []string{"#/inputs"}},
		{name: "OtherLetterCase", body: `{"Input":{"text":"a"}CALLBACK}`, status: 422, problem: invalid, fields: []string{"#/Input"}},
		{name: "UnknownFieldBelow", body: input(`"text":"a","a/b":1`), status: 422, problem: invalid, fields: []string{"#/input/a~1b"}},
		{name: "MissingText", body: input(``), status: 422, problem: invalid, fields: []string{"#/input/text"}},
		{name: "EmptyText", body: input(`"text":""`), status: 422, problem: invalid, fields: []string{"#/input/text"}},
		{name: "TextNotAString", body: input(`"text":7`), status: 422, problem: invalid, fields: []string{"#/input/text"}},
		{name: "TextTooLong", body: input(`"text":"` + long + `"`), status: 422, problem: invalid, fields: []string{"#/input/text"}},
		{name: "NUL", body: input(`"text":"a\u0000"`), status: 422, problem: invalid, fields: []string{"#/input/text"}},
		{name: "RoundsNotANumber", body: input(`"text":"a","rounds":"1"`), status: 422, problem: invalid, fields: []string{"#/input/rounds"}},
		{name: "RoundsNotWhole", body: input(`"text":"a","rounds":1.5`), status: 422, problem: invalid, fields: []string{"#/input/rounds"}},
		{name: "RoundsNegative", body: input(`"text":"a","rounds":-1`), status: 422, problem: invalid, fields: []string{"#/input/rounds"}},
		{name: "RoundsTooMany", body: input(`"text":"a","rounds":1000001`), status: 422, problem: invalid, fields: []string{"#/input/rounds"}},
		{name: "RoundsBeyondInt64", body: input(`"text":"a","rounds":99999999999999999999`), status: 422, problem: invalid, fields: []string{"#/input/rounds"}},
		{name: "HugeExponent", body: input(`"text":"a","rounds":1e999999999`), status: 422, problem: invalid, fields: []string{"#/input/rounds"}},
		{name: "DelayNegative", body: input(`"text":"a","delay_ms":-1`), status: 422, problem: invalid, fields: []string{"#/input/delay_ms"}},
		{name: "DelayTooLong", body: input(`"text":"a","delay_ms":30001`), status: 422, problem: invalid, fields: []string{"#/input/delay_ms"}},
		{name: "BodyTooLarge", body: input(`"text":"a"`) + strings.Repeat(" ", 256<<10), status: 413, problem: "body-too-large"},
		{name: "NoContentType", body: input(`"text":"a"`), header: []string{"Content-Type", ""}, status: 415, problem: "unsupported-media-type"},
		{name: "FormContentType", body: input(`"text":"a"`), header: []string{"Content-Type", "application/x-www-form-urlencoded"}, status: 415, problem: "unsupported-media-type"},
		{name: "OtherCharset", body: input(`"text":"a"`), header: []string{"Content-Type", "application/json; charset=latin1"}, status: 415, problem: "unsupported-media-type"},
		{name: "Gzip", body: input(`"text":"a"`), header: []string{"Content-Encoding", "gzip"}, status: 415, problem: "unsupported-media-type"},
	} {
		for path, callback := range map[string]string{"/sync": "", "/async": `,"callback_url":"` + hook + `"`} {
			t.Run(test.name+path, func(t *testing.T) {
				body := strings.Replace(test.body, "CALLBACK", callback, 1)
				s.wantProblem(t, s.call(t, "POST", path, body, test.header...), test.status, test.problem, test.fields...)
				if got := s.stored(t); got != 0 {
					t.Fatalf("%s with %.200s stored %d rows, want none", path, body, got)
				}
			})
		}
	}

	for name, test := range map[string]struct{ callback, problem string }{
		"Missing":         {``, invalid},
		"Empty":           {`,"callback_url":""`, invalid},
		"EmptyBesideIt":   {`,"callback_url":"","callback":{"url":"` + hook + `"}`, invalid},
		"NotAString":      {`,"callback_url":5`, invalid},
		"NotHTTPS":        {`,"callback_url":"http://hooks.example.com/"`, "invalid-callback-url"},
		"Loopback":        {`,"callback_url":"https://127.0.0.1/"`, "invalid-callback-url"},
		"WithAPassword":   {`,"callback_url":"https://u:hunter2@hooks.example.com/"`, "invalid-callback-url"},
		"WithAnotherPort": {`,"callback_url":"https://hooks.example.com:22/"`, "invalid-callback-url"},
	} {
		t.Run("CallbackURL/"+name, func(t *testing.T) {
			answer := s.call(t, "POST", "/async", `{"input":{"text":"a"}`+test.callback+`}`)
			s.wantProblem(t, answer, 422, test.problem, "#/callback_url")
			if strings.Contains(string(answer.body), "hunter2") {
				t.Errorf("the password is told: %s", answer.body)
			}
			if got := s.stored(t); got != 0 {
				t.Fatalf("%s stored %d rows, want none", test.callback, got)
			}
		})
	}

	t.Run("SyncTakesNoCallbackURL", func(t *testing.T) {
		s.wantProblem(t, s.call(t, "POST", "/sync", asyncBody), 422, invalid, "#/callback_url")
	})
}

func TestInputAtItsLimitIsTaken(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	text := strings.Repeat(`\u0078`, 40<<10) // 240 KiB of body, 40 KiB of text
	for _, body := range []string{
		`{"input":{"text":"` + text + `"}}`,
		`{"input":{"text":"` + strings.Repeat("x", 64<<10) + `","delay_ms":0,"rounds":1}}`,
		`{"input":{"text":"a"}}` + strings.Repeat(" ", 256<<10-len(`{"input":{"text":"a"}}`)),
	} {
		if got := s.call(t, "POST", "/sync", body, "Content-Type", "Application/JSON; charset=UTF-8"); got.status != http.StatusOK {
			t.Errorf("%.40s… of %d bytes: got %d with %s, want 200", body, len(body), got.status, got.body)
		}
	}
}

// In a bubble, whose clock jumps to the deadline.
func TestSlowBodyIsA408(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		client, end := net.Pipe()
		listener := &pipeListener{conns: make(chan net.Conn, 1)}
		listener.conns <- end
		config := api.Config{Queue: &jobs.Queue{}, Catalog: catalogOf(t, fingerprint.Work), LocalClient: "local", SyncLimit: 1, Logger: discard}
		server := &http.Server{Handler: api.New(config)}
		go func() { _ = server.Serve(listener) }()
		start := time.Now()
		transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return client, nil }, DisableKeepAlives: true}
		slow, body := net.Pipe() // nothing is ever written to it
		defer body.Close()
		request, err := http.NewRequestWithContext(t.Context(), "POST", "http://pipe/sync", slow)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		response, err := transport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if took := time.Since(start); response.StatusCode != http.StatusRequestTimeout || took != 10*time.Second {
			t.Errorf("got %d after %v, want 408 after 10s", response.StatusCode, took)
		}
		slow.Close()
		close(listener.conns)
		_ = server.Close()
	})
}

// pipeListener accepts the connections that it is given.
type pipeListener struct{ conns chan net.Conn }

func (l *pipeListener) Accept() (net.Conn, error) {
	conn, ok := <-l.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (l *pipeListener) Close() error { return nil }

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// A field that should stand once may not stand twice: proxies and services in front would
// take the one, and Ringback the other.
func TestFieldsOfTheHeadThatStandTwice(t *testing.T) {
	t.Parallel()
	s := newService(t, keyed(map[string]string{"a-key": "alice"}))
	for name, test := range map[string]struct {
		field  string
		values []string
		want   int
	}{
		"Types":          {"Content-Type", []string{"application/json", "text/plain"}, http.StatusUnsupportedMediaType},
		"Encodings":      {"Content-Encoding", []string{"identity", "gzip"}, http.StatusUnsupportedMediaType},
		"Keys":           {"Authorization", []string{"Bearer a-key", "Bearer b-key"}, http.StatusUnauthorized},
		"IdentityAtOnce": {"Content-Encoding", []string{"Identity"}, http.StatusOK},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			call, err := http.NewRequestWithContext(t.Context(), "POST", s.url+"/sync", strings.NewReader(`{"input":{"text":"a"}}`))
			if err != nil {
				t.Fatal(err)
			}
			call.Header = http.Header{"Content-Type": {"application/json"}, "Authorization": {"Bearer a-key"}}
			call.Header[test.field] = test.values
			got, err := http.DefaultClient.Do(call)
			if err != nil {
				t.Fatal(err)
			}
			defer got.Body.Close()
			if got.StatusCode != test.want {
				t.Errorf("%s %q: got %d, want %d", test.field, test.values, got.StatusCode, test.want)
			}
		})
	}
}

// The sentence names a field that could not be told from it otherwise, and says what to write.
func TestMistakesNameTheField(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	for _, test := range []struct{ method, path, body, detail string }{
		{"POST", "/redeliveries", `{"dry_run ":true}`, `"dry_run " is not a known field.`},
		{"POST", "/redeliveries", `{"filter":{"":1}}`, `filter."" is not a known field.`},
		{"POST", "/redeliveries", `{"a/b":1}`, `"a/b" is not a known field.`},
		{"POST", "/redeliveries", `{"größe":1}`, `größe is not a known field.`},
		{"POST", "/redeliveries", `{"rate":99999999999999999999}`, `rate must be a number of fewer digits.`},
		{"POST", "/redeliveries", `{"rate":-99999999999999999999}`, `rate must be a number of fewer digits.`},
		{"POST", "/redeliveries", `{"rate":1e1}`, `rate must be a whole number, without a fraction or an exponent.`},
		{"GET", "/requests?=1", "", `"" is not a known parameter.`},
		{"GET", "/requests?mode%20=sync", "", `"mode " is not a known parameter.`},
	} {
		var got problem
		answer := s.call(t, test.method, test.path, test.body)
		if err := json.Unmarshal(answer.body, &got); err != nil || got.Detail != test.detail {
			t.Errorf("%s %s with %s: got %q (%v), want %q", test.method, test.path, test.body, got.Detail, err, test.detail)
		}
	}
}
