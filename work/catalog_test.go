package work

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
)

type size struct {
	Width  int `json:"width" jsonschema:"in pixels"`
	Height int `json:"height,omitzero"`
}

type image struct {
	URL  string   `json:"url"`
	Size size     `json:"size"`
	Tags []string `json:"tags,omitzero"`
}

func measure(_ context.Context, in image) (size, error) {
	if in.URL == "none" {
		return size{}, &Error{"no_image", "There is no such image."}
	}
	return in.Size, nil
}

// offer is a work that must be valid.
func offer(t *testing.T, w Work) *Offer {
	t.Helper()
	catalog, err := NewCatalog(Set{"a": w}, "a", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return catalog.Default()
}

// told is the reasons for which an input is refused, by pointer.
func told(err error) map[string]string {
	told := map[string]string{}
	var mistakes Mistakes
	errors.As(err, &mistakes)
	for _, mistake := range mistakes {
		told[mistake.Pointer] = mistake.Detail
	}
	return told
}

func TestTyped(t *testing.T) {
	t.Parallel()
	o := offer(t, Typed(measure))

	t.Run("WorksOnValues", func(t *testing.T) {
		t.Parallel()
		input, err := o.Accept(jsontext.Value(`{"size": {"width": 3}, "url": "x"}`))
		if err != nil || string(input) != `{"url":"x","size":{"width":3}}` {
			t.Fatalf("got %s, %v, want the canonical input", input, err)
		}
		outcome, err := Run(t.Context(), o.Work, Call{Input: input})
		if err != nil || string(outcome.Result) != `{"width":3}` {
			t.Errorf("got %+v, %v, want the size", outcome, err)
		}
	})

	t.Run("TellsItsErrors", func(t *testing.T) {
		t.Parallel()
		outcome, err := Run(t.Context(), o.Work, Call{Input: jsontext.Value(`{"url":"none","size":{"width":3}}`)})
		if err != nil || outcome.Error == nil || outcome.Error.Code != "no_image" {
			t.Errorf("got %+v, %v, want its own error", outcome, err)
		}
	})

	t.Run("TellsEveryMistake", func(t *testing.T) {
		t.Parallel()
		_, err := o.Accept(jsontext.Value(`{"size":{"width":"3","depth":1,"a/b":2},"tags":["x",7]}`))
		want := map[string]string{
			"/url": "is required", "/size/width": "must be a whole number", "/size/depth": "is not a known field",
			"/size/a~1b": "is not a known field", "/tags/1": "must be a string",
		}
		if diff := cmp.Diff(want, told(err)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})

	t.Run("HasASchema", func(t *testing.T) {
		t.Parallel()
		var got map[string]any
		if err := json.Unmarshal(o.Schema, &got); err != nil {
			t.Fatal(err)
		}
		want := map[string]any{
			"type": "object", "additionalProperties": false, "required": []any{"url", "size"},
			"properties": map[string]any{
				"url":  map[string]any{"type": "string"},
				"tags": map[string]any{"type": []any{"null", "array"}, "items": map[string]any{"type": "string"}},
				"size": map[string]any{
					"type": "object", "additionalProperties": false, "required": []any{"width"},
					"properties": map[string]any{
						"width":  map[string]any{"type": "integer", "description": "in pixels"},
						"height": map[string]any{"type": "integer"},
					},
				},
			},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})

	t.Run("IsRefusedWithoutOne", func(t *testing.T) {
		t.Parallel()
		w := Typed(func(context.Context, func()) (int, error) { return 0, nil })
		if _, err := NewCatalog(Set{"a": w}, "a", time.Second); err == nil || !strings.Contains(err.Error(), "JSON Schema") {
			t.Errorf("got %v, want a word about the schema", err)
		}
	})
}

func TestAccept(t *testing.T) {
	t.Parallel()
	do := Plain(func(context.Context, jsontext.Value) (jsontext.Value, error) { return jsontext.Value("1"), nil }).Do

	t.Run("TakesAnyInputWithoutASchema", func(t *testing.T) {
		t.Parallel()
		input, err := offer(t, Work{Do: do}).Accept(jsontext.Value(`[ 1, "\u00e9" ]`))
		if err != nil || string(input) != `[1,"\u00e9"]` {
			t.Errorf("got %s, %v, want it without white space", input, err)
		}
	})

	t.Run("RefusesWhatOverflowsAStack", func(t *testing.T) {
		t.Parallel()
		for depth, want := range map[int]bool{maxDepth: true, maxDepth + 1: false} {
			input := strings.Repeat(`[`, depth-1) + `"]\"["` + strings.Repeat(`]`, depth-1)
			input = `[` + input + `]`
			if _, err := offer(t, Work{Do: do}).Accept(jsontext.Value(input)); (err == nil) != want {
				t.Errorf("depth %d: got %v, want taken %v", depth, err, want)
			}
		}
	})

	t.Run("HoldsItAgainstTheSchema", func(t *testing.T) {
		t.Parallel()
		o := offer(t, Work{Do: do, Schema: jsontext.Value(`{
			"type": "object", "required": ["a"],
			"properties": {"a": {"minimum": 1, "multipleOf": 2}, "b": {"anyOf": [{"type": "string"}, {"type": "null"}]}, "c": {"$ref": "#/$defs/short"}},
			"$defs": {"short": {"maxLength": 2}}
		}`)})
		if _, err := o.Accept(jsontext.Value(`{"a": 2, "b": null, "d": [1]}`)); err != nil {
			t.Errorf("got %v, want it taken", err)
		}
		_, err := o.Accept(jsontext.Value(`{"a": -1, "b": 1, "c": "xyz"}`))
		got := told(err)
		for pointer, want := range map[string]string{"/a": "must be at least 1", "/b": "fits none", "/c": "must have at most "} {
			if !strings.Contains(got[pointer]+err.Error(), want) || got[pointer] == "" {
				t.Errorf("%s: got %q of %q, want %q", pointer, got[pointer], err, want)
			}
		}
	})

	t.Run("TellsEachRuleInASentence", func(t *testing.T) {
		t.Parallel()
		for _, test := range []struct{ schema, input, pointer, want string }{
			{`{"type": ["string", "null"]}`, `1`, "", "must be null or a string"},
			{`{"enum": ["a", 1, null]}`, `2`, "", `must be one of "a", 1, null`},
			{`{"const": {"a": 1.5}}`, `2`, "", `must be {"a":1.5}`},
			{`{"enum": ["` + strings.Repeat("x", 300) + `", 1]}`, `2`, "", "must be one of the values that the schema allows"},
			{`{"minimum": 1.5}`, `1`, "", "must be at least 1.5"},
			{`{"maximum": 1e3}`, `1001`, "", "must be at most 1000"},
			{`{"exclusiveMinimum": 0}`, `0`, "", "must be more than 0"},
			{`{"exclusiveMaximum": 0}`, `0`, "", "must be less than 0"},
			{`{"multipleOf": 0.01}`, `0.001`, "", "must be a multiple of 0.01"},
			{`{"minLength": 1}`, `""`, "", "must have at least 1 character"},
			{`{"maxLength": 2}`, `"abc"`, "", "must have at most 2 characters"},
			{`{"pattern": "^a"}`, `"b"`, "", "must match the pattern ^a"},
			{`{"format": "date"}`, `"b"`, "", "must be of the format date"},
			{`{"minItems": 1}`, `[]`, "", "must have at least 1 item"},
			{`{"maxItems": 0}`, `[1]`, "", "must have at most 0 items"},
			{`{"uniqueItems": true}`, `[1,2,1]`, "", "must not have the same item twice, as at 0 and 2"},
			{`{"prefixItems": [{}], "items": false}`, `[1,2]`, "/1", "is not allowed"},
			{`{"contains": {"const": 1}}`, `[2]`, "", "has no item of the form that one item must have"},
			{`{"contains": {"const": 1}, "minContains": 2}`, `[1]`, "", "has fewer than 2 items of the form that these must have"},
			{`{"contains": {"const": 1}, "maxContains": 1}`, `[1,1]`, "", "has more than 1 item of a form that no more may have"},
			{`{"minProperties": 2}`, `{}`, "", "must have at least 2 fields"},
			{`{"maxProperties": 1}`, `{"a":1,"b":1}`, "", "must have at most 1 field"},
			{`{"required": ["a"]}`, `{}`, "/a", "is required"},
			{`{"dependentRequired": {"a": ["b"]}}`, `{"a":1}`, "/b", "is required beside a"},
			{`{"additionalProperties": false}`, `{"a":1}`, "/a", "is not a known field"},
			{`{"unevaluatedProperties": false}`, `{"a":1}`, "/a", "is not allowed"},
			{`{"properties": {"a": false}}`, `{"a":1}`, "/a", "is not allowed"},
			{`{"propertyNames": {"maxLength": 1}}`, `{"ab":1}`, "", `has a field whose name is not allowed: "ab"`},
			{`{"anyOf": [{"const": 1}, {"const": 2}]}`, `3`, "", "fits none of the forms that it may have"},
			{`{"oneOf": [{"const": 1}, {"const": 2}]}`, `3`, "", "fits none of the forms that it may have"},
			{`{"oneOf": [{"type": "number"}, {"const": 3}]}`, `3`, "", "fits more than one of the forms of which it may have one"},
			{`{"not": {"const": 1}}`, `1`, "", "has a form that is not allowed"},
			{`false`, `1`, "", "is not allowed"},
		} {
			_, err := offer(t, Work{Do: do, Schema: jsontext.Value(test.schema)}).Accept(jsontext.Value(test.input))
			if got := told(err); len(got) != 1 || got[test.pointer] != test.want {
				t.Errorf("%s of %s: got %q, want %q at %q", test.schema, test.input, got, test.want, test.pointer)
			}
		}
	})

	t.Run("LeavesTheWordToCheck", func(t *testing.T) {
		t.Parallel()
		o := offer(t, Work{Do: do, Schema: jsontext.Value(`{"required": ["a", "b"]}`), Check: func(input jsontext.Value) (jsontext.Value, error) {
			if string(input) == `{}` || string(input) == `{"a":1,"b":2}` {
				return nil, &FieldError{"/x", "its own"}
			}
			return input, nil
		}})
		if _, err := o.Accept(jsontext.Value(`1`)); err != nil {
			t.Errorf("what Check takes: got %v, want it taken", err)
		}
		if _, err := o.Accept(jsontext.Value(`{}`)); len(told(err)) != 2 {
			t.Errorf("what both refuse: got %v, want both mistakes of the schema", err)
		}
		if _, err := o.Accept(jsontext.Value(`{"a":1,"b":2}`)); err == nil || err.Error() != "x its own" {
			t.Errorf("what Check alone refuses: got %v, want its own word", err)
		}
	})
}

func TestNewCatalogTellsEveryMistake(t *testing.T) {
	t.Parallel()
	do := Plain(func(context.Context, jsontext.Value) (jsontext.Value, error) { return nil, nil }).Do
	_, err := NewCatalog(Set{
		"Upper":   {Do: do},
		"idle":    {},
		"slow":    {Do: do, Timeout: 2 * time.Hour, Limit: -1, Retry: Policy{Times: 11}},
		"type":    {Do: do, Schema: jsontext.Value(`{"properties": {"a": {"type": "strin"}}}`)},
		"cut":     {Do: do, Schema: jsontext.Value(`{"type"`)},
		"outside": {Do: do, Schema: jsontext.Value(`{"$ref": "file:///etc/passwd"}`)},
		"dangles": {Do: do, Schema: jsontext.Value(`{"$ref": "#/$defs/no"}`)},
	}, "missing", time.Second)
	if err == nil {
		t.Fatal("got no error")
	}
	if _, err := NewCatalog(Set{"a": {Do: do}}, "b", time.Second); err == nil || !strings.Contains(err.Error(), `the default work "b"`) {
		t.Errorf("got %v, want a word about the default work", err)
	}
	for _, want := range []string{
		`work "Upper": a name must be`, `work "idle": it has no Do`, `"slow": its timeout`, "its limit", "its retries",
		`"type": the schema is not valid: properties/a/type`, `"cut": the schema is not valid JSON`,
		`"outside": the schema is not valid`, "must be whole", `"dangles": the schema is not valid`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
}

func TestRetry(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for _, test := range []struct {
		name   string
		policy Policy
		err    error
		want   *Again
	}{
		{"PlainErrorsAreFinal", Policy{}, broken, nil},
		{"AskedFor", Policy{}, Retry(broken, 0), &Again{}},
		{"AskedForLater", Policy{}, Retry(broken, time.Minute), &Again{time.Minute}},
		{"UnlessThePolicySaysOtherwise", Policy{On: func(err error) bool { return errors.Is(err, broken) }}, broken, &Again{}},
	} {
		outcome, err := Run(t.Context(), Work{Timeout: time.Minute, Retry: test.policy, Do: func(context.Context, Call) (jsontext.Value, error) {
			return nil, test.err
		}}, Call{})
		if diff := cmp.Diff(test.want, outcome.Again); diff != "" || err != nil || outcome.Error.Code != "work_failed" {
			t.Errorf("%s: got %+v, %v (-want +got):\n%s", test.name, outcome.Error, err, diff)
		}
	}
	for times, want := range map[int]int{-1: 0, 0: DefaultRetries, 7: 7} {
		if got := (Policy{Times: times}).Most(); got != want {
			t.Errorf("%d times: got %d, want %d", times, got, want)
		}
	}
}
