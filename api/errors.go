package api

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"ringback/db"
	"ringback/jobs/limit"
	"ringback/jobs/webhook"
	"ringback/work"
)

// problem is an error answer, RFC 9457. Its type is the address, below this
// service, at which GET explains it.
type problem struct {
	Type   string         `json:"type"` // "/problems/" + name
	Title  string         `json:"title"`
	Status int            `json:"status"`
	Detail string         `json:"detail"`
	Errors []fieldProblem `json:"errors,omitempty"`
	// ViolatedPolicies are quotas, by their names in RateLimit-Policy, whose draft
	// names this member so.
	ViolatedPolicies []string `json:"violated-policies,omitempty"`

	name       string
	reason     limit.Reason // of the refusals, if it is one
	location   string       // of the request that failed, if one was recorded
	retryAfter int          // seconds, where it is known better than by the status
}

// fieldProblem is a mistake in one field of the body or one parameter of the URL.
type fieldProblem struct {
	Pointer   string `json:"pointer,omitempty"`   // RFC 6901, as in "#/input/text"
	Parameter string `json:"parameter,omitempty"` // as in "limit"
	Detail    string `json:"detail"`
}

func (p *problem) Error() string { return p.name + ": " + p.Detail }

// problemType is the answer to GET /problems/{name}.
type problemType struct {
	Name   string `json:"name"`
	Status int    `json:"status"`
	Title  string `json:"title"`
}

// problemTypes are all problem types, each with one status and one title.
var problemTypes = [...]problemType{
	{"malformed-json", http.StatusBadRequest, "The body is not one well-formed JSON value."},
	{"invalid-parameter", http.StatusBadRequest, "A parameter of the URL is not valid."},
	{"malformed-idempotency-key", http.StatusBadRequest, "The Idempotency-Key is not valid."},
	{"unauthorized", http.StatusUnauthorized, "The API key is missing or not valid."},
	{"not-found", http.StatusNotFound, "There is nothing at this address."},
	{"method-not-allowed", http.StatusMethodNotAllowed, "This address doesn't take this method."},
	{"body-timeout", http.StatusRequestTimeout, "The body did not arrive in time."},
	{"request-in-flight", http.StatusConflict, "The same call is being worked on."},
	{"not-redeliverable", http.StatusConflict, "The request has no callback that could be delivered again."},
	{"not-discardable", http.StatusConflict, "The request has no dead letter that could be discarded."},
	{"attempt-over", http.StatusGone, "The attempt is over."},
	{"body-too-large", http.StatusRequestEntityTooLarge, "The body is too large."},
	{"unsupported-media-type", http.StatusUnsupportedMediaType, "The body must be JSON."},
	{"invalid-input", http.StatusUnprocessableEntity, "A field of the body is not valid."},
	{"work-refused", http.StatusUnprocessableEntity, "The work refuses this input."},
	{"idempotency-key-reused", http.StatusUnprocessableEntity, "The Idempotency-Key was used for another call."},
	{"invalid-callback-url", http.StatusUnprocessableEntity, "The callback URL is not valid."},
	{"quota-exceeded", http.StatusTooManyRequests, "You have used up a quota."},
	{"internal-error", http.StatusInternalServerError, "Something went wrong on our side."},
	{"work-failed", http.StatusInternalServerError, "The work failed."},
	{"temporary-reduced-capacity", http.StatusServiceUnavailable, "The service is too busy."},
	{"unavailable", http.StatusServiceUnavailable, "The service can't answer at the moment."},
	{"secret-unreadable", http.StatusServiceUnavailable, "The service can't sign your callbacks."},
	{"work-deadline-exceeded", http.StatusGatewayTimeout, "The work did not end in time."},
	{"loop-detected", http.StatusLoopDetected, "A callback of this service came back to it."},
}

func newProblem(name, detail string, fields ...fieldProblem) *problem {
	for _, known := range problemTypes {
		if known.Name == name {
			return &problem{
				Type: "/problems/" + name, Title: known.Title, Status: known.Status,
				Detail: detail, Errors: fields, name: name,
			}
		}
	}
	panic("unknown problem type " + name)
}

