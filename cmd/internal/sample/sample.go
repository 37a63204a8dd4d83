// Package sample is what the tools know of the sample work: its inputs and its results.
package sample

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/receivers"
	"ringback/work/fingerprint"
)

// WorkName is the name of the sample work.
const WorkName = "fingerprint"

// Usual is the default pattern's text.
const Usual = "text=200,rounds=0,delay=0s"

// ParsePattern reads a pattern of inputs, such as Usual, in which each value is N, N..M
// (uniform) or exp:N (exponential): the bytes of the text, rounds that take CPU, and how long
// the work waits. Values that the pattern doesn't name are as in Usual.
func ParsePattern(pattern string) (load.Input, error) {
	written, spreads := map[string]string{}, map[string]load.Spread{}
	read := func(name, value string) (err error) {
		written[name] = value
		if spreads[name], err = parse(name, value); err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
		return err
	}
	_ = load.EachPair(Usual, read) // has no mistake
	if err := load.EachPair(pattern, read); err != nil {
		return load.Input{}, err
	}
	input := fmt.Sprintf(`{"text":"{{text %s}}","rounds":{{number %s}},"delay_ms":{{number %s}}}`,
		spreads["text"], spreads["rounds"], spreads["delay"])
	return load.NewInput(input, fmt.Sprintf("text=%s,rounds=%s,delay=%s", written["text"], written["rounds"], written["delay"]))
}

func parse(name, value string) (load.Spread, error) {
	switch name {
	case "text":
		return load.ParseSpread(value, 1, fingerprint.MaxTextBytes, strconv.Atoi)
	case "rounds":
		return load.ParseSpread(value, 0, fingerprint.MaxRounds, strconv.Atoi)
	case "delay":
		spread, err := load.ParseSpread(value, 0, fingerprint.MaxDelay, func(text string) (int, error) {
			delay, err := time.ParseDuration(text)
			return int(delay.Milliseconds()), err
		})
		if err != nil {
			err = errors.New("want a duration like 20ms, D..D or exp:D, at most 30s")
		}
		return spread, err
	}
	return load.Spread{}, errors.New("want text, rounds or delay")
}

// Config is a load of the sample work on a server in local mode. pattern is as for
// MustParsePattern. The run computes each result again, and compares.
func Config(target, pattern string) load.Config {
	config := load.Defaults()
	config.Target, config.Secret = target, receivers.LocalSecret
	config.Input, config.Result = MustParsePattern(pattern), Result
	return config
}

// MustParsePattern is ParsePattern for a pattern without a mistake.
func MustParsePattern(pattern string) load.Input {
	input, err := ParsePattern(pattern)
	if err != nil {
		panic(err)
	}
	return input
}

// InputJSON asks for the fingerprint of a text, after rounds of CPU work and a delay.
func InputJSON(text string, rounds int, delay time.Duration) jsontext.Value {
	input, err := json.Marshal(fingerprint.Input{Text: text, Rounds: rounds, Delay: int(delay.Milliseconds())})
	if err != nil {
		panic(err) // only for a text that is no UTF-8
	}
	return input
}

// Do does the work of an input.
func Do(ctx context.Context, input []byte) (jsontext.Value, error) { return fingerprint.Do(ctx, input) }

// Result is the result of an input. It is computed without the input's delay.
func Result(ctx context.Context, input []byte) (jsontext.Value, error) {
	var asked fingerprint.Input
	if err := json.Unmarshal(input, &asked); err != nil {
		return nil, fmt.Errorf("reading an input: %w", err)
	}
	return fingerprint.Do(ctx, InputJSON(asked.Text, asked.Rounds, 0))
}
