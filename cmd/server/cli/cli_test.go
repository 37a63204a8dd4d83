package cli

import (
	"bytes"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

func TestWriteJSONEscapesWhatTerminalsObey(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	value := jsontext.Value("{ \"a\":\n\"ä\u009b31m\u007f\\u001b[31m\"}")
	if err := WriteJSON(&out, value); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), `{"a":"ä\u009b31m\u007f\u001b[31m"}`+"\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
