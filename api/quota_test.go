package api_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"ringback/api"
	"ringback/jobs"
)

// newLimited returns a service with the clients alice and bob and these quotas.
func newLimited(t *testing.T, perSecond, unfinished, destination int) *service {
	t.Helper()
	return newService(t, func(c *api.Config) {
		keyed(map[string]string{"a-key": "alice", "b-key": "bob"})(c)
		c.ClientRate, c.ClientReads, c.ClientUnfinished, c.DestinationUnfinished = perSecond, perSecond, unfinished, destination
		c.Queue = newQueue(t, c.Pool, jobs.Config{
			AcceptQueue: 100, Unfinished: 1000, ClientUnfinished: unfinished, DestinationUnfinished: destination,
		})
	})
}

func (s *service) wantQuotaExceeded(t *testing.T, a answer, policy string) {
	t.Helper()
	s.wantProblem(t, a, http.StatusTooManyRequests, "quota-exceeded")
	if got := decode[problem](t, a, http.StatusTooManyRequests); !slices.Equal(got.ViolatedPolicies, []string{policy}) {
		t.Errorf("violated policies: got %q, want %q", got.ViolatedPolicies, policy)
	}
}

func TestQuotas(t *testing.T) {
	t.Parallel()
	const alice, bob = "Bearer a-key", "Bearer b-key"
	const sync = `{"input":{"text":"a"}}`

	t.Run("MoreThanItsRateIsRefusedAndOthersGoOn", func(t *testing.T) {
		t.Parallel()
		s := newLimited(t, 1, 10, 10) // a burst of two
		start, served := time.Now(), 0
		var last answer
		for last.status != http.StatusTooManyRequests {
			if last = s.call(t, "POST", "/sync", sync, "Authorization", alice); last.status == http.StatusOK {
				served++
			}
		}
		if most := 2 + int(time.Since(start)/time.Second) + 1; served < 2 || served > most {
			t.Errorf("got %d served, want 2 to %d", served, most)
		}
		s.wantQuotaExceeded(t, last, "rate")
		if got, want := last.header.Get("RateLimit"), `"rate";r=0;t=1, "unfinished";r=10`; got != want || last.header.Get("Retry-After") != "1" {
			t.Errorf("RateLimit: got %q, Retry-After %q, want %q and 1", got, last.header.Get("Retry-After"), want)
		}
		if got := s.call(t, "POST", "/sync", sync, "Authorization", bob); got.status != http.StatusOK {
			t.Errorf("bob: got %d with %s, want 200", got.status, got.body)
		}
		if got := s.call(t, "GET", "/requests", "", "Authorization", alice); got.status != http.StatusOK {
			t.Errorf("GET: got %d with %s, want 200", got.status, got.body)
		}
	})

	t.Run("MoreReadsThanItsRateAreRefusedAndOthersGoOn", func(t *testing.T) {
		t.Parallel()
		s := newLimited(t, 1, 10, 10) // a burst of two
		start, served := time.Now(), 0
		var last answer
		for _, path := range slices.Repeat([]string{"/requests", "/requests/" + uuid.NewString()}, 10) {
			if last = s.call(t, "GET", path, "", "Authorization", alice); last.status == http.StatusTooManyRequests {
				break
			}
			served++
		}
		if most := 2 + int(time.Since(start)/time.Second) + 1; served < 2 || served > most {
			t.Errorf("got %d served, want 2 to %d", served, most)
		}
		s.wantQuotaExceeded(t, last, "reads")
		if got, want := last.header.Get("RateLimit"), `"reads";r=0;t=1`; got != want || last.header.Get("Retry-After") != "1" {
			t.Errorf("RateLimit: got %q, Retry-After %q, want %q and 1", got, last.header.Get("Retry-After"), want)
		}
		if got, want := last.header.Get("RateLimit-Policy"), `"reads";q=2;w=2, "concurrent-reads";q=2;qu="concurrent-requests"`; got != want {
			t.Errorf("RateLimit-Policy: got %q, want %q", got, want)
		}
		for key, want := range map[string]int{alice: http.StatusOK, bob: http.StatusOK} {
			if got := s.call(t, "POST", "/sync", sync, "Authorization", key); got.status != want {
				t.Errorf("POST as %s: got %d with %s, want %d", key, got.status, got.body, want)
			}
		}
		if got := s.call(t, "GET", "/requests", "", "Authorization", bob); got.status != http.StatusOK {
			t.Errorf("bob: got %d with %s, want 200", got.status, got.body)
		}
		if got := s.call(t, "GET", "/healthz", "", "Authorization", alice); got.status != http.StatusOK || got.header.Get("RateLimit") != "" {
			t.Errorf("GET /healthz: got %d and RateLimit %q, want 200 and none", got.status, got.header.Get("RateLimit"))
		}
	})

	t.Run("EveryPostTellsWhatIsLeft", func(t *testing.T) {
		t.Parallel()
		s := newLimited(t, 1000, 10, 5)
		for path, body := range map[string]string{"/sync": sync, "/async": asyncBody, "/async ": "no JSON"} {
			got := s.call(t, "POST", strings.TrimSpace(path), body, "Authorization", alice)
			if policy, want := got.header.Get("RateLimit-Policy"), `"rate";q=2000;w=2, "unfinished";q=10;qu="concurrent-requests", "destination";q=5;qu="concurrent-requests"`; policy != want {
				t.Errorf("%s: RateLimit-Policy: got %q, want %q", path, policy, want)
			}
			if left := got.header.Get("RateLimit"); !strings.HasPrefix(left, `"rate";r=19`) || !strings.Contains(left, `;t=1, "unfinished";r=`) {
				t.Errorf("%s: RateLimit: got %q, want some 1999 left, all of them again in a second", path, left)
			}
		}
	})

	t.Run("MoreUnfinishedThanAllowedIsRefusedBeforeTheBodyIsRead", func(t *testing.T) {
		t.Parallel()
		s := newLimited(t, 1000, 2, 2)
		for range 2 {
			if got := s.call(t, "POST", "/async", asyncBody, "Authorization", alice); got.status != http.StatusAccepted {
				t.Fatalf("got %d with %s, want 202", got.status, got.body)
			}
		}
		s.wantQuotaExceeded(t, s.call(t, "POST", "/async", "not looked at", "Authorization", alice), "unfinished")
		if got := s.call(t, "POST", "/sync", sync, "Authorization", alice); got.status != http.StatusOK {
			t.Errorf("sync: got %d with %s, want 200: it leaves nothing unfinished", got.status, got.body)
		}
		if got := s.call(t, "POST", "/async", asyncBody, "Authorization", bob); got.status != http.StatusAccepted {
			t.Errorf("bob: got %d with %s, want 202", got.status, got.body)
		}
	})

	t.Run("MoreUnfinishedForADestinationThanAllowedIsRefused", func(t *testing.T) {
		t.Parallel()
		s := newLimited(t, 1000, 10, 1)
		if got := s.call(t, "POST", "/async", asyncBody, "Authorization", alice); got.status != http.StatusAccepted {
			t.Fatalf("got %d with %s, want 202", got.status, got.body)
		}
		s.wantQuotaExceeded(t, s.call(t, "POST", "/async", asyncBody, "Authorization", alice), "destination")
		elsewhere := strings.Replace(asyncBody, "https://", "https://other.", 1)
		if got := s.call(t, "POST", "/async", elsewhere, "Authorization", alice); got.status != http.StatusAccepted {
			t.Errorf("another destination: got %d with %s, want 202", got.status, got.body)
		}
		if !s.holds(t, "SELECT count(*) = 2 FROM requests") {
			t.Error("want two requests stored")
		}
	})

	t.Run("RefusalsAreCountedByReason", func(t *testing.T) {
		t.Parallel()
		registry := prometheus.NewRegistry()
		s := newService(t, func(c *api.Config) {
			c.Metrics = registry
			c.Queue = newQueue(t, c.Pool, jobs.Config{AcceptQueue: 100, Unfinished: 1000, ClientUnfinished: 1, DestinationUnfinished: 1})
		})
		for range 3 {
			s.call(t, "POST", "/async", asyncBody)
		}
		for reason, want := range map[string]float64{"client_unfinished": 2, "destination_unfinished": 0, "queue_full": 0} {
			if got, ok := refusalsFor(t, registry, reason); !ok || got != want {
				t.Errorf("%s: got %v (there: %v), want %v", reason, got, ok, want)
			}
		}
	})

	t.Run("WithoutThemNothingIsTold", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		for method, path := range map[string]string{"POST": "/async", "GET": "/requests"} {
			if got := s.call(t, method, path, asyncBody); got.status >= 300 || got.header.Get("RateLimit-Policy")+got.header.Get("RateLimit") != "" {
				t.Errorf("%s %s: got %d with %v, want it done without quotas", method, path, got.status, got.header)
			}
		}
	})
}

// refusalsFor reads the counter of a reason.
func refusalsFor(t *testing.T, registry *prometheus.Registry, reason string) (count float64, there bool) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "ringback_http_refusals_total" {
			continue
		}
		for _, metric := range family.Metric {
			if metric.Label[0].GetValue() == reason {
				return metric.Counter.GetValue(), true
			}
		}
	}
	return 0, false
}
