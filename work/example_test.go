package work_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"ringback/work"
)

// image and thumbnail are a service's input and result.
type image struct {
	URL   string `json:"url" jsonschema:"where the image is"`
	Width int    `json:"width"`
}

type thumbnail struct {
	Name string `json:"name"`
}

func shrink(_ context.Context, in image) (thumbnail, error) {
	if in.Width > 1000 {
		return thumbnail{}, &work.Error{Code: "too_wide", Message: "Thumbnails are at most 1000 pixels wide."}
	}
	return thumbnail{fmt.Sprintf("%d.png", in.Width)}, nil
}

// A function of Go types is work: inputs are checked against the schema of its argument
// before anything is accepted, and an *Error is told to the caller.
func ExampleTyped() {
	catalog, err := work.NewCatalog(work.Set{"thumbnail": work.Typed(shrink)}, "thumbnail", time.Second)
	if err != nil {
		fmt.Println(err)
		return
	}
	offer := catalog.Default()
	for _, text := range []string{
		`{"url": "https://example.com/a.png", "width": 64}`,
		`{"url": "https://example.com/a.png", "width": 4096}`,
		`{"width": "64", "colour": "red"}`,
	} {
		input, err := offer.Accept(jsontext.Value(text))
		var mistakes work.Mistakes
		if errors.As(err, &mistakes) {
			fmt.Println("refused:", len(mistakes), "mistakes")
			continue
		}
		outcome, _ := work.Run(context.Background(), offer.Work, work.Call{Input: input})
		if outcome.Error != nil {
			fmt.Println("failed:", outcome.Error)
			continue
		}
		fmt.Println("succeeded:", outcome.Result)
	}
	// Output:
	// succeeded: {"name":"64.png"}
	// failed: too_wide: Thumbnails are at most 1000 pixels wide.
	// refused: 3 mistakes
}

// Work that another attempt may do says so: with a wait it charges no attempt.
func ExampleRetry() {
	busy := work.Work{
		Timeout: time.Second,
		Do: func(context.Context, work.Call) (jsontext.Value, error) {
			return nil, work.Retry(errors.New("the printer is busy"), time.Minute)
		},
	}
	outcome, _ := work.Run(context.Background(), busy, work.Call{})
	fmt.Println(outcome.Error.Code, outcome.Again.After)
	// Output: work_failed 1m0s
}
