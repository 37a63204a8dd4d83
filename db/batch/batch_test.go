package batch

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"
	"time"

	"ringback/internal/bubble"
)

// desk is a Flush that a test answers by hand: begun tells of a batch, which
// then waits for an error, or nil, on end.
type desk struct {
	begun chan []int
	end   chan error
}

// newDesk returns a batcher with a flusher at a desk. Its items are numbers, whose
// results are the same numbers with a minus sign.
func newDesk(t *testing.T, config Config[int, int]) (*Batcher[int, int], *desk) {
	t.Helper()
	d := &desk{make(chan []int, 1000), make(chan error)}
	config.Flush, config.Flushers = d.flush, max(config.Flushers, 1)
	if config.Queue == 0 {
		config.Queue = 1000
	}
	b := New(config)
	t.Cleanup(func() {
		close(d.end) // the items left succeed
		b.Stop()
	})
	return b, d
}

func (d *desk) flush(_ context.Context, items []int) ([]int, error) {
	d.begun <- items
	if err := <-d.end; err != nil {
		return nil, err
	}
	return negated(items), nil
}

func negated(items []int) []int {
	results := make([]int, len(items))
	for i, item := range items {
		results[i] = -item
	}
	return results
}

// next is the batch that the flusher has begun, nil if it waits for items.
func (d *desk) next() []int {
	bubble.Wait()
	select {
	case items := <-d.begun:
		return items
	default:
		return nil
	}
}

// caller is a call of Do, and its result once it is done.
type caller struct {
	item   int
	done   bool
	result int
	err    error
}

// ask calls Do with each item, one after the other, without waiting.
func ask(ctx context.Context, b *Batcher[int, int], items ...int) (callers []*caller) {
	for _, item := range items {
		c := &caller{item: item}
		go func() {
			c.result, c.err = b.Do(ctx, item)
			c.done = true
		}()
		bubble.Wait()
		callers = append(callers, c)
	}
	return callers
}

// wantResults checks that each caller got the result of its own item.
func wantResults(t *testing.T, callers []*caller) {
	t.Helper()
	bubble.Wait()
	for _, c := range callers {
		if !c.done || c.err != nil || c.result != -c.item {
			t.Errorf("item %d: got done %v with %d, %v, want %d", c.item, c.done, c.result, c.err, -c.item)
		}
	}
}

// tens is the client of an item: 10 of 10 to 19, and so on.
func tens(item int) string { return strconv.Itoa(item / 10 * 10) }

func wantBatch(t *testing.T, got []int, want ...int) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("batch: got %v, want %v", got, want)
	}
}

// numbers are the whole numbers from first to last.
func numbers(first, last int) (all []int) {
	for n := first; n <= last; n++ {
		all = append(all, n)
	}
	return all
}

