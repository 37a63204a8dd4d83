// Package contract checks answers and callbacks in tests against api/openapi.yaml, so that
// the document and the code stay alike.
package contract

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	"github.com/pb33f/libopenapi-validator/errors"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"
)

// Contract is the document, read and ready.
type Contract struct {
	model   *v3.Document
	strict  validator.Validator // also refuses fields and parameters that the document doesn't have
	lenient validator.Validator
}

// free are the parts of bodies that the work alone defines.
var free = []string{
	"$.body.input.**", "$.body.result.**", "$.body.request.input.**", "$.body.request.result.**", "$.body.data.result.**",
	"$.body.works[*].schema.**", "$.body.progress.**", "$.body.request.progress.**",
}

// load reads the document once. Tests run in the tree that they test.
var load = sync.OnceValues(func() (*Contract, error) {
	_, here, _, _ := runtime.Caller(0)
	text, err := os.ReadFile(filepath.Join(filepath.Dir(here), "..", "openapi.yaml"))
	if err != nil {
		return nil, err
	}
	document, err := libopenapi.NewDocument(text)
	if err != nil {
		return nil, err
	}
	model, err := document.BuildV3Model()
	if err != nil {
		return nil, err
	}
	options := []config.Option{config.WithFormatAssertions(), config.WithoutSecurityValidation()}
	return &Contract{
		model:   &model.Model,
		lenient: validator.NewValidatorFromV3Model(&model.Model, options...),
		strict:  validator.NewValidatorFromV3Model(&model.Model, append(options, config.WithStrictMode(), config.WithStrictIgnorePaths(free...))...),
	}, nil
})

// Load returns the document.
func Load(t testing.TB) *Contract {
	t.Helper()
	contract, err := load()
	if err != nil {
		t.Fatalf("reading openapi.yaml: %v", err)
	}
	return contract
}

// Routes are the addresses of the document with their methods, as in "GET /requests/{id}".
func (c *Contract) Routes() (routes []string) {
	for path, item := range c.model.Paths.PathItems.FromOldest() {
		for method := range item.GetOperations().FromOldest() {
			routes = append(routes, strings.ToUpper(method)+" "+path)
		}
	}
	return routes
}

// ProblemTypes are the names of the problem types that the document lists.
func (c *Contract) ProblemTypes() (names []string) {
	for _, name := range c.model.Components.Schemas.GetOrZero("ProblemName").Schema().Enum {
		names = append(names, name.Value)
	}
	return names
}

// ProblemExamples are the examples of problems in the answers of all operations, by
// the names of their types.
func (c *Contract) ProblemExamples() map[string]Problem {
	examples := map[string]Problem{}
	for _, item := range c.model.Paths.PathItems.FromOldest() {
		for _, operation := range item.GetOperations().FromOldest() {
			for _, response := range operation.Responses.Codes.FromOldest() {
				for name, problem := range problemsOf(response) {
					examples[name] = problem
				}
			}
		}
	}
	return examples
}

// Problem has the fields of all problems.
type Problem struct {
	Type   string
	Title  string
	Status int
	Detail string
}

func problemsOf(response *v3.Response) map[string]Problem {
	problems := map[string]Problem{}
	if media := mediaOf(response); media != nil {
		for name, example := range media.Examples.FromOldest() {
			var problem Problem
			if err := example.Value.Decode(&problem); err != nil {
				panic(fmt.Sprintf("example %s: %v", name, err))
			}
			problems[name] = problem
		}
	}
	return problems
}

// mediaOf is the form of an answer's problems, nil where the answer can't be a problem.
func mediaOf(response *v3.Response) *v3.MediaType {
	if response == nil || response.Content == nil {
		return nil
	}
	return response.Content.GetOrZero("application/problem+json")
}

// operation finds an address in the document, and a method there.
func (c *Contract) operation(method, path string) (item *v3.PathItem, operation *v3.Operation) {
	for template, candidate := range c.model.Paths.PathItems.FromOldest() {
		if matches(template, path) {
			return candidate, candidate.GetOperations().GetOrZero(strings.ToLower(method))
		}
	}
	return nil, nil
}

func matches(template, path string) bool {
	wanted, parts := strings.Split(template, "/"), strings.Split(path, "/")
	return slices.EqualFunc(wanted, parts, func(wanted, part string) bool {
		return wanted == part || strings.HasPrefix(wanted, "{") && part != ""
	})
}

// CheckAnswer fails the test where an answer is not as the document says. It reads the
// answer's body and puts it back. body is the body of the call.
func (c *Contract) CheckAnswer(t testing.TB, call *http.Request, body []byte, answer *http.Response) {
	t.Helper()
	content, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	if answer.Body = io.NopCloser(bytes.NewReader(content)); err != nil { // an answer that is cut short isn't checked
		answer.Body = io.NopCloser(io.MultiReader(bytes.NewReader(content), failing{err}))
		return
	}
	whole := *answer
	whole.Body = io.NopCloser(bytes.NewReader(content))
	for _, mistake := range c.mistakes(call, body, &whole, content) {
		t.Errorf("openapi.yaml and the answer to %s %s part: %s\n%s %s", call.Method, call.URL.RequestURI(), mistake, answer.Status, content[:min(len(content), 2000)])
	}
}

