package batch

import (
	"context"
	"slices"
	"testing"
	"time"

	"ringback/internal/bubble"
)

// TestBatcherRest is on a fake clock.
func TestBatcherRest(t *testing.T) {
	t.Parallel()
	const rest = 10 * time.Millisecond
	for _, test := range []struct {
		name    string
		items   map[int]time.Duration // when each is given
		want    [][]int
		flushed []time.Duration
	}{
		{"FlushesAtOnceAfterAPause", map[int]time.Duration{1: 0, 2: 2 * rest}, [][]int{{1}, {2}}, []time.Duration{0, 2 * rest}},
		{"JoinsWhatComesMeanwhile", map[int]time.Duration{1: 0, 2: 3, 3: rest + 1, 4: 2*rest + 1}, [][]int{{1}, {2}, {3}, {4}}, []time.Duration{0, rest, 2 * rest, 3 * rest}},
		{"RestsTwiceAsLongAfterSeveral", map[int]time.Duration{1: 0, 2: 3, 3: 6, 4: rest + 1, 5: 2*rest + 1, 6: 3*rest + 1}, [][]int{{1}, {2, 3}, {4, 5}, {6}}, []time.Duration{0, rest, 3 * rest, 5 * rest}},
		{"FlushesUrgentItemsAtOnceWithTheRest", map[int]time.Duration{1: 0, 2: 3, 100: 6, 3: 7}, [][]int{{1}, {2, 100}, {3}}, []time.Duration{0, 6, 2*rest + 6}},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				start := time.Now()
				var got [][]int
				var flushed []time.Duration
				b := New(Config[int, int]{
					Queue: 10, Rest: rest, Urgent: func(item int) bool { return item >= 100 },
					Flush: func(_ context.Context, items []int) ([]int, error) {
						got, flushed = append(got, items), append(flushed, time.Since(start))
						return items, nil
					},
				})
				for item, after := range test.items {
					go func() {
						time.Sleep(after)
						_, _ = b.Do(t.Context(), item)
					}()
				}
				time.Sleep(time.Second)
				b.Stop()
				if !slices.EqualFunc(got, test.want, slices.Equal[[]int]) || !slices.Equal(flushed, test.flushed) {
					t.Errorf("got %v at %v, want %v at %v", got, flushed, test.want, test.flushed)
				}
			})
		})
	}

	t.Run("StopsWithoutRest", func(t *testing.T) {
		bubble.Test(t, func(t *testing.T) {
			b := New(Config[int, int]{
				Queue: 10, Rest: time.Hour, Flush: func(_ context.Context, items []int) ([]int, error) { return items, nil },
			})
			_, _ = b.Do(t.Context(), 1)
			answered := make(chan error, 1)
			go func() {
				_, err := b.Do(t.Context(), 2)
				answered <- err
			}()
			bubble.Wait()
			start := time.Now()
			b.Stop()
			if err := <-answered; err != nil || time.Since(start) != 0 {
				t.Errorf("got %v after %v, want it flushed at once", err, time.Since(start))
			}
		})
	})
}