func TestBatcherCollects(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(t *testing.T){
		"AnItemAloneAtOnce": func(t *testing.T) {
			start := time.Now()
			b, d := newDesk(t, Config[int, int]{})
			for item := range 3 {
				callers := ask(t.Context(), b, item)
				wantBatch(t, d.next(), item)
				d.end <- nil
				wantResults(t, callers)
			}
			if took := time.Since(start); took != 0 {
				t.Errorf("took %v of the clock, want nothing", took)
			}
		},
		"WhatPilesUpMeanwhile": func(t *testing.T) {
			b, d := newDesk(t, Config[int, int]{})
			callers := ask(t.Context(), b, numbers(1, 6)...)
			wantBatch(t, d.next(), 1)
			d.end <- nil
			wantBatch(t, d.next(), 2, 3, 4, 5, 6)
			wantResults(t, callers[:1])
			if callers[1].done {
				t.Error("item 2 was answered before its flush")
			}
			d.end <- nil
			wantResults(t, callers)
		},
		"WithOneFlusherUnlessToldOtherwise": func(t *testing.T) {
			for flushers, want := range map[int]int{0: 1, 2: 2} {
				under, end := make(chan int, 3), make(chan struct{})
				b := New(Config[int, int]{Flushers: flushers, Queue: 3, Flush: func(_ context.Context, items []int) ([]int, error) {
					under <- len(items)
					<-end
					return negated(items), nil
				}})
				callers := ask(t.Context(), b, 1, 2, 3)
				if got := len(under); got != want {
					t.Errorf("flushes under way with %d flushers: got %d, want %d", flushers, got, want)
				}
				close(end)
				wantResults(t, callers)
				b.Stop()
			}
		},
		"AtMost256Items": func(t *testing.T) {
			b, d := newDesk(t, Config[int, int]{})
			callers := ask(t.Context(), b, numbers(0, 300)...)
			for _, want := range [][]int{{0}, numbers(1, 256), numbers(257, 300)} {
				wantBatch(t, d.next(), want...)
				d.end <- nil
			}
			wantResults(t, callers)
		},
		"AtMostAMiBAndFirstWhatDidNotFit": func(t *testing.T) {
			b, d := newDesk(t, Config[int, int]{Size: func(item int) int { return item }})
			const most = 1 << 20
			// After 1: two items that fill a batch, three more, an item that is too large alone,
			// and a last item.
			callers := ask(t.Context(), b, 1, most-9, 9, 500, most-600, 101, 2*most, 2)
			for _, want := range [][]int{{1}, {most - 9, 9}, {500, most - 600}, {101}, {2 * most}, {2}} {
				wantBatch(t, d.next(), want...)
				d.end <- nil
			}
			wantResults(t, callers)
			if got := b.line.bytes; got != 0 {
				t.Errorf("bytes counted as queued: got %d, want none", got)
			}
		},
		// Else a small item waits for all large items of others that came before it.
		"ItemsOfPartiesInTurn": func(t *testing.T) {
			b, d := newDesk(t, Config[int, int]{Client: tens, Size: func(item int) int { return item % 10 << 18 }})
			callers := ask(t.Context(), b, 14, 14, 14, 14, 20, 20, 30)
			for _, want := range [][]int{{14}, {14, 20, 30}, {14, 20}, {14}} {
				wantBatch(t, d.next(), want...)
				d.end <- nil
			}
			wantResults(t, callers)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, test)
		})
	}
}

