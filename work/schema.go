package work

import (
	"bytes"
	"cmp"
	"encoding/json" // as the library, which keeps numbers as json.Number
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
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
	if len(broken.Causes) > 0 && !isChoice(broken.ErrorKind) {
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
	case *kind.DependentRequired:
		for _, name := range k.Missing {
			add("is required beside "+k.Prop, name)
		}
	case *kind.Dependency:
		for _, name := range k.Missing {
			add("is required beside "+k.Prop, name)
		}
	case *kind.AdditionalProperties:
		for _, name := range k.Properties {
			add("is not a known field", name)
		}
	default:
		add(ruleOf(k))
	}
}

// typesOf names the types that a value may have, in the words of the API's own fields.
func typesOf(types []string) string {
	names := map[string]string{
		"string": "a string", "integer": "a whole number", "number": "a number",
		"boolean": "true or false", "object": "an object", "array": "an array",
	}
	said := make([]string, len(types))
	for i, name := range types {
		said[i] = cmp.Or(names[name], name) // null is its own name
	}
	return strings.Join(said, " or ")
}

func isChoice(broken jsonschema.ErrorKind) bool {
	switch broken.(type) {
	case *kind.AnyOf, *kind.OneOf, *kind.PropertyNames, *kind.Contains, *kind.MinContains:
		return true
	}
	return false
}

// ruleOf is the rule that a value breaks, as a sentence without the value's name.
func ruleOf(broken jsonschema.ErrorKind) string {
	switch k := broken.(type) {
	case *kind.Type:
		return "must be " + typesOf(k.Want)
	case *kind.Enum:
		return "must be one of " + valuesOf(k.Want...)
	case *kind.Const:
		return "must be " + valuesOf(k.Want)
	case *kind.Minimum:
		return "must be at least " + decimal(k.Want)
	case *kind.Maximum:
		return "must be at most " + decimal(k.Want)
	case *kind.ExclusiveMinimum:
		return "must be more than " + decimal(k.Want)
	case *kind.ExclusiveMaximum:
		return "must be less than " + decimal(k.Want)
	case *kind.MultipleOf:
		return "must be a multiple of " + decimal(k.Want)
	case *kind.UniqueItems:
		return fmt.Sprintf("must not have the same item twice, as at %d and %d", k.Duplicates[0], k.Duplicates[1])
	case *kind.Pattern:
		return "must match the pattern " + k.Want
	case *kind.Format:
		return "must be of the format " + k.Want
	case *kind.PropertyNames:
		return fmt.Sprintf("has a field whose name is not allowed: %q", k.Property)
	case *kind.AnyOf:
		return "fits none of the forms that it may have"
	case *kind.OneOf:
		if len(k.Subschemas) > 0 {
			return "fits more than one of the forms of which it may have one"
		}
		return "fits none of the forms that it may have"
	case *kind.Not:
		return "has a form that is not allowed"
	case *kind.FalseSchema:
		return "is not allowed"
	}
	return countOf(broken)
}

// countOf is ruleOf, for rules of how many.
func countOf(broken jsonschema.ErrorKind) string {
	switch k := broken.(type) {
	case *kind.MinLength:
		return "must have at least " + counted(k.Want, "character")
	case *kind.MaxLength:
		return "must have at most " + counted(k.Want, "character")
	case *kind.MinItems:
		return "must have at least " + counted(k.Want, "item")
	case *kind.MaxItems:
		return "must have at most " + counted(k.Want, "item")
	case *kind.MinProperties:
		return "must have at least " + counted(k.Want, "field")
	case *kind.MaxProperties:
		return "must have at most " + counted(k.Want, "field")
	case *kind.Contains:
		return "has no item of the form that one item must have"
	case *kind.MinContains:
		return "has fewer than " + counted(k.Want, "item") + " of the form that these must have"
	case *kind.MaxContains:
		return "has more than " + counted(k.Want, "item") + " of a form that no more may have"
	case *kind.AdditionalItems:
		return "has " + counted(k.Count, "item") + " too many"
	}
	return "does not fit the schema of the work"
}

// maxValues bounds the allowed values that a sentence lists, in bytes.
const maxValues = 200

func valuesOf(values ...any) string {
	var told []string
	for _, value := range values {
		text, err := json.Marshal(value)
		if err != nil {
			return "the values that the schema allows"
		}
		told = append(told, string(text))
	}
	if list := strings.Join(told, ", "); len(list) <= maxValues {
		return list
	}
	return "the values that the schema allows"
}

// decimal writes a bound as the schema does, and not as a fraction.
func decimal(bound *big.Rat) string {
	if bound.IsInt() {
		return bound.RatString()
	}
	digits, exact := bound.FloatPrec()
	if !exact {
		return bound.RatString()
	}
	return bound.FloatString(digits)
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// pointerTo is an RFC 6901 pointer.
func pointerTo(path []string) string {
	var pointer strings.Builder
	for _, name := range path {
		pointer.WriteString("/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name))
	}
	return pointer.String()
}
