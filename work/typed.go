package work

import (
	"context"
	"fmt"
	"reflect"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/jsonschema-go/jsonschema"
)

// Typed makes a Work of a function that takes and returns Go values. Its schema comes from
// In: a struct's fields by their json tags, required unless tagged omitzero or omitempty.
// Other fields are refused, and a jsonschema tag describes a field. The input is decoded
// as strictly.
func Typed[In, Out any](do func(ctx context.Context, in In) (Out, error)) Work {
	schema, err := schemaOf[In]()
	return Work{
		Schema:      schema,
		schemaFirst: true, // the decoder misses no field that isn't there
		mistake:     err,
		Check: func(input jsontext.Value) (jsontext.Value, error) {
			in, err := decode[In](input)
			if err != nil {
				return nil, err
			}
			return json.Marshal(in, json.Deterministic(true))
		},
		Do: func(ctx context.Context, call Call) (jsontext.Value, error) {
			in, err := decode[In](call.Input)
			if err != nil {
				return nil, fmt.Errorf("decoding input: %w", err)
			}
			out, err := do(ctx, in)
			if err != nil {
				return nil, err
			}
			return json.Marshal(out, json.Deterministic(true))
		},
	}
}

func decode[In any](input jsontext.Value) (in In, err error) {
	return in, json.Unmarshal(input, &in, json.RejectUnknownMembers(true))
}

func schemaOf[In any]() (jsontext.Value, error) {
	schema, err := jsonschema.For[In](&jsonschema.ForOptions{TypeSchemas: map[reflect.Type]*jsonschema.Schema{
		// As the decoder has them.
		reflect.TypeFor[[]byte]():         {Type: "string", ContentEncoding: "base64"},
		reflect.TypeFor[jsontext.Value](): {},
	}})
	if err != nil {
		return nil, fmt.Errorf("its input has no JSON Schema: %w", err)
	}
	return json.Marshal(schema)
}
