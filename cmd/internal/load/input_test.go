package load

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"
)

func TestInput(t *testing.T) {
	t.Parallel()
	input, err := ParseInput(`{"name":"{{text 20..40}}","count":{{number exp:100}},"five":{{number 5}}}`)
	if err != nil {
		t.Fatal(err)
	}
	author := newAuthor(input, 1)
	seen := make(map[string]bool)
	mean := 0.0
	for number := range 2000 {
		raw := author.appendInput(nil, number)
		var got struct {
			Name        string
			Count, Five int
		}
		if err := json.Unmarshal(raw, &got); err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		if len(got.Name) < 20 || len(got.Name) > 40 || got.Five != 5 {
			t.Fatalf("got %+v, want 20 to 40 bytes, and 5", got)
		}
		if seen[got.Name] {
			t.Fatalf("the text %q came twice", got.Name)
		}
		seen[got.Name] = true
		mean += float64(got.Count) / 2000
	}
	if math.Abs(mean-100) > 10 {
		t.Errorf("mean of the numbers: got %v, want 100", mean)
	}
	again, other := newAuthor(input, 1).appendInput(nil, 7), newAuthor(input, 2).appendInput(nil, 7)
	if first := string(author.appendInput(nil, 7)); string(again) != first || string(other) == first {
		t.Errorf("got %s and %s with one seed, and %s with another", first, again, other)
	}
}

func TestSmallestAndLargestText(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, maxText} {
		author := newAuthor(Input{}, 1)
		if got := len(author.appendText(nil, 123_456, Spread{low: size, high: size})); got != size {
			t.Errorf("got %d bytes, want %d", got, size)
		}
	}
}

func TestInputFromAFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "input.json")
	if err := os.WriteFile(file, []byte(`{"url":"https://example.com/{{text}}","size":[1,"{{text}}"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	input, err := ParseInput("@" + file)
	if err != nil {
		t.Fatal(err)
	}
	raw := newAuthor(input, 1).appendInput(nil, 3)
	var got struct {
		URL  string
		Size []any
	}
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	if text := got.URL[len("https://example.com/"):]; len(text) != 200 || got.Size[1] != text {
		t.Errorf("got %s, want 200 bytes of text, twice", raw)
	}
	if constant, err := ParseInput(`{"n":1}`); err != nil || constant.String() != `{"n":1}` {
		t.Errorf("without a placeholder: got %q, %v, want it as it is", constant, err)
	}
}

func TestInputRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "{", "@/nowhere/input.json", `{"n":{{number}`, `{"n":"{{words}}"`,
		`{"n":"{{text 0}}"}`, `{"n":"{{text 65537}}"}`, `{"n":"{{text 9..5}}"}`, `{"n":"{{text exp:5..9}}"}`, `{"n":{{number -1}}}`, `{"n":{{number x}}}`,
	} {
		if _, err := ParseInput(text); err == nil {
			t.Errorf("%q: got no error", text)
		}
	}
}
