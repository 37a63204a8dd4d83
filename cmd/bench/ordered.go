package main

import (
	"context"
	"encoding/json"
	"fmt"
)

// orderingKeys is how many there are where requests have one.
const orderingKeys = 1000

// measureOrdered asks what ordering keys cost: callbacks of a key leave one after
// the other, each released by the end of the one before.
func (b *bench) measureOrdered(ctx context.Context) error {
	return rounds(b.plan.stormRepeat, func() error {
		var rates [2]float64
		for i, ordered := range []bool{false, true} {
			err := b.onFresh(ctx, "ordered", func(d database) error {
				used, err := b.saturateWith(ctx, ours, d, nil, func(url string) [][]byte { return orderedBodies(url, ordered) })
				rates[i] = used.rate()
				return err
			})
			if err != nil {
				return fmt.Errorf("with ordering keys %v: %w", ordered, err)
			}
		}
		b.say("  without keys %6.0f/s, with %d keys %6.0f/s", rates[0], orderingKeys, rates[1])
		b.figures.add("ordered_ratio", rates[1]/rates[0])
		return nil
	})
}

// orderedBodies are small requests, one for each ordering key.
func orderedBodies(callbackURL string, ordered bool) (bodies [][]byte) {
	if !ordered {
		return [][]byte{asyncBody(callbackURL)}
	}
	for n := range orderingKeys {
		var body map[string]any
		if err := json.Unmarshal(asyncBody(callbackURL), &body); err != nil {
			panic(err) // it was just encoded
		}
		body["ordering_key"] = fmt.Sprintf("key-%d", n)
		encoded, err := json.Marshal(body)
		if err != nil {
			panic(err) // likewise
		}
		bodies = append(bodies, encoded)
	}
	return bodies
}
