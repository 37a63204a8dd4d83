package api

import (
	"net/http"
	"regexp"
	"slices"
	"testing"

	"github.com/gin-gonic/gin"

	"ringback/api/contract"
)

func TestDocumentHasTheRoutes(t *testing.T) {
	t.Parallel()
	parameter := regexp.MustCompile(`:(\w+)`)
	var served []string
	for _, route := range New(Config{SyncLimit: 1, ReadLimit: 1}).(*gin.Engine).Routes() {
		if path := parameter.ReplaceAllString(route.Path, "{$1}"); route.Method != http.MethodHead { // which is where GET is
			served = append(served, route.Method+" "+path)
		}
	}
	documented := contract.Load(t).Routes()
	for _, route := range served {
		if !slices.Contains(documented, route) {
			t.Errorf("openapi.yaml lacks %s", route)
		}
	}
	for _, route := range documented {
		if !slices.Contains(served, route) {
			t.Errorf("openapi.yaml has %s, which nothing serves", route)
		}
	}
}

func TestDocumentHasTheProblemTypes(t *testing.T) {
	t.Parallel()
	document := contract.Load(t)
	var known []string
	for _, one := range problemTypes {
		known = append(known, one.Name)
	}
	if got := document.ProblemTypes(); !slices.Equal(got, known) {
		t.Errorf("problem types of openapi.yaml: got %q, want %q", got, known)
	}
	examples := document.ProblemExamples()
	for _, one := range problemTypes {
		got, is := examples[one.Name]
		switch want := (contract.Problem{Type: "/problems/" + one.Name, Title: one.Title, Status: one.Status, Detail: got.Detail}); {
		case one.Name == "method-not-allowed": // no operation has it
		case !is:
			t.Errorf("no answer of openapi.yaml has the problem type %s", one.Name)
		case got != want:
			t.Errorf("example of %s: got %+v, want %+v", one.Name, got, want)
		}
	}
	for name := range examples {
		if !slices.Contains(known, name) {
			t.Errorf("openapi.yaml has an example of %s, which is no problem type", name)
		}
	}
}

func TestEveryGetIsAHeadToo(t *testing.T) {
	t.Parallel()
	routes := map[string][]string{}
	for _, route := range New(Config{SyncLimit: 1, ReadLimit: 1}).(*gin.Engine).Routes() {
		routes[route.Path] = append(routes[route.Path], route.Method)
	}
	for path, methods := range routes {
		if slices.Contains(methods, http.MethodGet) != slices.Contains(methods, http.MethodHead) {
			t.Errorf("%s takes %v, want HEAD with GET", path, methods)
		}
	}
}
