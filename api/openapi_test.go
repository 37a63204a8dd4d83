package api_test

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"ringback/api"
	"ringback/work"
	"ringback/work/fingerprint"
)

func TestDocumentIsServedWithTheSchemasOfTheWorks(t *testing.T) {
	t.Parallel()
	s := newService(t, func(c *api.Config) {
		keyed(nil)(c) // it is served without a key
		c.Catalog = catalogOf(t, work.Work{
			Do:     work.Plain(fingerprint.Do).Do,
			Schema: jsontext.Value(`{"type": "object", "properties": {"text": {"$ref": "#/$defs/text"}}, "$defs": {"text": {"type": "string"}}}`),
		})
	})
	served := map[string]any{}
	for path, decode := range map[string]func([]byte, any) error{"/openapi.json": json.Unmarshal, "/openapi.yaml": unmarshalYAML} {
		answer := s.call(t, "GET", path, "")
		var got any
		if err := decode(answer.body, &got); err != nil || answer.status != http.StatusOK {
			t.Fatalf("GET %s: got %d, %v, want 200 and the document", path, answer.status, err)
		}
		served[path] = got
	}
	if diff := cmp.Diff(served["/openapi.json"], served["/openapi.yaml"]); diff != "" {
		t.Errorf("the two forms part: %s", diff)
	}
	written, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var want any
	if err := unmarshalYAML(written, &want); err != nil {
		t.Fatal(err)
	}
	schemas := fieldOf(t, want, "components", "schemas")
	schemas["Input.fingerprint"] = map[string]any{
		"type":       "object",
		"properties": map[string]any{"text": map[string]any{"$ref": "#/components/schemas/Input.fingerprint/$defs/text"}},
		"$defs":      map[string]any{"text": map[string]any{"type": "string"}},
	}
	fieldOf(t, schemas, "Input")["anyOf"] = []any{map[string]any{"$ref": "#/components/schemas/Input.fingerprint"}}
	fieldOf(t, want, "components", "parameters", "Work", "schema")["enum"] = []any{"fingerprint"}
	if diff := cmp.Diff(want, served["/openapi.json"]); diff != "" {
		t.Errorf("GET /openapi.json is not openapi.yaml with the kinds of work: %s", diff)
	}
}

// unmarshalYAML decodes as JSON is decoded.
func unmarshalYAML(text []byte, target any) error {
	plain, err := yaml.YAMLToJSON(text)
	if err != nil {
		return err
	}
	return json.Unmarshal(plain, target)
}

func fieldOf(t *testing.T, whole any, path ...string) map[string]any {
	t.Helper()
	for _, name := range path {
		whole = whole.(map[string]any)[name]
	}
	return whole.(map[string]any)
}

func TestPageOfTheDocument(t *testing.T) {
	t.Parallel()
	s := newService(t, keyed(nil))
	for path, mediaType := range map[string]string{
		"/docs": "text/html", "/docs/page.js": "text/javascript", "/docs/swagger-ui-bundle.js": "text/javascript",
		"/docs/swagger-ui.css": "text/css", "/docs/LICENSE": "text/plain", "/docs/NOTICE": "text/plain",
	} {
		got := s.call(t, "GET", path, "", "Accept-Encoding", "gzip")
		if got.status != http.StatusOK || got.header.Get("Content-Type") != mediaType+"; charset=utf-8" || len(got.body) == 0 {
			t.Errorf("GET %s: got %d, %q and %d bytes, want a %s", path, got.status, got.header.Get("Content-Type"), len(got.body), mediaType)
		}
		if policy := got.header.Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none'; ") || strings.Contains(policy, "unsafe") {
			t.Errorf("GET %s: got the policy %q, want default-src 'none', and nothing unsafe", path, policy)
		}
		if got.header.Get("Content-Encoding") == "gzip" {
			plain, err := gzip.NewReader(strings.NewReader(string(got.body)))
			if err == nil {
				_, err = io.Copy(io.Discard, plain)
			}
			if err != nil {
				t.Errorf("GET %s: inflating: %v", path, err)
			}
		}
	}
	for _, path := range []string{"/docs/nothing.js", "/docs/..%2fopenapi.yaml", "/docs/swagger-ui.css.map"} {
		s.wantProblem(t, s.call(t, "GET", path, ""), http.StatusNotFound, "not-found")
	}
}
