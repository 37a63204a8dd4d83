// Package fingerprint is the sample work: a fingerprint of a text, which can be made
// expensive or slow.
package fingerprint

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"ringback/work"
)

// Work is the fingerprint as the service offers it.
var Work = work.Work{Check: Check, Do: work.Plain(Do).Do, Schema: jsontext.Value(schema), Deterministic: true}

// schema is the form of Check's input, for callers. JSON Schema counts characters, so
// bytes are left to Check.
const schema = `{
	"type": "object",
	"additionalProperties": false,
	"required": ["text"],
	"properties": {
		"text": {"type": "string", "minLength": 1, "maxLength": 65536, "description": "1 byte to 64 KiB of UTF-8, without U+0000"},
		"rounds": {"type": "integer", "minimum": 0, "maximum": 1000000, "description": "extra SHA-256 rounds"},
		"delay_ms": {"type": "integer", "minimum": 0, "maximum": 30000, "description": "simulated waiting, in milliseconds"}
	}
}`

// Limits of the input.
const (
	MaxTextBytes = 64 << 10  // bytes of UTF-8, unescaped
	MaxRounds    = 1_000_000 // about 60 ms of a core
	MaxDelay     = 30_000    // milliseconds
)

// Input asks for the fingerprint of a text. Rounds and Delay make it as
// expensive or as slow as the caller wants to see.
type Input struct {
	Text   string `json:"text"`     // 1 byte to MaxTextBytes
	Rounds int    `json:"rounds"`   // extra SHA-256 rounds, 0 to MaxRounds: the CPU knob
	Delay  int    `json:"delay_ms"` // simulated waiting, 0 to MaxDelay
}

// Result is the fingerprint.
type Result struct {
	SHA256   string      `json:"sha256"`  // hex; the digest of the text, hashed again Rounds times
	SimHash  string      `json:"simhash"` // hex; near texts differ in few of its 64 bits
	Bytes    int         `json:"bytes"`
	Lines    int         `json:"lines"` // a last line without a newline counts
	Words    int         `json:"words"`
	TopWords []WordCount `json:"top_words"` // at most ten, most frequent first, then alphabetical
}

// WordCount is how often a word stands in the text.
type WordCount struct {
	Word  string `json:"word"`
	Count int    `json:"count"`
}

// Check returns the canonical form of an input: decoded, checked and encoded
// again, so that nothing is stored which Do or the database would refuse
// later.
func Check(raw jsontext.Value) (jsontext.Value, error) {
	var input Input
	if err := json.Unmarshal(raw, &input, json.RejectUnknownMembers(true)); err != nil {
		return nil, err
	}
	switch {
	case input.Text == "":
		return nil, &work.FieldError{Pointer: "/text", Detail: "is required and must not be empty"}
	case len(input.Text) > MaxTextBytes:
		return nil, &work.FieldError{Pointer: "/text", Detail: fmt.Sprintf("must be at most %d bytes", MaxTextBytes)}
	case strings.ContainsRune(input.Text, 0): // Postgres can't store it
		return nil, &work.FieldError{Pointer: "/text", Detail: "must not contain U+0000"}
	case input.Rounds < 0 || input.Rounds > MaxRounds:
		return nil, &work.FieldError{Pointer: "/rounds", Detail: fmt.Sprintf("must be from 0 to %d", MaxRounds)}
	case input.Delay < 0 || input.Delay > MaxDelay:
		return nil, &work.FieldError{Pointer: "/delay_ms", Detail: fmt.Sprintf("must be from 0 to %d", MaxDelay)}
	}
	return json.Marshal(input)
}

// Do does the work: input is Check's result, and the same input gives the same bytes.
// While it waits or computes, it ends early with the context's error.
func Do(ctx context.Context, input jsontext.Value) (jsontext.Value, error) {
	var in Input
	if err := json.Unmarshal(input, &in); err != nil {
		return nil, fmt.Errorf("decoding input: %w", err)
	}
	if err := wait(ctx, time.Duration(in.Delay)*time.Millisecond); err != nil {
		return nil, err
	}
	digest, err := hash(ctx, in.Text, in.Rounds)
	if err != nil {
		return nil, err
	}
	words := splitWords(in.Text)
	return json.Marshal(Result{
		SHA256:   hex.EncodeToString(digest[:]),
		SimHash:  fmt.Sprintf("%016x", simHash(words)),
		Bytes:    len(in.Text),
		Lines:    countLines(in.Text),
		Words:    len(words),
		TopWords: topWords(words, 10),
	})
}

func wait(ctx context.Context, delay time.Duration) error {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

func hash(ctx context.Context, text string, rounds int) ([sha256.Size]byte, error) {
	// A look at the context every 4,096 rounds (a quarter of a millisecond) costs nothing
	// measurable and stops soon enough. Yielding there keeps answers quick while many runs
	// compute.
	const roundsPerLook = 4096
	digest := sha256.Sum256([]byte(text))
	for round := range rounds {
		if round%roundsPerLook == 0 {
			if err := ctx.Err(); err != nil {
				return digest, err
			}
			runtime.Gosched()
		}
		digest = sha256.Sum256(digest[:])
	}
	return digest, nil
}

func countLines(text string) int {
	lines := bytes.Count([]byte(text), []byte{'\n'})
	if !strings.HasSuffix(text, "\n") {
		lines++
	}
	return lines
}
