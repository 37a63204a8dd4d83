package upstream

import (
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"ringback/jobs/webhook"
	"ringback/work"
)

// Codes of failed calls of an upstream, besides the codes of work.
const (
	CodeBusy        = "upstream_busy"        // it says that it can't now
	CodeUnreachable = "upstream_unreachable" // no answer, or a broken answer
	CodeFailed      = "upstream_failed"      // any other answer than it should give
)

// answer is an upstream's answer.
type answer struct {
	status int
	header http.Header
	body   []byte // cut to a byte more than a result may have
}

// detailed is an error that callers are told, with a detail for operators.
type detailed struct {
	told   *work.Error
	detail string
}

func (d *detailed) Error() string { return strings.TrimSuffix(d.told.Error(), ".") + ": " + d.detail }
func (d *detailed) Unwrap() error { return d.told }

// judge returns the meaning of an answer. README.md has the table.
func judge(a answer, retryOn []int, now time.Time) (jsontext.Value, error) {
	switch a.status {
	case http.StatusOK, http.StatusCreated:
		return a.result()
	case http.StatusAccepted:
		return nil, work.ErrElsewhere
	case http.StatusNoContent:
		return jsontext.Value("null"), nil
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return nil, a.refusal()
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return nil, a.notDone(now)
	}
	if slices.Contains(retryOn, a.status) {
		return nil, a.notDone(now)
	}
	failed := &work.Error{Code: CodeFailed, Message: fmt.Sprintf("The service that does the work answered %d.", a.status)}
	var err error = &detailed{failed, a.excerpt()}
	if remedy := remedyOf(a.status); remedy != "" {
		err = &work.SettingError{Status: a.status, Remedy: remedy, Err: err}
	}
	return nil, err
}

// remedyOf is what the operator may do about an answer that no input explains, empty for
// other answers.
func remedyOf(status int) string {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return "the service refuses the caller: give it and WORK_SECRET, or the secret in WORKS, the same secret, and compare the clocks"
	case http.StatusNotFound:
		return "the service has nothing at this path: correct the path of the URL in WORK_URL or WORKS"
	case http.StatusMethodNotAllowed:
		return "the service takes no POST at this path: correct the path of the URL in WORK_URL or WORKS, or let the service take POST"
	case http.StatusProxyAuthRequired:
		return "a proxy answers in place of the service: let WORK_URL or WORKS name the service itself"
	}
	return ""
}

func (a answer) result() (jsontext.Value, error) {
	result := jsontext.Value(a.body)
	if len(result) > work.MaxResultBytes /* any length: the rest was not read */ || result.IsValid() {
		return result, nil // the frame refuses what is too large
	}
	failed := &work.Error{Code: CodeFailed, Message: "The service that does the work answered with something other than one JSON value."}
	return nil, &detailed{failed, fmt.Sprintf("%v: %s", json.Unmarshal(a.body, &result), a.excerpt())}
}

// maxExcerpt bounds the bytes of an answer that operators see in the log.
const maxExcerpt = 300

// excerpt is the beginning of the body, for operators.
func (a answer) excerpt() string {
	if len(a.body) == 0 {
		return "an empty body"
	}
	return fmt.Sprintf("%.*q", maxExcerpt, a.body)
}

// notDone obeys a Retry-After.
func (a answer) notDone(now time.Time) error {
	after, _ := webhook.RetryAfter(a.header, now)
	return work.Retry(&work.Error{
		Code: CodeBusy, Message: fmt.Sprintf("The service that does the work can't do it now: it answered %d.", a.status),
	}, after)
}

// refusal tells callers the title and detail of a problem (RFC 9457), and operators the
// beginning of any other answer.
func (a answer) refusal() error {
	var problem struct {
		Title  string `json:"title"`
		Detail string `json:"detail"`
	}
	media, _, _ := mime.ParseMediaType(a.header.Get("Content-Type"))
	if media != "application/problem+json" || json.Unmarshal(a.body, &problem) != nil || problem.Title+problem.Detail == "" {
		refused := &work.Error{Code: work.CodeRefused, Message: fmt.Sprintf("The work refuses this input: it answered %d.", a.status)}
		return &detailed{refused, a.excerpt()}
	}
	title, detail := strings.TrimSpace(problem.Title), strings.TrimSpace(problem.Detail)
	if title != "" && detail != "" && !strings.ContainsAny(title[len(title)-1:], ".:!?") {
		title += ":"
	}
	return &work.Error{Code: work.CodeRefused, Message: strings.TrimSpace(title + " " + detail)}
}
