package batch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ringback/internal/bubble"
)

// errRefused is a flush's error for a batch with a bad item.
var errRefused = errors.New("refused")

func blames(err error) bool { return errors.Is(err, errRefused) }

func TestBatcherIsolatesARefusedItem(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 2, 3, 100, 256} {
		t.Run(fmt.Sprintf("Of%d", size), func(t *testing.T) {
			t.Parallel()
			for bad := 0; bad < size; bad += max(size/9, 1) {
				bubble.Test(t, func(t *testing.T) { isolate(t, size, bad) })
			}
		})
	}
}

// isolate flushes a batch of the given size whose item bad is refused.
func isolate(t *testing.T, size, bad int) {
	flushes := 0
	hold := make(chan struct{})
	b := New(Config[int, int]{Queue: size, Flushers: 1, Blames: blames, Flush: func(_ context.Context, items []int) ([]int, error) {
		if items[0] == -1 {
			<-hold
			return items, nil
		}
		flushes++
		if slices.Contains(items, bad) {
			return nil, fmt.Errorf("inserting: %w", errRefused)
		}
		return negated(items), nil
	}})
	ask(t.Context(), b, -1)
	callers := ask(t.Context(), b, numbers(0, size-1)...)
	close(hold)
	b.Stop()
	bubble.Wait()
	if err := callers[bad].err; !callers[bad].done || !errors.Is(err, errRefused) {
		t.Errorf("item %d: got %v, want %v", bad, err, errRefused)
	}
	wantResults(t, slices.Delete(callers, bad, bad+1))
	if most := 1 + 2*bits.Len(uint(size-1)); flushes > most {
		t.Errorf("item %d of %d: got %d flushes, want at most %d", bad, size, flushes, most)
	}
}

func TestBatcherFails(t *testing.T) {
	t.Parallel()
	for name, blames := range map[string]func(error) bool{"NoItemIsToBlame": blames, "NobodySaysWhich": nil} {
		t.Run("AllAlikeWhen/"+name, func(t *testing.T) {
			t.Parallel()
			lost := fmt.Errorf("inserting: %w", io.ErrUnexpectedEOF)
			bubble.Test(t, func(t *testing.T) {
				b, d := newDesk(t, Config[int, int]{Blames: blames})
				ask(t.Context(), b, 0)
				callers := ask(t.Context(), b, numbers(1, 9)...)
				d.end <- nil
				bubble.Wait()
				d.end <- lost // and no second try: the result of the first is unknown
				bubble.Wait()
				for _, c := range callers {
					if !c.done || c.err != lost {
						t.Errorf("item %d: got done %v with %v, want %v", c.item, c.done, c.err, lost)
					}
				}
				if got := len(d.begun); got != 2 {
					t.Errorf("flushes: got %d, want one, after that of item 0", got)
				}
			})
		})
	}
	for name, test := range map[string]func(t *testing.T){
		"WhenAFlushPanicsAndGoesOn": func(t *testing.T) {
			b := New(Config[int, int]{Queue: 1, Flushers: 1, Flush: func(_ context.Context, items []int) ([]int, error) {
				if items[0] == 1 {
					panic("broken")
				}
				return negated(items), nil
			}})
			if _, err := b.Do(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "panic in a flush: broken\n") || !strings.Contains(err.Error(), "faults_test.go") {
				t.Errorf("got %v, want the panic and where it was", err)
			}
			wantResults(t, ask(t.Context(), b, 2))
			b.Stop()
		},
		"WhenResultsAreMissing": func(t *testing.T) {
			b := New(Config[int, int]{Queue: 1, Flush: func(context.Context, []int) ([]int, error) { return nil, nil }})
			if _, err := b.Do(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "flushing 1 items: got 0 results") {
				t.Errorf("got %v, want the two numbers", err)
			}
			b.Stop()
		},
		"AfterFiveSecondsOfEachFlush": func(t *testing.T) {
			b := New(Config[int, int]{Queue: 1, Flushers: 1, Flush: func(ctx context.Context, _ []int) ([]int, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}})
			for range 3 {
				start := time.Now()
				_, err := b.Do(t.Context(), 1)
				if took := time.Since(start); took != 5*time.Second || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v after %v, want the deadline after 5s", err, took)
				}
			}
			b.Stop()
		},
		"ACallerWhoseContextEndsAndFlushesItsItem": func(t *testing.T) {
			b, d := newDesk(t, Config[int, int]{})
			ctx, cancel := context.WithCancel(t.Context())
			gone, others := ask(ctx, b, 1, 2), ask(t.Context(), b, 3) // 1 is being flushed, 2 waits
			cancel()
			bubble.Wait()
			for _, c := range gone {
				if !c.done || !errors.Is(c.err, context.Canceled) {
					t.Errorf("item %d: got done %v with %v, want %v at once", c.item, c.done, c.err, context.Canceled)
				}
			}
			wantBatch(t, d.next(), 1)
			d.end <- nil
			wantBatch(t, d.next(), 2, 3)
			d.end <- nil
			wantResults(t, others)
		},
		// Finished work must be recorded, also by a process that is stopping.
		"ACallerWhoseContextHadEndedAndFlushesItsItem": func(t *testing.T) {
			b, d := newDesk(t, Config[int, int]{})
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if gone := ask(ctx, b, 1)[0]; !gone.done || !errors.Is(gone.err, context.Canceled) {
				t.Errorf("got done %v with %v, want %v", gone.done, gone.err, context.Canceled)
			}
			wantBatch(t, d.next(), 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, test)
		})
	}
}

