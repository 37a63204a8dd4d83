package batch

import (
	"context"
	"testing"
)

// A caller's price for company, with a database that takes no time.
func BenchmarkBatcher(b *testing.B) {
	batcher := New(Config[int, int]{
		Queue: 1000,
		Flush: func(_ context.Context, items []int) ([]int, error) { return items, nil },
	})
	defer batcher.Stop()

	b.Run("Alone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := batcher.Do(b.Context(), 1); err != nil {
				b.Fatal(err)
			}
		}
	})

	b.Run("64Callers", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(64) // for each core
		b.RunParallel(func(loop *testing.PB) {
			for loop.Next() {
				if _, err := batcher.Do(b.Context(), 1); err != nil {
					b.Error(err)
				}
			}
		})
	})
}
