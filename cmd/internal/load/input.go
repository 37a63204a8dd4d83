package load

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// Input is the input of requests: any JSON, with placeholders for values that differ from
// request to request.
type Input struct {
	name  string // in reports
	parts []part
}

// part is the text before a placeholder, and the placeholder.
type part struct {
	literal []byte
	kind    string // text or number, empty after the last
	value   Spread // bytes of the text, or the number
}

// maxText bounds a text, in bytes.
const maxText = 64 << 10

// PlaceholderHelp explains the placeholders of an input.
const PlaceholderHelp = "{{text}} stands for 200 bytes of text that differ each time, {{text N}} for N bytes, {{number N}} for a number"

var placeholder = regexp.MustCompile(`\{\{(text|number)(?: ([^{}]*))?\}\}`)

// NewInput reads JSON with placeholders. name stands for the input in reports.
func NewInput(pattern, name string) (Input, error) {
	in := Input{name: name}
	rest := pattern
	for found := placeholder.FindStringSubmatchIndex(rest); found != nil; found = placeholder.FindStringSubmatchIndex(rest) {
		next := part{literal: []byte(rest[:found[0]]), kind: rest[found[2]:found[3]]}
		spread := "200"
		if found[4] >= 0 {
			spread = rest[found[4]:found[5]]
		}
		least, most := 0, 1_000_000_000
		if next.kind == "text" {
			least, most = 1, maxText
		}
		var err error
		if next.value, err = ParseSpread(spread, least, most, strconv.Atoi); err != nil {
			return in, fmt.Errorf("%s: %w", rest[found[0]:found[1]], err)
		}
		in.parts, rest = append(in.parts, next), rest[found[1]:]
	}
	in.parts = append(in.parts, part{literal: []byte(rest)})
	if !json.Valid(newAuthor(in, 1).appendInput(nil, 0)) {
		return in, errors.New("want JSON, or @file with JSON in it; " + PlaceholderHelp)
	}
	return in, nil
}

// ParseInput reads the value of -input: JSON, or @ and the name of a file with JSON.
func ParseInput(text string) (Input, error) {
	if name, isFile := strings.CutPrefix(text, "@"); isFile {
		content, err := os.ReadFile(name)
		if err != nil {
			return Input{}, err
		}
		text = string(bytes.TrimSpace(content))
	}
	return NewInput(text, text)
}

func (in Input) String() string { return in.name }

// Spread is how a number varies from request to request.
type Spread struct {
	low         int  // minimum, or mean of an exponential spread
	high        int  // greatest
	exponential bool // exponential around low, cut off at high; otherwise uniform
}

func (s Spread) draw(random *rand.Rand) int {
	switch {
	case s.exponential:
		return min(int(random.ExpFloat64()*float64(s.low)+0.5), s.high)
	case s.low == s.high:
		return s.low
	default:
		return s.low + random.IntN(s.high-s.low+1)
	}
}

// String is the spread in whole numbers, as ParseSpread takes it.
func (s Spread) String() string {
	switch {
	case s.exponential:
		return fmt.Sprintf("exp:%d", s.low)
	case s.low == s.high:
		return strconv.Itoa(s.low)
	default:
		return fmt.Sprintf("%d..%d", s.low, s.high)
	}
}

// ParseSpread reads "5", "5..9" (uniform) or "exp:5" (exponential, cut off at most).
// number reads one value.
func ParseSpread(text string, least, most int, number func(string) (int, error)) (Spread, error) {
	first, second, isRange := strings.Cut(text, "..")
	first, isExponential := strings.CutPrefix(first, "exp:")
	if !isRange {
		second = first
	}
	low, errLow := number(first)
	high, errHigh := number(second)
	if errLow != nil || errHigh != nil || isRange && isExponential || low < least || high > most || low > high {
		return Spread{}, fmt.Errorf("want N, N..M or exp:N within %d to %d", least, most)
	}
	if isExponential {
		high = most
	}
	return Spread{low, high, isExponential}, nil
}

// EachPair calls f for each name=value of a list with commas, and returns all errors
// joined. It refuses a name that stands twice, since either value may be meant.
func EachPair(text string, f func(name, value string) error) error {
	var mistakes error
	seen := map[string]bool{}
	for pair := range strings.SplitSeq(text, ",") {
		name, value, found := strings.Cut(pair, "=")
		switch {
		case !found:
			mistakes = errors.Join(mistakes, fmt.Errorf("%q is not name=value", pair))
			continue
		case seen[name]:
			mistakes = errors.Join(mistakes, fmt.Errorf("%s stands twice", name))
			continue
		}
		seen[name] = true
		mistakes = errors.Join(mistakes, f(name, value))
	}
	return mistakes
}

// author writes the inputs of requests. The same number has the same input, so that a run
// can be repeated and its results be checked.
type author struct {
	input  Input
	seed   uint64
	corpus []byte // words of random letters, of which texts are parts
}

func newAuthor(input Input, seed uint64) *author {
	const letters = "abcdefghijklmnopqrstuvwxyz     " // words of five letters or so
	random := rand.New(rand.NewPCG(seed, 1))
	corpus := make([]byte, 2*maxText)
	for i := range corpus {
		corpus[i] = letters[random.IntN(len(letters))]
	}
	return &author{input, seed, corpus}
}

// appendInput appends the input of a request, with the same text for all placeholders of
// one size.
func (a *author) appendInput(to []byte, number int) []byte {
	numbers := rand.New(rand.NewPCG(a.seed, ^uint64(number)))
	for _, part := range a.input.parts {
		to = append(to, part.literal...)
		switch part.kind {
		case "text":
			to = a.appendText(to, number, part.value)
		case "number":
			to = strconv.AppendInt(to, int64(part.value.draw(numbers)), 10)
		}
	}
	return to
}

// appendText appends a text: the request's number, so that no two are alike, then words.
// Nothing in it needs escaping.
func (a *author) appendText(to []byte, number int, spread Spread) []byte {
	random := rand.New(rand.NewPCG(a.seed, uint64(number)+2))
	size, start := max(1, spread.draw(random)), len(to)
	offset := random.IntN(len(a.corpus) - size + 1)
	to = strconv.AppendInt(to, int64(number), 10)
	to = append(to, ' ')
	if missing := start + size - len(to); missing > 0 {
		to = append(to, a.corpus[offset:offset+missing]...)
	}
	return to[:start+size]
}