// problemOf turns an error into the answer that its cause deserves. An unknown error is a
// 500 with a fixed sentence.
func problemOf(err error) *problem {
	var known *problem
	var tooLarge *http.MaxBytesError
	var refused *webhook.RefusedError
	var field *work.FieldError
	var semantic *json.SemanticError
	var syntactic *jsontext.SyntacticError
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &tooLarge):
		return newProblem("body-too-large", fmt.Sprintf("The body must be at most %d bytes.", tooLarge.Limit))
	case errors.As(err, &refused):
		return newProblem("invalid-callback-url", refused.Error(),
			fieldProblem{Pointer: "#/callback_url", Detail: refused.Error()})
	case errors.As(err, &field):
		return invalidInput(field.Pointer, field.Detail)
	case errors.As(err, &syntactic):
		return explainSyntactic(syntactic)
	case errors.As(err, &semantic):
		return invalidInput(string(semantic.JSONPointer), explainSemantic(semantic))
	case errors.Is(err, db.ErrNoRequest):
		return newProblem("not-found", "There is no such request.")
	}
	if decision := decisionOf(err); !decision.OK() {
		return refuse(decision)
	}
	return newProblem("internal-error", "The operators see the cause in the log.")
}

// invalidInput names a field by its RFC 6901 pointer into the body.
func invalidInput(pointer, detail string) *problem {
	pointer = printable(pointer)
	name := "The body"
	if path, below := strings.CutPrefix(pointer, "/"); below {
		fields := strings.Split(path, "/")
		for i, field := range fields {
			fields[i] = named(ofPointer.Replace(field))
		}
		name = strings.Join(fields, ".")
	}
	return newProblem("invalid-input", name+" "+detail+".", fieldProblem{Pointer: "#" + pointer, Detail: detail})
}

// invalidInputs names all fields of a part of the body that are wrong.
func invalidInputs(pointer string, mistakes work.Mistakes) *problem {
	whole := newProblem("invalid-input", "")
	for i, mistake := range mistakes {
		one := invalidInput(pointer+mistake.Pointer, printable(mistake.Detail))
		whole.Errors = append(whole.Errors, one.Errors...)
		if i > 0 {
			whole.Detail += " "
		}
		whole.Detail += one.Detail
	}
	return whole
}

// ofPointer reads a part of a pointer (RFC 6901, section 4).
var ofPointer = strings.NewReplacer("~1", "/", "~0", "~")

var plainName = regexp.MustCompile(`^[\p{L}\p{N}_.…-]+$`)

// named quotes a name that can't be told from the sentence around it, such as an empty name.
func named(name string) string {
	if plainName.MatchString(name) {
		return name
	}
	return strconv.Quote(name)
}

// printable makes a name that the caller chose fit for an answer.
func printable(name string) string {
	const most = 200 // bytes; names of the API are shorter
	if len(name) > most {
		name = name[:most] + "…"
	}
	return strings.ToValidUTF8(name, "\uFFFD")
}

func explainSemantic(err *json.SemanticError) string {
	switch {
	case errors.Is(err, json.ErrUnknownName):
		return "is not a known field"
	case errors.Is(err, errNull):
		return "must not be null"
	case errors.Is(err, errNotAHost):
		return errNotAHost.Error()
	case errors.Is(err, errNotATime):
		return errNotATime.Error()
	case errors.Is(err, errEmpty):
		return errEmpty.Error()
	case errors.Is(err, strconv.ErrRange):
		return "must be a number of fewer digits"
	case err.GoType != nil && err.JSONKind != 0:
		return "must be " + kindName(err.GoType.Kind())
	default:
		return "has the wrong form"
	}
}

// kindName names the value that a field takes, in the words of JSON.
func kindName(kind reflect.Kind) string {
	switch kind {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number, without a fraction or an exponent"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Array, reflect.Slice:
		return "an array"
	default:
		return "of another kind"
	}
}

// explainSyntactic names the place of the mistake, and the field that stands twice.
func explainSyntactic(err *jsontext.SyntacticError) *problem {
	sentence, detail := "The body is not well-formed JSON.", printable(err.Err.Error())
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		detail = "stands twice"
		sentence = fmt.Sprintf("The field %q %s.", printable(err.JSONPointer.LastToken()), detail)
	case errors.Is(err, io.ErrUnexpectedEOF):
		detail = "ends too early"
		sentence = "The body ends before its JSON does."
	}
	return newProblem("malformed-json", sentence, fieldProblem{Pointer: "#" + printable(string(err.JSONPointer)), Detail: detail})
}

func (a *API) noRoute(*call) (reply, error) {
	return reply{}, newProblem("not-found", "There is nothing at this address.")
}

func (a *API) noMethod(*call) (reply, error) {
	return reply{}, newProblem("method-not-allowed", "The Allow header lists the methods that this address takes.")
}

// describeProblem serves the address that is a problem's type.
func (a *API) describeProblem(c *call) (reply, error) {
	at := slices.IndexFunc(problemTypes[:], func(p problemType) bool { return p.Name == c.Param("name") })
	if at < 0 {
		return reply{}, newProblem("not-found", "There is no such problem type.")
	}
	return reply{status: http.StatusOK, body: problemTypes[at]}, nil
}
