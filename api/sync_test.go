package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"ringback/api"
	"ringback/db"
	"ringback/work"
	"ringback/work/fingerprint"
)

type syncAnswer struct {
	ID          string          `json:"id"`
	Mode        string          `json:"mode"`
	Work        string          `json:"work"`
	Status      string          `json:"status"`
	Result      json.RawMessage `json:"result"`
	Traceparent string          `json:"traceparent"`
	AcceptedAt  time.Time       `json:"accepted_at"`
	StartedAt   time.Time       `json:"started_at"`
	FinishedAt  time.Time       `json:"finished_at"`
}

func TestSync(t *testing.T) {
	t.Parallel()

	t.Run("AnswersWithTheResultAndRecordsIt", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		answer := s.call(t, "POST", "/sync", `{"input": {"rounds": 3, "text": "one two two"}}`)
		got := decode[syncAnswer](t, answer, http.StatusOK)
		canonical := jsontext.Value(`{"text":"one two two","rounds":3,"delay_ms":0}`)
		result, err := fingerprint.Do(t.Context(), canonical)
		if err != nil {
			t.Fatal(err)
		}
		if string(got.Result) != string(result) {
			t.Errorf("result: got %s, want %s", got.Result, result)
		}
		if got.Mode != "sync" || got.Status != "succeeded" || answer.header.Get("Location") != "/requests/"+got.ID {
			t.Errorf("got %s at %q, want a sync request that succeeded, at its Location", answer.body, answer.header.Get("Location"))
		}
		if got.AcceptedAt.After(got.StartedAt) || got.StartedAt.After(got.FinishedAt) || time.Since(got.AcceptedAt) > time.Hour {
			t.Errorf("times: got %s, want now and in order", answer.body)
		}
		row := s.located(t, answer)
		if string(row.Input) != string(canonical) || string(row.Result) != string(result) || row.Status != db.Succeeded || row.Mode != db.Sync ||
			!row.AcceptedAt.Equal(got.AcceptedAt) || !row.StartedAt.Equal(got.StartedAt) || !row.FinishedAt.Equal(got.FinishedAt) {
			t.Errorf("row: got %+v, want the answer: %s", row, answer.body)
		}
		if count := s.stored(t); count != 1 {
			t.Errorf("rows and jobs: got %d, want the one row", count)
		}
	})

	for _, test := range []struct {
		name        string
		do          work.Plain
		wantStatus  int
		wantProblem string
		wantCode    string
	}{
		{
			"PanicIsA500", func(context.Context, jsontext.Value) (jsontext.Value, error) { panic("secret") },
			http.StatusInternalServerError, "work-failed", "panic",
		},
		{
			"ErrorIsA500", func(context.Context, jsontext.Value) (jsontext.Value, error) { return nil, errors.New("secret") },
			http.StatusInternalServerError, "work-failed", "work_failed",
		},
		{"MissedDeadlineIsA504", func(ctx context.Context, _ jsontext.Value) (jsontext.Value, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, http.StatusGatewayTimeout, "work-deadline-exceeded", "deadline_exceeded"},
	} {
		t.Run(test.name+"WithARecord", func(t *testing.T) {
			t.Parallel()
			timeout := time.Minute // so that a slow machine misses none by itself
			if test.wantStatus == http.StatusGatewayTimeout {
				timeout = 50 * time.Millisecond
			}
			s := newService(t, func(c *api.Config) {
				c.Catalog = catalogOf(t, work.Work{Do: test.do.Do, Timeout: timeout})
			})
			answer := s.call(t, "POST", "/sync", `{"input":{"text":"a"}}`)
			s.wantProblem(t, answer, test.wantStatus, test.wantProblem)
			row := s.located(t, answer)
			var recorded work.Error
			if err := json.Unmarshal(row.Error, &recorded); err != nil || row.Status != db.Failed || recorded.Code != test.wantCode {
				t.Errorf("row: got %s with %s, %v, want failed with %s", row.Status, row.Error, err, test.wantCode)
			}
			if all := string(answer.body) + string(row.Error); strings.Contains(all, "secret") {
				t.Errorf("the cause is told: %s", all)
			}
		})
	}

	t.Run("CallerThatGoesAwayIsRecordedAsCancelled", func(t *testing.T) {
		t.Parallel()
		started := make(chan struct{})
		s := newService(t, doing(t, func(ctx context.Context, _ jsontext.Value) (jsontext.Value, error) {
			close(started)
			<-ctx.Done()
			return nil, ctx.Err()
		}))
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-started
			cancel()
		}()
		if got, err := s.try(ctx, "POST", "/sync", `{"input":{"text":"a"}}`); !errors.Is(err, context.Canceled) {
			t.Errorf("got %d, %v, want no answer", got.status, err)
		}
		s.waitFor(t, "SELECT EXISTS (SELECT FROM requests WHERE status = 'cancelled' AND error ->> 'code' = 'abandoned' AND result IS NULL)")
	})

	t.Run("BeyondTheLimitIsRefusedAtOnce", func(t *testing.T) {
		t.Parallel()
		started, finish := make(chan struct{}, 2), make(chan struct{})
		s := newService(t, func(c *api.Config) {
			c.SyncLimit = 1
			doing(t, func(context.Context, jsontext.Value) (jsontext.Value, error) {
				started <- struct{}{}
				<-finish
				return jsontext.Value(`1`), nil
			})(c)
		})
		first := make(chan answer)
		go func() { first <- s.call(t, "POST", "/sync", `{"input":{"text":"a"}}`) }()
		<-started
		s.wantProblem(t, s.call(t, "POST", "/sync", `{"input":{"text":"a"}}`), http.StatusServiceUnavailable, "temporary-reduced-capacity")
		if got := s.call(t, "GET", "/healthz", ""); got.status != http.StatusOK {
			t.Errorf("health meanwhile: got %d, want 200", got.status)
		}
		if got := s.stored(t); got != 0 {
			t.Errorf("stored meanwhile: got %d, want nothing", got)
		}
		close(finish)
		if got := <-first; got.status != http.StatusOK {
			t.Errorf("first: got %d, want 200", got.status)
		}
		if got := s.call(t, "POST", "/sync", `{"input":{"text":"a"}}`); got.status != http.StatusOK {
			t.Errorf("after it: got %d, want 200", got.status)
		}
	})
}
