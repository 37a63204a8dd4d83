package api_test

import (
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"ringback/api"
	"ringback/jobs/clients"
	"ringback/work"
	"ringback/work/fingerprint"
)

func TestLargeBodiesOfAClientLeaveCoresToOthers(t *testing.T) {
	t.Parallel()
	for route, form := range map[string]string{
		"/sync":        `{"input":{"text":%q}}`,
		"/async":       `{"input":{"text":%q},"callback_url":"https://hooks.example.com/"}`,
		"/async/batch": `{"requests":[{"input":{"text":%q},"callback_url":"https://hooks.example.com/"}]}`,
	} {
		t.Run(route, func(t *testing.T) {
			t.Parallel()
			share := (max(2, runtime.GOMAXPROCS(0)) + 1) / 2 // of a client alone
			s, held := newHoldingService(t, share)
			body := func(text string) string { return fmt.Sprintf(form, text+strings.Repeat(" ", 5000)) }
			var mine sync.WaitGroup
			for range share {
				mine.Go(func() {
					if got, err := s.try(t.Context(), http.MethodPost, route, body("hold"), "Authorization", alice); err != nil || got.status >= http.StatusMultipleChoices {
						t.Errorf("a large body within its share: got %d %s, %v", got.status, got.body, err)
					}
				})
			}
			defer mine.Wait()
			defer held.end()
			held.await(share)

			s.wantProblem(t, s.call(t, http.MethodPost, route, body("hold"), "Authorization", alice),
				http.StatusServiceUnavailable, "temporary-reduced-capacity")
			if got := s.call(t, http.MethodPost, route, fmt.Sprintf(form, "small"), "Authorization", alice); got.status >= http.StatusMultipleChoices {
				t.Errorf("a small body: got %d %s", got.status, got.body)
			}
			if got := s.call(t, http.MethodPost, route, body("large"), "Authorization", bob); got.status >= http.StatusMultipleChoices {
				t.Errorf("a large body of another client: got %d %s", got.status, got.body)
			}
			if got := held.count.Load(); got != int64(share) {
				t.Errorf("decoded at a time: got %d, want %d", got, share)
			}
		})
	}
}

// holding keeps the first inputs from being checked until its end.
type holding struct {
	most  int64
	came  chan struct{}
	count atomic.Int64
	over  chan struct{}
	end   func()
}

func (h *holding) await(count int) {
	for range count {
		<-h.came
	}
}

func newHoldingService(t *testing.T, most int) (*service, *holding) {
	t.Helper()
	h := &holding{most: int64(most), came: make(chan struct{}, most), over: make(chan struct{})}
	h.end = sync.OnceFunc(func() { close(h.over) })
	check := func(input jsontext.Value) (jsontext.Value, error) {
		if strings.Contains(string(input), `"hold`) && h.count.Add(1) <= h.most {
			h.came <- struct{}{}
			<-h.over
		}
		return fingerprint.Check(input)
	}
	s := newService(t, func(c *api.Config) {
		limitedBy(t, func(string) clients.Limits { return clients.Limits{Rate: 1000, Unfinished: 100, PerDestination: 100} })(c)
		c.Catalog = catalogOf(t, work.Work{Check: check, Do: fingerprint.Work.Do})
	})
	return s, h
}
