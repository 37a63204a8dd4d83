package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"

	"ringback/work/fingerprint"
)

// spread is how a number varies from request to request.
type spread struct {
	text        string // as it was written
	low         int    // least, or the mean of an exponential one
	high        int    // greatest
	exponential bool   // exponential around low, cut off at high; otherwise uniform
}

func fixed(value int) spread { return spread{strconv.Itoa(value), value, value, false} }

func (s spread) String() string { return s.text }

func (s spread) draw(random *rand.Rand) int {
	switch {
	case s.exponential:
		return min(int(random.ExpFloat64()*float64(s.low)+0.5), s.high)
	case s.low == s.high:
		return s.low
	default:
		return s.low + random.IntN(s.high-s.low+1)
	}
}

// parseSpread reads "5", "5..9" (uniform) or "exp:5" (exponential, cut off at
// most). number reads one value.
func parseSpread(text string, least, most int, number func(string) (int, error)) (spread, error) {
	first, second, isRange := strings.Cut(text, "..")
	first, isExponential := strings.CutPrefix(first, "exp:")
	if !isRange {
		second = first
	}
	low, errLow := number(first)
	high, errHigh := number(second)
	if errLow != nil || errHigh != nil || isRange && isExponential || low < least || high > most || low > high {
		return spread{}, fmt.Errorf("want N, N..M or exp:N within %d to %d", least, most)
	}
	if isExponential {
		high = most
	}
	return spread{text, low, high, isExponential}, nil
}

// milliseconds reads a duration.
func milliseconds(text string) (int, error) {
	duration, err := time.ParseDuration(text)
	return int(duration.Milliseconds()), err
}

// workload is what the requests ask for.
type workload struct {
	text   spread // bytes
	rounds spread
	delay  spread // milliseconds
	seed   uint64

	// input takes the place of the sample's input, where it is there: any JSON, in which
	// a text of the bytes above stands for each placeholder.
	input pattern
}

// pattern is the parts of an input between its placeholders.
type pattern [][]byte

// placeholder stands for random text, different in each request.
const placeholder = "{{text}}"

// parsePattern reads JSON, or the name of a file that holds it, after an @.
func parsePattern(text string) (pattern, error) {
	content := []byte(text)
	if name, isFile := strings.CutPrefix(text, "@"); isFile {
		var err error
		if content, err = os.ReadFile(name); err != nil {
			return nil, err
		}
	}
	if !json.Valid(content) {
		return nil, errors.New("want JSON, or @file with JSON in it")
	}
	return bytes.Split(content, []byte(placeholder)), nil
}

func (t pattern) String() string { return string(bytes.Join(t, []byte(placeholder))) }

// appendInput appends the input of an order, with the same text in every place.
func (t pattern) appendInput(to []byte, text func(to []byte) []byte) []byte {
	for i, part := range t {
		if i > 0 {
			to = text(to)
		}
		to = append(to, part...)
	}
	return to
}

func defaultWorkload() workload { return workload{text: fixed(200), rounds: fixed(0), delay: fixed(0)} }

func (w workload) String() string {
	if w.input != nil {
		return w.input.String()
	}
	return fmt.Sprintf("text=%v,rounds=%v,delay=%v", w.text, w.rounds, w.delay)
}

// parseWorkload reads what -work takes; what it doesn't name keeps its default.
func parseWorkload(text string) (workload, error) {
	load := defaultWorkload()
	err := eachPair(text, func(name, value string) error {
		var err error
		switch name {
		case "text":
			load.text, err = parseSpread(value, 1, fingerprint.MaxTextBytes, strconv.Atoi)
		case "rounds":
			load.rounds, err = parseSpread(value, 0, fingerprint.MaxRounds, strconv.Atoi)
		case "delay":
			load.delay, err = parseSpread(value, 0, fingerprint.MaxDelay, milliseconds)
			if err != nil {
				err = errors.New("want a duration like 20ms, D..D or exp:D, at most 30s")
			}
		default:
			return fmt.Errorf("%s: want text, rounds or delay", name)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
	return load, err
}

// eachPair calls f for each name=value of a list with commas, and returns all
// errors joined.
func eachPair(text string, f func(name, value string) error) error {
	var mistakes error
	for pair := range strings.SplitSeq(text, ",") {
		name, value, found := strings.Cut(pair, "=")
		if !found {
			mistakes = errors.Join(mistakes, fmt.Errorf("%q is not name=value", pair))
			continue
		}
		mistakes = errors.Join(mistakes, f(name, value))
	}
	return mistakes
}

// author writes the bodies of the requests, the same for the same number, so
// that a run can be repeated and its results be checked.
type author struct {
	load   workload
	corpus []byte // words of random letters, which texts are cut from
}

func newAuthor(load workload) *author {
	const letters = "abcdefghijklmnopqrstuvwxyz     " // words of five letters or so
	random := rand.New(rand.NewPCG(load.seed, 1))
	corpus := make([]byte, 2*fingerprint.MaxTextBytes)
	for i := range corpus {
		corpus[i] = letters[random.IntN(len(letters))]
	}
	return &author{load, corpus}
}

// order is what one request asks for.
type order struct {
	number, offset, size, rounds, delay int
}

func (a *author) order(number int) order {
	random := rand.New(rand.NewPCG(a.load.seed, uint64(number)+2))
	size := max(1, a.load.text.draw(random))
	return order{
		number: number,
		offset: random.IntN(len(a.corpus) - size + 1),
		size:   size,
		rounds: a.load.rounds.draw(random),
		delay:  a.load.delay.draw(random),
	}
}

// appendText appends the text: the request's number, so that no two are alike,
// then words.
func (a *author) appendText(to []byte, order order) []byte {
	start := len(to)
	to = strconv.AppendInt(to, int64(order.number), 10)
	to = append(to, ' ')
	if missing := start + order.size - len(to); missing > 0 {
		to = append(to, a.corpus[order.offset:order.offset+missing]...)
	}
	return to[:start+order.size]
}

// appendInput appends the JSON of the input. Nothing in the text needs escaping.
func (a *author) appendInput(to []byte, order order) []byte {
	if a.load.input != nil {
		return a.load.input.appendInput(to, func(to []byte) []byte { return a.appendText(to, order) })
	}
	to = append(to, `{"text":"`...)
	to = a.appendText(to, order)
	to = append(to, `","rounds":`...)
	to = strconv.AppendInt(to, int64(order.rounds), 10)
	to = append(to, `,"delay_ms":`...)
	to = strconv.AppendInt(to, int64(order.delay), 10)
	return append(to, '}')
}
