package batch_test

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"ringback/db/batch"
)

// A flush is a statement for all items of its batch, and returns a result for each.
func ExampleBatcher() {
	batcher := batch.New(batch.Config[string, int]{
		Queue: 100,
		Flush: func(_ context.Context, words []string) ([]int, error) {
			lengths := make([]int, len(words))
			for i, word := range words {
				lengths[i] = len(word)
			}
			return lengths, nil
		},
	})
	length, err := batcher.Do(context.Background(), "hello")
	fmt.Println(length, err)

	batcher.Stop()
	_, err = batcher.Do(context.Background(), "too late")
	fmt.Println(errors.Is(err, batch.ErrStopped))
	// Output:
	// 5 <nil>
	// true
}

// A bad item fails alone where the flush's error says that an item is to blame.
func ExampleConfig_blames() {
	errBad := errors.New("a number isn't even")
	batcher := batch.New(batch.Config[int, string]{
		Queue:  100,
		Blames: func(err error) bool { return errors.Is(err, errBad) },
		Flush: func(_ context.Context, numbers []int) ([]string, error) {
			halves := make([]string, len(numbers))
			for i, number := range numbers {
				if number%2 != 0 {
					return nil, errBad
				}
				halves[i] = strings.Repeat("|", number/2)
			}
			return halves, nil
		},
	})
	defer batcher.Stop()
	for _, number := range []int{4, 7, 8} {
		half, err := batcher.Do(context.Background(), number)
		fmt.Printf("%d: %q %v\n", number, half, err)
	}
	// Output:
	// 4: "||" <nil>
	// 7: "" a number isn't even
	// 8: "||||" <nil>
}
