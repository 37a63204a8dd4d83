package main

import (
	"context"
	"errors"
	"fmt"
)

// measureRetention asks whether removing old requests slows the service down. All
// that the table holds at first are too old, so it is removed as fast as it goes.
func (b *bench) measureRetention(ctx context.Context) (err error) {
	if b.plan.swept == 0 {
		b.say("  left out")
		return nil
	}
	d, err := b.cluster.create(ctx, "swept", "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.cluster.drop(ctx, d)) }()
	if err := errors.Join(b.plant(ctx, d), d.grow(ctx, b.plan.swept), b.cluster.execute(ctx, "CHECKPOINT")); err != nil {
		return err
	}
	return rounds(b.plan.repeat, func() error { return b.compareSwept(ctx, d) })
}

func (b *bench) compareSwept(ctx context.Context, template database) error {
	var rates [2]float64
	for i, retention := range []string{"RETENTION=0", "RETENTION=1m"} {
		err := b.onCopy(ctx, "copy", template.name, func(d database) error {
			used, err := b.saturate(ctx, ours, d, retention)
			rates[i] = used.rate()
			return err
		})
		if err != nil {
			return fmt.Errorf("with %s: %w", retention, err)
		}
	}
	b.say("  keeping all %6.0f/s, removing %6.0f/s", rates[0], rates[1])
	b.figures.add("retention_ratio", rates[1]/rates[0])
	return nil
}