// failing is a body's error.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func (c *Contract) mistakes(call *http.Request, body []byte, answer *http.Response, content []byte) (mistakes []string) {
	item, operation := c.operation(call.Method, call.URL.Path)
	if _, get := c.operation(http.MethodGet, call.URL.Path); call.Method == http.MethodHead && get != nil {
		return bodiless(get, answer, content)
	}
	switch {
	case item == nil:
		return unlisted(answer, content, http.StatusNotFound, "not-found")
	case operation == nil:
		return unlisted(answer, content, http.StatusMethodNotAllowed, "method-not-allowed")
	}
	call = call.Clone(call.Context())
	call.Body = io.NopCloser(bytes.NewReader(body))
	validator := c.strict
	if call.URL.Path == "/openapi.json" { // which has a contract of its own
		validator = c.lenient
	}
	_, wrong := validator.ValidateHttpResponse(call, answer)
	mistakes = told(wrong)
	if answer.StatusCode < http.StatusBadRequest {
		if call.URL.Path == "/async/batch" { // each request in it is refused for itself
			return mistakes
		}
		_, wrong = c.lenient.ValidateHttpRequestSync(call)
		return append(mistakes, told(wrong)...)
	}
	return append(mistakes, c.misplaced(operation, answer, content)...)
}

// bodiless tells the mistakes in the answer to a HEAD, where the document has the answers
// to GET.
func bodiless(get *v3.Operation, answer *http.Response, content []byte) (mistakes []string) {
	if len(content) > 0 {
		mistakes = append(mistakes, "the answer to HEAD has a body")
	}
	if get.Responses.Codes.GetOrZero(fmt.Sprint(answer.StatusCode)) == nil {
		mistakes = append(mistakes, fmt.Sprintf("the document has no %d for GET", answer.StatusCode))
	}
	return mistakes
}

// unlisted tells the mistakes in the answer of an address that the document doesn't
// have. Local mode refuses calls before it looks at their addresses.
func unlisted(answer *http.Response, content []byte, status int, name string) []string {
	var problem Problem
	err := json.Unmarshal(content, &problem)
	refused := answer.StatusCode == http.StatusForbidden || answer.StatusCode == http.StatusServiceUnavailable
	if !refused && (err != nil || answer.StatusCode != status || problem.Type != "/problems/"+name) {
		return []string{fmt.Sprintf("the document lacks this address or method, so the answer must be %d %s", status, name)}
	}
	return nil
}

// misplaced tells of a problem type that the document doesn't have for an answer.
func (c *Contract) misplaced(operation *v3.Operation, answer *http.Response, content []byte) []string {
	response := operation.Responses.Codes.GetOrZero(fmt.Sprint(answer.StatusCode))
	if mediaOf(response) == nil {
		return nil
	}
	var problem Problem
	_ = json.Unmarshal(content, &problem) // the validator has looked at it
	example, listed := problemsOf(response)[strings.TrimPrefix(problem.Type, "/problems/")]
	if !listed || example.Title != problem.Title || example.Status != problem.Status || answer.StatusCode != problem.Status {
		return []string{fmt.Sprintf("the document has no %d of type %q and title %q for this operation", problem.Status, problem.Type, problem.Title)}
	}
	return nil
}

func told(wrong []*errors.ValidationError) (mistakes []string) {
	for _, mistake := range wrong {
		text := mistake.Message + ": " + mistake.Reason
		for _, detail := range mistake.SchemaValidationErrors {
			text += fmt.Sprintf("\n  at %s: %s (%s)", strings.Join(detail.InstancePath, "/"), detail.Reason, detail.KeywordLocation)
		}
		mistakes = append(mistakes, text)
	}
	return mistakes
}

// CheckCallback fails the test where a callback is not as the document says. body is the
// body of the call.
func (c *Contract) CheckCallback(t testing.TB, call *http.Request, body []byte) {
	t.Helper()
	item := c.model.Components.PathItems.GetOrZero("requestEnded")
	call = call.Clone(call.Context())
	call.Body = io.NopCloser(bytes.NewReader(body))
	call.ContentLength = int64(len(body))
	call.URL.RawQuery = "" // the receiver's own
	_, wrong := c.strict.ValidateHttpRequestSyncWithPathItem(call, item, call.URL.Path)
	for _, mistake := range told(wrong) {
		t.Errorf("openapi.yaml and a callback part: %s\n%v %s", mistake, call.Header, body)
	}
}
