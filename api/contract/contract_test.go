package contract

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// noting is a test that notes its errors.
type noting struct {
	testing.TB
	told []string
}

func (n *noting) Errorf(format string, args ...any) {
	n.told = append(n.told, fmt.Sprintf(format, args...))
}

const accepted = `{"id":"01a20bd7-2978-722f-bf9b-7fdc9ae0399b","status":"accepted","accepted_at":"2026-11-24T04:36:19.960144Z"}`

// body is the body of a call to which accepted is an answer.
const body = `{"input":{"text":"a"},"callback_url":"https://hooks.example.com/"}`

func TestCheckAnswer(t *testing.T) {
	t.Parallel()
	problem := func(name, title string, status int) string {
		return fmt.Sprintf(`{"type":"/problems/%s","title":%q,"status":%d,"detail":"d"}`, name, title, status)
	}
	const noRoute = "There is nothing at this address."
	for name, test := range map[string]struct {
		method, path, call string
		status             int
		answer             string
		header             string // an unusual header
		want               string // a part of the message, empty for none
	}{
		"AsItSays":              {"POST", "/async", body, 202, accepted, "", ""},
		"UnknownField":          {"POST", "/async", body, 202, strings.Replace(accepted, `{`, `{"more":1,`, 1), "", "more"},
		"MissingField":          {"POST", "/async", body, 202, strings.Replace(accepted, `"status":"accepted",`, "", 1), "", "status"},
		"WrongFormat":           {"POST", "/async", body, 202, strings.Replace(accepted, `01a20bd7-`, "", 1), "", "uuid"},
		"UnknownStatus":         {"POST", "/async", body, 201, accepted, "", "201"},
		"UnknownHeader":         {"POST", "/async", body, 202, accepted, "X-More", "X-More"},
		"CallThatShouldFail":    {"POST", "/async", `{"input":1}`, 202, accepted, "", "callback_url"},
		"Problem":               {"GET", "/requests/01a20bd7-2978-722f-bf9b-7fdc9ae0399b", "", 404, problem("not-found", noRoute, 404), "", ""},
		"ProblemOfAnotherCall":  {"GET", "/requests/01a20bd7-2978-722f-bf9b-7fdc9ae0399b", "", 404, problem("body-timeout", noRoute, 404), "", "body-timeout"},
		"ProblemOfAnotherTitle": {"GET", "/requests/01a20bd7-2978-722f-bf9b-7fdc9ae0399b", "", 404, problem("not-found", "T", 404), "", "title"},
		"NoAddress":             {"GET", "/nothing", "", 404, problem("not-found", noRoute, 404), "", ""},
		"UnlistedAddress":       {"GET", "/nothing", "", 200, `{}`, "", "lacks this address"},
		"UnlistedMethod":        {"PUT", "/sync", "", 200, `{}`, "", "lacks this address"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			call, err := http.NewRequestWithContext(t.Context(), test.method, "http://localhost"+test.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			call.Header.Set("Content-Type", "application/json")
			answer := &http.Response{
				StatusCode: test.status, Body: io.NopCloser(strings.NewReader(test.answer)),
				Header: http.Header{"Content-Type": {"application/json"}},
			}
			if test.status >= 400 {
				answer.Header.Set("Content-Type", "application/problem+json")
			}
			if test.header != "" {
				answer.Header.Set(test.header, "x")
			}
			noted := &noting{TB: t}
			Load(t).CheckAnswer(noted, call, []byte(test.call), answer)
			expect(t, noted.told, test.want)
			if read, err := io.ReadAll(answer.Body); err != nil || string(read) != test.answer {
				t.Errorf("body after the check: got %q, %v, want %q", read, err, test.answer)
			}
		})
	}
}

func expect(t *testing.T, told []string, want string) {
	t.Helper()
	if got := strings.Join(told, "\n"); (got == "") != (want == "") || !strings.Contains(got, want) {
		t.Errorf("told: got %q, want something of %q", got, want)
	}
}

func TestCheckCallback(t *testing.T) {
	t.Parallel()
	const whole = `{"type":"request.succeeded","timestamp":"2026-11-24T04:36:19Z","data":{"id":"01a20bd7-2978-722f-bf9b-7fdc9ae0399b",` +
		`"mode":"async","status":"succeeded","result":{"free":1},"callback_url":"https://hooks.example.com/","callback_state":"pending",` +
		`"accepted_at":"2026-11-24T04:36:19Z","finished_at":"2026-11-24T04:36:19Z"}}`
	for name, test := range map[string]struct {
		body, without, with, want string
	}{
		"AsItSays":      {whole, "", "", ""},
		"UnknownField":  {strings.Replace(whole, `"mode"`, `"more":1,"mode"`, 1), "", "", "more"},
		"UnknownType":   {strings.Replace(whole, "request.succeeded", "request.cancelled", 1), "", "", "type"},
		"NoSignature":   {whole, "Webhook-Signature", "", "signature"},
		"UnknownHeader": {whole, "", "X-More", "X-More"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			call, err := http.NewRequestWithContext(t.Context(), "POST", "http://localhost/hook", strings.NewReader(test.body))
			if err != nil {
				t.Fatal(err)
			}
			for header, value := range map[string]string{
				"Content-Type": "application/json", "Webhook-Id": "req_01a20bd7-2978-722f-bf9b-7fdc9ae0399b", "Webhook-Timestamp": "1614265330",
				"Webhook-Signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", "Webhook-Request-Origin": "ringback", "Cdn-Loop": "ringback",
			} {
				call.Header.Set(header, value)
			}
			call.Header.Del(test.without)
			if test.with != "" {
				call.Header.Set(test.with, "x")
			}
			noted := &noting{TB: t}
			Load(t).CheckCallback(noted, call, []byte(test.body))
			expect(t, noted.told, test.want)
		})
	}
}