func TestBatcherStops(t *testing.T) {
	t.Parallel()

	t.Run("WhenAllIsFlushed", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			b, d := newDesk(t, Config[int, int]{Size: func(item int) int { return item }})
			const large = 1 << 19
			callers := ask(t.Context(), b, 1, 2, large, large+1, 3)
			stopped := make(chan struct{})
			go func() {
				b.Stop()
				b.Stop() // again does no harm
				close(stopped)
			}()
			bubble.Wait()
			if late := ask(t.Context(), b, 4)[0]; !late.done || !errors.Is(late.err, ErrStopped) {
				t.Errorf("after Stop: got done %v with %v, want %v", late.done, late.err, ErrStopped)
			}
			for _, want := range [][]int{{1}, {2, large}, {large + 1, 3}} {
				wantBatch(t, d.next(), want...)
				select {
				case <-stopped:
					t.Error("Stop returned before the last flush")
				default:
				}
				d.end <- nil
			}
			wantResults(t, callers)
			<-stopped
		})
	})

	t.Run("WithEveryAcknowledgedItemFlushedOnce", func(t *testing.T) {
		t.Parallel()
		const goroutines, each = 64, 200
		var flushed [goroutines * each]atomic.Int32
		isBad := func(item int) bool { return item%97 == 0 }
		b := New(Config[int, int]{Queue: 40, Blames: blames, Flush: func(_ context.Context, items []int) ([]int, error) {
			if slices.ContainsFunc(items, isBad) {
				return nil, errRefused
			}
			for _, item := range items {
				flushed[item].Add(1)
			}
			return negated(items), nil
		}})
		var returned, acknowledged atomic.Int64
		half := make(chan struct{})
		var all sync.WaitGroup
		for g := range goroutines {
			all.Go(func() {
				for i := range each {
					item := g*each + i
					result, err := b.Do(t.Context(), item)
					want := int32(0)
					if err == nil {
						want = 1
					}
					if got := flushed[item].Load(); got != want || err == nil && result != -item {
						t.Errorf("item %d: got %d with %v, flushed %d times, want %d and %d times", item, result, err, got, -item, want)
					}
					if isBad(item) && err == nil {
						t.Errorf("item %d: got no error, want it refused", item)
					}
					if !isBad(item) && err != nil && !errors.Is(err, ErrFull) && !errors.Is(err, ErrStopped) {
						t.Errorf("item %d: got %v, want no other's error", item, err)
					}
					acknowledged.Add(int64(want))
					if returned.Add(1) == goroutines*each/2 {
						close(half)
					}
				}
			})
		}
		all.Go(func() {
			<-half
			b.Stop()
		})
		all.Wait()
		if got := acknowledged.Load(); got == 0 || got == goroutines*each {
			t.Errorf("acknowledged: got %d, want some and not all", got)
		}
	})
}
