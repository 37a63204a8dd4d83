package main

import (
	"context"
	"fmt"

	"ringback/cmd/internal/sample"
)

// orderingKeys is the number of ordering keys, where requests have one.
const orderingKeys = 1000

// measureOrdered asks what ordering keys cost: callbacks of a key leave one after the
// other, each released by the end of its predecessor.
func (b *bench) measureOrdered(ctx context.Context) error {
	return rounds(b.plan.stormRepeat, func() error {
		var rates [2]float64
		for i, bodies := range []bodies{asyncBodies, orderedBodies} {
			err := b.onFresh(ctx, "ordered", func(d database) error {
				used, err := b.saturate(ctx, ours, d, bodies)
				rates[i] = used.rate()
				return err
			})
			if err != nil {
				return fmt.Errorf("with %d keys: %w", i*orderingKeys, err)
			}
		}
		b.say("  without keys %6.0f/s, with %d keys %6.0f/s", rates[0], orderingKeys, rates[1])
		b.figures.add("ordered_ratio", rates[1]/rates[0])
		return nil
	})
}

// orderedBodies are small requests, a body for each ordering key.
func orderedBodies(callbackURL string) (bodies [][]byte) {
	for n := range orderingKeys {
		input := sample.Input(fmt.Sprintf("ringback %055d", n), 0, 0)
		bodies = append(bodies, encodeBody(input, callbackURL, fmt.Sprintf("key-%d", n)))
	}
	return bodies
}
