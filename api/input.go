package api

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"ringback/work"
)

// Limits of a body.
const (
	maxBodyBytes = 256 << 10
	bodyTimeout  = 10 * time.Second
)

// decode reads a JSON body into target. It is strict: unknown fields,
// duplicate fields, other letter case, invalid UTF-8 and trailing data are
// refused.
func decode(c *gin.Context, target any) error {
	media, params, err := mime.ParseMediaType(c.GetHeader("Content-Type"))
	if charset, ok := params["charset"]; err != nil || media != "application/json" || ok && !strings.EqualFold(charset, "utf-8") {
		return newProblem("unsupported-media-type", "Content-Type must be application/json.")
	}
	if encoding := c.GetHeader("Content-Encoding"); encoding != "" && encoding != "identity" {
		return newProblem("unsupported-media-type", "Content-Encoding is not supported.")
	}
	body, err := readBody(c)
	if err != nil {
		return err
	}
	if len(body) == 0 {
		return newProblem("malformed-json", "The body is empty.")
	}
	return json.Unmarshal(body, target, json.RejectUnknownMembers(true))
}

// readBody reads the whole body within its own deadline: the server's
// ReadTimeout would go on counting while the work runs, and end it.
func readBody(c *gin.Context) ([]byte, error) {
	control := http.NewResponseController(c.Writer)
	_ = control.SetReadDeadline(time.Now().Add(bodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(c.Writer, c.Request.Body, maxBodyBytes))
	_ = control.SetReadDeadline(time.Time{})
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		return body, nil
	case errors.As(err, &tooLarge):
		return nil, err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, newProblem("body-timeout", "The body must arrive within 10 seconds.")
	default:
		return nil, newProblem("malformed-json", "The body ended too early.")
	}
}

// checkInput returns the canonical form of the work's input.
func (a *API) checkInput(input jsontext.Value) (jsontext.Value, error) {
	if len(input) == 0 {
		return nil, invalidInput("/input", "is required")
	}
	canonical, err := a.Check(input)
	if err != nil {
		return nil, below("/input", err)
	}
	return canonical, nil
}

// below turns an error about a part of the body into one about the whole, by
// putting the part's pointer in front.
func below(pointer string, err error) error {
	var field *work.FieldError
	var semantic *json.SemanticError
	switch {
	case errors.As(err, &field):
		return invalidInput(pointer+field.Pointer, field.Detail)
	case errors.As(err, &semantic):
		return invalidInput(pointer+string(semantic.JSONPointer), explainSemantic(semantic))
	default: // any other reason that Check has
		return invalidInput(pointer, "is refused: "+err.Error())
	}
}
