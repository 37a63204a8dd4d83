package api

import (
	"errors"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
)

// A body of millions of requests, each a digit, must cost no more than its first thousand. The
// test counts what is allocated, so no other runs meanwhile.
func TestBatchOfTooManyIsNotDecoded(t *testing.T) {
	body := func(items int) []byte {
		return []byte(`{"requests":[` + strings.TrimSuffix(strings.Repeat("1,", items), ",") + `]}`)
	}
	var err error
	huge := body(maxBatchBytes/2 - 10)
	allocations := testing.AllocsPerRun(1, func() { err = unmarshal(huge, new(batchBody)) })
	if !errors.Is(err, errManyItems) || allocations > 2*maxBatch {
		t.Errorf("got %v with %.0f allocations, want too many, with %d at most", err, allocations, 2*maxBatch)
	}
	for items, want := range map[int]error{0: nil, 1: nil, maxBatch: nil, maxBatch + 1: errManyItems} {
		var decoded batchBody
		err := unmarshal(body(items), &decoded)
		if !errors.Is(err, want) || want == nil && len(decoded.Requests) != items {
			t.Errorf("%d requests: got %d, %v, want %v", items, len(decoded.Requests), err, want)
		}
	}
	for text, want := range map[string]string{
		`{"requests":{}}`:   "must be an array",
		`{"requests":"a"}`:  "must be an array",
		`{"requests":null}`: "must not be null",
	} {
		var semantic *json.SemanticError
		err := unmarshal([]byte(text), new(batchBody))
		if !errors.As(err, &semantic) || explainSemantic(semantic) != want || semantic.JSONPointer != "/requests" {
			t.Errorf("%s: got %v, want that /requests %s", text, err, want)
		}
	}
}
