package work

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"ringback/internal/bubble"
)

// A clock that is set during a run must not make it last for hours, or less than no time.
func TestTimesOfARunKeepTheirMonotonicReading(t *testing.T) {
	t.Parallel()
	run, err := Run(t.Context(), Work{
		Do: Plain(func(context.Context, jsontext.Value) (jsontext.Value, error) { return jsontext.Value(`1`), nil }).Do, Timeout: time.Minute,
	}, Call{})
	if err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]time.Time{
		"start": run.StartedAt, "end": run.FinishedAt, "abandoned": Abandoned(run.StartedAt).FinishedAt, "lost": Lost(run.StartedAt).FinishedAt,
		"reported": (Report{}).Outcome(run.StartedAt).FinishedAt,
	} {
		if at == at.Round(0) {
			t.Errorf("%s: got %v, want a monotonic reading", name, at)
		}
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		do       Plain
		wantCode string
	}{
		{"Succeeds", func(context.Context, jsontext.Value) (jsontext.Value, error) { return jsontext.Value(`1`), nil }, ""},
		{"Panics", func(context.Context, jsontext.Value) (jsontext.Value, error) { panic("boom") }, "panic"},
		{"Fails", func(context.Context, jsontext.Value) (jsontext.Value, error) {
			return nil, errors.New("secret")
		}, "work_failed"},
		{"FailsWithAWordForTheCaller", func(context.Context, jsontext.Value) (jsontext.Value, error) {
			return nil, fmt.Errorf("rendering: %w", &Error{"no_such_font", "There is no such font."})
		}, "no_such_font"},
		{"MissesItsDeadline", func(ctx context.Context, _ jsontext.Value) (jsontext.Value, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, CodeDeadline},
		{"ReturnsTooMuch", func(context.Context, jsontext.Value) (jsontext.Value, error) {
			return make(jsontext.Value, MaxResultBytes+1), nil
		}, "result_too_large"},
		{"ReturnsWhatIsNestedTooDeep", func(context.Context, jsontext.Value) (jsontext.Value, error) {
			return jsontext.Value(strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1)), nil
		}, "invalid_result"},
		{"ReturnsTheDeepest", func(context.Context, jsontext.Value) (jsontext.Value, error) {
			return jsontext.Value(strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth)), nil
		}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				outcome, err := Run(t.Context(), Work{Do: test.do.Do, Timeout: time.Second}, Call{})
				if err != nil {
					t.Fatalf("got error %v, want an outcome", err)
				}
				gotCode := ""
				if outcome.Error != nil {
					gotCode = outcome.Error.Code
				}
				if gotCode != test.wantCode || (outcome.Result == nil) != (test.wantCode != "") {
					t.Errorf("got code %q and result %q, want code %q", gotCode, outcome.Result, test.wantCode)
				}
				if outcome.Error != nil && strings.Contains(outcome.Error.Message, "secret") {
					t.Errorf("the caller is told %q, which holds the inner error", outcome.Error.Message)
				}
			})
		})
	}

	t.Run("HasNoOutcomeWhenTheContextEnds", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		outcome, err := Run(ctx, Work{Timeout: time.Minute, Do: func(ctx context.Context, _ Call) (jsontext.Value, error) {
			cancel()
			return nil, ctx.Err()
		}}, Call{})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %+v, %v, want context.Canceled", outcome, err)
		}
	})
}