func TestBatcherRefuses(t *testing.T) {
	t.Parallel()
	refuses := func(t *testing.T, b *Batcher[int, int], want error) {
		t.Helper()
		bubble.Wait()
		if got := b.Admit(""); !errors.Is(got, want) {
			t.Errorf("admit: got %v, want %v", got, want)
		}
		if c := ask(t.Context(), b, 1)[0]; !c.done || !errors.Is(c.err, want) {
			t.Errorf("got done %v with %v, want %v at once", c.done, c.err, want)
		}
	}
	takes := func(t *testing.T, b *Batcher[int, int]) (taken []*caller) {
		t.Helper()
		bubble.Wait()
		if got := b.Admit(""); got != nil {
			t.Errorf("admit: got %v, want none", got)
		}
		taken = ask(t.Context(), b, 1)
		if taken[0].done && taken[0].err != nil {
			t.Errorf("got %v, want it taken", taken[0].err)
		}
		return taken
	}
	for name, test := range map[string]func(t *testing.T){
		"AFullQueue": func(t *testing.T) {
			b, d := newDesk(t, Config[int, int]{Queue: 3})
			callers := ask(t.Context(), b, numbers(1, 4)...) // an item is being flushed, three wait
			refuses(t, b, ErrFull)
			d.end <- nil
			callers = append(callers, takes(t, b)...)
			d.end <- nil
			d.end <- nil
			wantResults(t, callers)
		},
		"TooManyQueuedBytes": func(t *testing.T) {
			b, d := newDesk(t, Config[int, int]{QueueBytes: 16 << 20, Size: func(int) int { return 4 << 20 }})
			callers := ask(t.Context(), b, numbers(1, 5)...) // an item is being flushed, 16 MiB wait
			refuses(t, b, ErrLarge)
			refuses(t, b, ErrLarge) // refused items aren't counted
			d.end <- nil
			callers = append(callers, takes(t, b)...)
			for range 5 {
				d.end <- nil
			}
			wantResults(t, callers)
			if got := b.line.bytes; got != 0 {
				t.Errorf("bytes counted as queued: got %d, want none", got)
			}
		},
		"AClientBeyondItsShareAlone": func(t *testing.T) {
			b, d := newDesk(t, Config[int, int]{
				QueueBytes: 10, Size: func(item int) int { return item % 10 }, Client: tens,
				Fair: func(held, free int) bool { return held < free },
			})
			callers := ask(t.Context(), b, 11, 15) // the first is being flushed
			if err := b.Admit("10"); !errors.Is(err, ErrLarge) {
				t.Errorf("the client that has half of the queue: got %v, want %v", err, ErrLarge)
			}
			if err := b.Admit("20"); err != nil {
				t.Errorf("another client: got %v, want none", err)
			}
			callers = append(callers, ask(t.Context(), b, 24)...)
			for range callers[1:] {
				d.end <- nil
			}
			wantResults(t, callers)
		},
		"AClientWhoseItemsWaitTooLongAlone": func(t *testing.T) {
			b, d := newDesk(t, Config[int, int]{Patience: 40 * time.Millisecond, Client: tens, Size: func(item int) int { return item % 10 << 20 }})
			callers := ask(t.Context(), b, 11, 11, 11, 11) // each fills a batch
			time.Sleep(41 * time.Millisecond)
			d.end <- nil
			bubble.Wait()
			if err := b.Admit("10"); !errors.Is(err, ErrLate) {
				t.Errorf("the client whose item waited: got %v, want %v", err, ErrLate)
			}
			if err := b.Admit("20"); err != nil {
				t.Errorf("another client: got %v, want none", err)
			}
			d.end <- nil
			d.end <- nil
			d.end <- nil
			wantResults(t, callers)
		},
		"NothingForItsSizeWithoutALimit": func(t *testing.T) {
			b, d := newDesk(t, Config[int, int]{Size: func(int) int { return 1 << 30 }})
			callers := append(ask(t.Context(), b, numbers(1, 5)...), takes(t, b)...)
			for range callers {
				d.end <- nil
			}
			wantResults(t, callers)
		},
		"WhileItemsWaitLongerThanPatience": func(t *testing.T) {
			b, d := newDesk(t, Config[int, int]{Patience: 40 * time.Millisecond})
			callers := ask(t.Context(), b, 1, 2) // 2 waits for as long as 1 takes
			time.Sleep(40 * time.Millisecond)    // the fake clock's, as below
			d.end <- nil
			callers = append(callers, takes(t, b)...)
			callers = append(callers, takes(t, b)...) // exactly patience is not too long
			time.Sleep(41 * time.Millisecond)
			d.end <- nil
			bubble.Wait()
			callers = append(callers, takes(t, b)...) // nobody waits
			refuses(t, b, ErrLate)
			time.Sleep(41 * time.Millisecond)
			d.end <- nil
			bubble.Wait()
			callers = append(callers, takes(t, b)...) // nobody waits again
			refuses(t, b, ErrLate)
			d.end <- nil // the waiting item has just come
			bubble.Wait()
			callers = append(callers, takes(t, b)...)
			callers = append(callers, takes(t, b)...)
			d.end <- nil
			d.end <- nil
			wantResults(t, callers)
		},
		"NobodyAfterALongWaitThatIsOver": func(t *testing.T) {
			b, d := newDesk(t, Config[int, int]{Patience: 40 * time.Millisecond})
			callers := ask(t.Context(), b, 1, 2)
			time.Sleep(time.Second)
			d.end <- nil
			d.end <- nil
			wantResults(t, callers)
			// All at once, before the flusher can see to any of them.
			for item := range 100 {
				if err := b.send(&call[int, int]{item: item, since: time.Now(), answer: make(chan answer[int], 1)}); err != nil {
					t.Fatalf("item %d: got %v with nobody before it", item, err)
				}
			}
		},
		"NothingForItsAgeWithoutPatience": func(t *testing.T) {
			b, d := newDesk(t, Config[int, int]{})
			callers := ask(t.Context(), b, 1, 2)
			time.Sleep(time.Hour)
			d.end <- nil
			callers = append(callers, takes(t, b)...)
			callers = append(callers, takes(t, b)...)
			d.end <- nil
			d.end <- nil
			wantResults(t, callers)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, test)
		})
	}
}
