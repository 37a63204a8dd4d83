package work

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// compileSchema reads a JSON Schema. Its error locates the mistake.
func compileSchema(schema jsontext.Value) (*jsonschema.Schema, error) {
	const here = "ringback:schema" // an address that nothing is loaded from
	if !schema.IsValid() {
		return nil, errors.New("the schema is not valid JSON")
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		return nil, fmt.Errorf("reading the schema: %w", err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.AssertFormat()
	compiler.UseLoader(noLoader{})
	if err := compiler.AddResource(here, document); err != nil {
		return nil, fmt.Errorf("reading the schema: %w", err)
	}
	compiled, err := compiler.Compile(here)
	var invalid *jsonschema.SchemaValidationError
	var broken *jsonschema.ValidationError
	if errors.As(err, &invalid) && errors.As(invalid.Err, &broken) {
		return nil, fmt.Errorf("the schema is not valid: %w", mistakesOf(broken))
	}
	if err != nil {
		return nil, fmt.Errorf("the schema is not valid: %s", strings.ReplaceAll(err.Error(), here, ""))
	}
	return compiled, nil
}

// noLoader keeps a schema from having other documents fetched or read.
type noLoader struct{}

func (noLoader) Load(string) (any, error) {
	return nil, errors.New("a schema must be whole: its references must stand in it")
}

// checkSchema returns Mistakes where an input breaks a schema.
func checkSchema(schema *jsonschema.Schema, input jsontext.Value) error {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(input))
	if err != nil {
		return err
	}
	var broken *jsonschema.ValidationError
	if err := schema.Validate(value); errors.As(err, &broken) {
		return mistakesOf(broken)
	} else if err != nil {
		return err
	}
	return nil
}

// maxMistakes bounds the mistakes that are reported of an input.
const maxMistakes = 50

// mistakesOf lists the mistakes that a schema found, each with its field: a missing or
// unknown field is named itself.
func mistakesOf(broken *jsonschema.ValidationError) Mistakes {
	var all Mistakes
	collectMistakes(broken, &all)
	slices.SortStableFunc(all, func(a, b *FieldError) int { return strings.Compare(a.Pointer, b.Pointer) })
	all = slices.CompactFunc(all, func(a, b *FieldError) bool { return *a == *b })
	return all[:min(len(all), maxMistakes)]
}

func collectMistakes(broken *jsonschema.ValidationError, all *Mistakes) {
	// Of several alternatives the caller may have meant any.
	if _, isChoice := broken.ErrorKind.(*kind.AnyOf); len(broken.Causes) > 0 && !isChoice {
		for _, cause := range broken.Causes {
			collectMistakes(cause, all)
		}
		return
	}
	add := func(detail string, names ...string) {
		*all = append(*all, &FieldError{pointerTo(append(slices.Clone(broken.InstanceLocation), names...)), detail})
	}
	switch k := broken.ErrorKind.(type) {
	case *kind.Required:
		for _, name := range k.Missing {
			add("is required", name)
		}
	case *kind.AdditionalProperties:
		for _, name := range k.Properties {
			add("is not a known field", name)
		}
	case *kind.Minimum:
		add("must be at least " + k.Want.RatString())
	case *kind.Maximum:
		add("must be at most " + k.Want.RatString())
	case *kind.Type:
		add("must be of type " + strings.Join(k.Want, " or "))
	case *kind.AnyOf:
		add("fits none of the forms that it may have")
	default:
		add("is refused: " + broken.ErrorKind.LocalizedString(message.NewPrinter(language.English)))
	}
}

// pointerTo is an RFC 6901 pointer.
func pointerTo(path []string) string {
	var pointer strings.Builder
	for _, name := range path {
		pointer.WriteString("/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name))
	}
	return pointer.String()
}
