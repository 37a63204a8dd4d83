package upstream

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"ringback/work"
)

func TestOperatorsSeeWhyAnAnswerFails(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status     int
		body, want string
	}{
		{500, "Traceback: no such file", `"Traceback: no such file"`},
		{500, "", "an empty body"},
		{200, `{"words": NaN}`, "NaN"},
		{200, `{"a":1,"a":2}`, "duplicate"},
		{404, strings.Repeat("x", 10_000), "xxx"},
	} {
		_, err := judge(answer{test.status, http.Header{}, []byte(test.body)}, nil, time.Time{})
		var told *work.Error
		if !errors.As(err, &told) || told.Code != CodeFailed || strings.Contains(told.Message, test.want) {
			t.Errorf("%d %.40s: got %+v, want callers not told", test.status, test.body, told)
		}
		if text := err.Error(); !strings.Contains(text, test.want) || len(text) > 1000 {
			t.Errorf("%d %.40s: got %.1000s, want it to name %s", test.status, test.body, text, test.want)
		}
	}
}

func TestAnswersThatTheOperatorMustActOn(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]string{
		401: "secret", 403: "secret", 404: "path", 405: "POST", 407: "proxy",
		402: "", 409: "", 418: "", 500: "", 301: "", 400: "", 503: "",
	} {
		_, err := judge(answer{status, http.Header{}, nil}, nil, time.Time{})
		var mistake *work.SettingError
		if errors.As(err, &mistake) != (want != "") {
			t.Errorf("%d: got %v, want a remedy: %v", status, err, want != "")
		} else if want != "" && (mistake.Status != status || !strings.Contains(mistake.Remedy, want)) {
			t.Errorf("%d: got %+v, want a remedy with %q", status, mistake, want)
		}
	}
}

// Callers are told nothing of an answer that is no problem, and operators its beginning.
func TestRefusalsWithoutAProblemAreQuotedToOperators(t *testing.T) {
	t.Parallel()
	_, err := judge(answer{400, http.Header{"Content-Type": {"text/plain"}}, []byte("no such colour")}, nil, time.Time{})
	var told *work.Error
	if !errors.As(err, &told) || told.Code != work.CodeRefused || strings.Contains(told.Message, "colour") || !strings.Contains(err.Error(), "no such colour") {
		t.Errorf("got %v, of which callers are told %v, want the answer's text for operators alone", err, told)
	}
}

func TestReason(t *testing.T) {
	t.Parallel()
	problem := http.Header{"Content-Type": {"application/problem+json"}}
	for body, want := range map[string]string{
		`{"title":"Text is bad","detail":"It is in Klingon."}`:  "Text is bad: It is in Klingon.",
		`{"title":"Text is bad.","detail":"It is in Klingon."}`: "Text is bad. It is in Klingon.",
		`{"title":"Text is bad"}`:                               "Text is bad",
		`{"detail":"It is in Klingon."}`:                        "It is in Klingon.",
		`{}`:                                                    "The work refuses this input: it answered 422.",
	} {
		var told *work.Error
		if err := (answer{422, problem, []byte(body)}).refusal(); !errors.As(err, &told) || told.Message != want {
			t.Errorf("%s: got %v, want %q", body, err, want)
		}
	}
}
