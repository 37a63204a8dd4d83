package api

import (
	"bytes"
	"errors"
	"mime"
	"net/http"
	"reflect"
	"strings"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"ringback/jobs/limit"
	"ringback/work"
)

// maxBodyBytes bounds a body.
const maxBodyBytes = 256 << 10

// decode reads a JSON body into target. It is strict: unknown fields,
// duplicate fields, other letter case, invalid UTF-8 and trailing data are
// refused. It returns the body as it came.
func (a *API) decode(c *call, target any) (body []byte, err error) {
	return a.decodeUpTo(c, maxBodyBytes, target)
}

// decodeUpTo is decode for a body of at most the given bytes.
func (a *API) decodeUpTo(c *call, most int64, target any) (body []byte, err error) {
	if err := checkMedia(c); err != nil {
		return nil, err
	}
	body, err = a.readBody(c, most)
	if err != nil {
		return nil, err
	}
	if len(body) == 0 {
		return nil, newProblem("malformed-json", "The body is empty.")
	}
	return body, unmarshal(body, target)
}

// checkMedia refuses a body that isn't plain JSON by its headers.
func checkMedia(c *call) error {
	media, params, err := mime.ParseMediaType(combined(c.Request.Header, "Content-Type"))
	if charset, ok := params["charset"]; err != nil || media != "application/json" || ok && !strings.EqualFold(charset, "utf-8") {
		return newProblem("unsupported-media-type", "Content-Type must be application/json.")
	}
	if encoding := combined(c.Request.Header, "Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return newProblem("unsupported-media-type", "Content-Encoding is not supported.")
	}
	return nil
}

// combined is the value of a field (RFC 9110, section 5.3), of all its lines: none is
// overlooked where a field that should stand once stands twice.
func combined(header http.Header, field string) string {
	return strings.Join(header.Values(field), ", ")
}

func unmarshal(body []byte, target any) error {
	return json.Unmarshal(body, target, json.RejectUnknownMembers(true), json.WithUnmarshalers(json.JoinUnmarshalers(noNulls, times)))
}

// errNull is a null where it would not mean the same as an absent field.
var errNull = errors.New("null")

// noNulls refuses null, which encoding would take for an absent field or a zero: a
// filter of null would match everything. Fields that are pointers may be null, which is as
// absent. The work judges its input.
var noNulls = json.UnmarshalFromFunc(func(decoder *jsontext.Decoder, target any) error {
	if decoder.PeekKind() != jsontext.KindNull {
		return errors.ErrUnsupported // json then decodes as usual
	}
	kind := reflect.TypeOf(target).Elem()
	if kind.Kind() == reflect.Pointer || kind == reflect.TypeFor[jsontext.Value]() {
		return errors.ErrUnsupported
	}
	if _, err := decoder.ReadToken(); err != nil { // of a word that begins as null does
		return err
	}
	return errNull
})

// readBody reads the whole body, within the deadline that observe has set and
// the memory that all bodies together may take, until observe releases it. It returns a
// large body once that may be decoded, until the caller calls decoded.
func (a *API) readBody(c *call, most int64) ([]byte, error) {
	if c.Request.ContentLength > most {
		return nil, &http.MaxBytesError{Limit: most}
	}
	release, err := a.bodies.reserve(c.client, c.Request.ContentLength)
	if err != nil {
		return nil, err
	}
	c.release = release
	body := bytes.NewBuffer(make([]byte, 0, max(c.Request.ContentLength, 0)+bytes.MinRead))
	_, err = body.ReadFrom(http.MaxBytesReader(c.Writer, c.Request.Body, most))
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		c.bodyEnded()
		if c.Request.ContentLength < 0 {
			a.countUndeclared(c, body.Len())
		}
		return body.Bytes(), a.beginDecoding(c, body.Len())
	case errors.As(err, &tooLarge):
		return nil, err
	case isBodyLate(err):
		return nil, newProblem("body-timeout", "The body must arrive within 10 seconds.")
	default:
		return nil, newProblem("malformed-json", "The body ended too early.")
	}
}

// refuseBody refuses fields in the body of a call that takes none: a dry_run there would be
// overlooked. Many programs send an empty object where there is nothing to say.
func (a *API) refuseBody(c *call) {
	if c.Request.ContentLength == 0 {
		return
	}
	body, err := a.readBody(c, smallBody)
	c.decoded()
	if err == nil && len(body) > 0 {
		err = unmarshal(body, &struct{}{})
	}
	if err != nil {
		a.writeProblem(c, err)
	}
}

// bodyBudget bounds the memory of the bodies of all calls that are under way:
// slow callers with large bodies could otherwise take all memory. Clients share it as they
// share all slots, or one client could have the bodies of all others refused.
type bodyBudget struct {
	largest int64 // bytes that one body counts as at most

	mu    sync.Mutex
	bytes limit.Slots
}

// smallBody costs no more than its connection does, and isn't counted.
const smallBody = 4 << 10

func newBodyBudget(bytes int64, shared bool) *bodyBudget {
	return &bodyBudget{largest: max(1, bytes/4), bytes: limit.NewSlots(int(bytes), shared)}
}

// reserve takes a body's declared length until release, or maxBodyBytes where it declares
// none (-1). In a small budget, a large body counts as a quarter of it.
func (b *bodyBudget) reserve(client string, length int64) (release func(), err error) {
	if length < 0 {
		length = maxBodyBytes
	}
	if length <= smallBody {
		return func() {}, nil
	}
	n := int(min(length, b.largest))
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.bytes.Decide(client, n, reasonBodies, reasonClientBodies).Err(); err != nil {
		return nil, err
	}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.bytes.Release(client, n)
	}, nil
}

// checkInput returns the canonical form of a work's input.
func checkInput(offer *work.Offer, input jsontext.Value) (jsontext.Value, error) {
	if len(input) == 0 {
		return nil, invalidInput("/input", "is required")
	}
	canonical, err := offer.Accept(input)
	if err != nil {
		return nil, below("/input", err)
	}
	return canonical, nil
}

// below turns an error about a part of the body into an error about the whole, by putting
// the part's pointer in front.
func below(pointer string, err error) error {
	var all work.Mistakes
	var field *work.FieldError
	var semantic *json.SemanticError
	switch {
	case errors.As(err, &all):
		return invalidInputs(pointer, all)
	case errors.As(err, &field):
		return invalidInput(pointer+field.Pointer, field.Detail)
	case errors.As(err, &semantic):
		return invalidInput(pointer+string(semantic.JSONPointer), explainSemantic(semantic))
	default: // any other reason that Check has
		return invalidInput(pointer, "is refused: "+err.Error())
	}
}
