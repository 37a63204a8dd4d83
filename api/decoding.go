package api

import (
	"runtime"
	"time"

	"ringback/jobs/limit"
)

// decodingPatience is the longest that a large body waits to be decoded. Most take less
// than a millisecond, so many pass within it.
const decodingPatience = time.Second

// decodingRest is how many times as long as its decoding a body keeps its slot afterwards. So a
// client decodes for a quarter of the time, on half of the cores at most.
const decodingRest = 3

// newDecoding shares the cores among clients while large bodies are decoded, one at a time on
// each. Checking 4 MiB of short names takes a core a quarter of a second. So the bodies of one
// client, within its rate, could otherwise take all cores from the calls of others. However large
// its bodies are, a client leaves half of the cores to others.
func newDecoding(shared bool) *limit.Gate {
	return limit.NewGate(limit.NewHalves(decodedAtOnce(), shared), limit.OldestFirst, reasonBodies, reasonClientBodies)
}

// decodedAtOnce is how many large bodies are decoded at a time: a single client may have
// half of two at least.
func decodedAtOnce() int { return max(2, runtime.GOMAXPROCS(0)) }

// beginDecoding waits until a body of so many bytes may be decoded, until decoded. Small
// bodies don't wait: they cost little at any rate that a client may have.
func (a *API) beginDecoding(c *call, length int) error {
	if length <= smallBody {
		return nil
	}
	client := c.client
	patience := func(limit.Queue) time.Duration { return decodingPatience }
	if err := a.decoding.Enter(c.Request.Context(), client, patience).Err(); err != nil {
		return err
	}
	began := time.Now()
	c.decoding = func() { a.endDecoding(client, time.Since(began)) }
	return nil
}

// endDecoding leaves the slot, which rests where other clients need the core.
func (a *API) endDecoding(client string, took time.Duration) {
	if !a.areShared() {
		a.decoding.Leave(client)
		return
	}
	time.AfterFunc(decodingRest*took, func() { a.decoding.Leave(client) })
}

// decoded lets the next body be decoded. A call that ends does so by itself.
func (c *call) decoded() {
	leave := c.decoding
	c.decoding = func() {}
	leave()
}
