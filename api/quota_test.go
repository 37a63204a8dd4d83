package api_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"ringback/api"
	"ringback/db/dbtest"
	"ringback/jobs"
	"ringback/jobs/clients"
)

// newLimited returns a service with the clients alice and bob and these limits, the
// rate for reads, too.
func newLimited(t *testing.T, limits clients.Limits) *service {
	t.Helper()
	return newService(t, func(c *api.Config) {
		limitedBy(t, func(string) clients.Limits { return limits })(c)
		c.ClientReads = limits.Rate
	})
}

// limitedBy gives the clients alice and bob limits.
func limitedBy(t *testing.T, limits func(client string) clients.Limits) func(*api.Config) {
	return func(c *api.Config) {
		keyed(map[string]string{"a-key": "alice", "b-key": "bob"})(c)
		c.Limits = limits
		c.Queue = newQueue(t, c.Pool, jobs.Config{AsyncLimit: 100, UnfinishedLimit: 1000, Limits: limits})
	}
}

const alice, bob = "Bearer a-key", "Bearer b-key"

func (s *service) wantQuotaExceeded(t *testing.T, a answer, policy string) {
	t.Helper()
	s.wantProblem(t, a, http.StatusTooManyRequests, "quota-exceeded")
	if got := decode[problem](t, a, http.StatusTooManyRequests); !slices.Equal(got.ViolatedPolicies, []string{policy}) {
		t.Errorf("violated policies: got %q, want %q", got.ViolatedPolicies, policy)
	}
}

func TestQuotas(t *testing.T) {
	t.Parallel()
	const sync = `{"input":{"text":"a"}}`

	t.Run("MoreThanItsRateIsRefusedAndOthersGoOn", func(t *testing.T) {
		t.Parallel()
		s := newLimited(t, clients.Limits{Rate: 1, Unfinished: 10, PerDestination: 10}) // a burst of two
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
		s := newLimited(t, clients.Limits{Rate: 1, Unfinished: 10, PerDestination: 10}) // a burst of two
		start, served := time.Now(), 0
		var last answer
		for last.status != http.StatusTooManyRequests {
			path := []string{"/requests?limit=10", "/works", "/requests/" + uuid.NewString()}[served%3]
			if last = s.call(t, "GET", path, "", "Authorization", alice); last.status != http.StatusTooManyRequests {
				served++
			}
		}
		if most := 2 + int(time.Since(start)/time.Second) + 1; served < 2 || served > most {
			t.Errorf("got %d served, want 2 to %d", served, most)
		}
		s.wantQuotaExceeded(t, last, "reads")
		if got, want := last.header.Get("RateLimit"), `"reads";r=0;t=1`; got != want || last.header.Get("Retry-After") != "1" {
			t.Errorf("RateLimit: got %q, Retry-After %q, want %q and 1", got, last.header.Get("Retry-After"), want)
		}
		if got, want := last.header.Get("RateLimit-Policy"), `"reads";q=2;w=2, "concurrent-reads";q=3;qu="concurrent-requests"`; got != want {
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

	t.Run("CallsAboutManyCallbacksCountAsReads", func(t *testing.T) {
		t.Parallel()
		for _, path := range []string{"/redeliveries", "/discards"} {
			s := newLimited(t, clients.Limits{Rate: 100, Unfinished: 10, PerDestination: 10}) // two pages of a thousand at once
			start, served := time.Now(), 0
			last := s.call(t, "POST", path, `{"filter":{},"dry_run":true}`, "Authorization", alice)
			for ; last.status == http.StatusOK; served++ {
				last = s.call(t, "POST", path, `{"filter":{},"dry_run":true}`, "Authorization", alice)
			}
			if most := 2 + int(time.Since(start)/time.Second) + 1; served < 2 || served > most {
				t.Errorf("%s: got %d served, want 2 to %d", path, served, most)
			}
			s.wantQuotaExceeded(t, last, "reads")
			if got := s.call(t, "POST", path, `{"filter":{},"dry_run":true}`, "Authorization", bob); got.status != http.StatusOK {
				t.Errorf("%s: bob: got %d with %s, want 200", path, got.status, got.body)
			}
		}
	})

	t.Run("EveryPostTellsWhatIsLeft", func(t *testing.T) {
		t.Parallel()
		s := newLimited(t, clients.Limits{Rate: 1000, Unfinished: 10, PerDestination: 5, Storage: 1 << 30, DeadLetters: 7})
		for path, body := range map[string]string{"/sync": sync, "/async": asyncBody, "/async ": "no JSON"} {
			got := s.call(t, "POST", strings.TrimSpace(path), body, "Authorization", alice)
			if policy, want := got.header.Get("RateLimit-Policy"), `"rate";q=2000;w=2, "unfinished";q=10;qu="concurrent-requests", "destination";q=5;qu="concurrent-requests", "storage";q=1073741824;qu="content-bytes", "dead-letters";q=7`; policy != want {
				t.Errorf("%s: RateLimit-Policy: got %q, want %q", path, policy, want)
			}
			if left := got.header.Get("RateLimit"); !strings.HasPrefix(left, `"rate";r=19`) || !strings.Contains(left, `;t=1, "unfinished";r=`) {
				t.Errorf("%s: RateLimit: got %q, want some 1999 left, all of them again in a second", path, left)
			}
		}
	})

	t.Run("MoreUnfinishedThanAllowedIsRefusedBeforeTheBodyIsRead", func(t *testing.T) {
		t.Parallel()
		s := newLimited(t, clients.Limits{Rate: 1000, Unfinished: 2, PerDestination: 2})
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
		s := newLimited(t, clients.Limits{Rate: 1000, Unfinished: 10, PerDestination: 1})
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
			c.Queue = newQueue(t, c.Pool, jobs.Config{AsyncLimit: 100, UnfinishedLimit: 1000, Limits: func(string) clients.Limits { return clients.Limits{Unfinished: 1, PerDestination: 1} }})
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

	t.Run("EachClientHasItsOwnAndIsToldItsNumber", func(t *testing.T) {
		t.Parallel()
		var own atomic.Int64
		own.Store(1)
		s := newService(t, limitedBy(t, func(client string) clients.Limits {
			if client == "alice" {
				return clients.Limits{Rate: int(own.Load()), Unfinished: int(own.Load()), PerDestination: 100}
			}
			return clients.Limits{Rate: 1000, Unfinished: 2, PerDestination: 2}
		}))
		wantDetail := func(got answer, want string) {
			t.Helper()
			if detail := decode[problem](t, got, http.StatusTooManyRequests).Detail; !strings.Contains(detail, want) {
				t.Errorf("got %q, want it to tell %q", detail, want)
			}
		}
		for range 2 {
			if got := s.call(t, "POST", "/async", asyncBody, "Authorization", bob); got.status != http.StatusAccepted {
				t.Fatalf("bob: got %d with %s, want 202", got.status, got.body)
			}
		}
		wantDetail(s.call(t, "POST", "/async", asyncBody, "Authorization", bob), "At most 2 of your requests")
		callUntil := func(done func(answer) bool) answer {
			t.Helper()
			for patience := time.Now().Add(dbtest.Patience); time.Now().Before(patience); {
				if got := s.call(t, "POST", "/async", asyncBody, "Authorization", alice); done(got) {
					return got
				}
			}
			t.Fatal("waited in vain")
			return answer{}
		}
		callUntil(func(a answer) bool {
			return strings.Contains(string(a.body), "At most 1 of your requests may come in a second.")
		})
		callUntil(func(a answer) bool { return strings.Contains(string(a.body), "At most 1 of your requests") })
		own.Store(500) // by the operator
		callUntil(func(a answer) bool {
			return a.status == http.StatusAccepted && strings.HasPrefix(a.header.Get("RateLimit-Policy"), `"rate";q=1000;w=2, "unfinished";q=500;`)
		})
	})

	t.Run("MoreKeptThanAllowedIsRefusedWithTheRemedy", func(t *testing.T) {
		t.Parallel()
		s := newLimited(t, clients.Limits{Rate: 1000, Storage: 5000})
		for path, body := range map[string]string{"/sync": sync, "/async": asyncBody} {
			for range 5 { // of some 2,000 bytes each
				if got := s.call(t, "POST", path, body, "Authorization", alice); got.status >= 500 {
					t.Fatalf("%s: got %d with %s", path, got.status, got.body)
				}
			}
			got := s.call(t, "POST", path, "not looked at", "Authorization", alice)
			s.wantQuotaExceeded(t, got, "storage")
			if detail := decode[problem](t, got, http.StatusTooManyRequests).Detail; !strings.Contains(detail, "5000 bytes") || !strings.Contains(detail, "operator") {
				t.Errorf("%s: got %q, want the number and the remedy", path, detail)
			}
		}
		if got := s.call(t, "POST", "/sync", sync, "Authorization", bob); got.status != http.StatusOK {
			t.Errorf("bob: got %d with %s, want 200", got.status, got.body)
		}
		if got := s.call(t, "GET", "/requests", "", "Authorization", alice); got.status != http.StatusOK {
			t.Errorf("reading: got %d, want 200", got.status)
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

// TestPostponedCallbacksOfAClientAreNoLoadOnOthers plays the attack: mallory, within
// her quotas, has her dead letters redelivered again and again, spread over a
// quarter of an hour, until their number is many times the limit of unfinished requests.
// Alice is accepted throughout.
func TestPostponedCallbacksOfAClientAreNoLoadOnOthers(t *testing.T) {
	t.Parallel()
	// A sample may count for a second time what was accepted while it was taken, and each call
	// that found less room spaces the next redeliveries anew: total has room for that.
	const total, unfinished, perHost, hosts = 300, 1500, 50, 40
	limits := func(string) clients.Limits {
		return clients.Limits{Rate: 10_000, Unfinished: unfinished, PerDestination: perHost}
	}
	url := dbtest.New(t)
	start := func(registry *prometheus.Registry) *service {
		return newServiceAt(t, url, url, func(c *api.Config) {
			keyed(map[string]string{"a-key": "alice", "m-key": "mallory"})(c)
			c.Limits = limits
			c.Queue = newQueue(t, c.Pool, jobs.Config{AsyncLimit: 100, UnfinishedLimit: total, Limits: limits, Metrics: registry})
			startQueue(t, c.Queue)
		})
	}
	s := start(prometheus.NewRegistry())
	s.plantDead(t, "mallory", hosts, perHost)
	wantAlice := func(s *service, when string) {
		t.Helper()
		if got := s.call(t, "POST", "/async", asyncBody, "Authorization", alice); got.status != http.StatusAccepted {
			t.Errorf("alice, %s: got %d with %s, want 202", when, got.status, got.body)
		}
	}
	redelivered := 0
	wantRedelivered := func(call int) {
		t.Helper()
		got := s.call(t, "POST", "/redeliveries", `{"rate":1}`, "Authorization", "Bearer m-key")
		if got.status == http.StatusTooManyRequests {
			s.wantQuotaExceeded(t, got, "unfinished")
		} else {
			redelivered += decode[redeliveries](t, got, http.StatusAccepted).Redelivered
		}
		wantAlice(s, fmt.Sprintf("after call %d", call))
	}
	calls := 0
	for patience := time.Now().Add(dbtest.Patience); redelivered < unfinished && time.Now().Before(patience); calls++ {
		wantRedelivered(calls)
	}
	for range 5 {
		wantRedelivered(calls)
	}
	if redelivered != unfinished {
		t.Errorf("mallory: got %d redelivered, want as many as she may have unfinished, %d", redelivered, unfinished)
	}
	// Another process knows of them by its sample alone.
	registry := prometheus.NewRegistry()
	another := start(registry)
	for patience := time.Now().Add(dbtest.Patience); gauge(t, registry, "ringback_unfinished_requests") < 50 && time.Now().Before(patience); {
		another.call(t, "GET", "/requests", "", "Authorization", alice)
	}
	wantAlice(another, "after a sample")
	if !s.holds(t, "SELECT count(*) > $1::int FROM river_job WHERE scheduled_at > now() + interval '1 minute'", 4*total) {
		t.Error("want most of mallory's due later: else this attacks nothing")
	}
}

// startQueue takes samples until the test ends.
func startQueue(t *testing.T, queue *jobs.Queue) {
	t.Helper()
	if err := queue.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := queue.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// gauge is the value of a metric without labels.
func gauge(t *testing.T, registry *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			return family.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

// plantDead stores dead letters of a client, so many for each of so many hosts.
func (s *service) plantDead(t *testing.T, client string, hosts, each int) {
	t.Helper()
	const sql = `
		WITH ended AS (
			INSERT INTO requests (id, mode, client, status, input, result, callback_url, callback_state, work_job_id, callback_job_id, accepted_at, finished_at, settled_at)
			SELECT gen_random_uuid(), 'async', $1, 'succeeded', '{}', '{}', 'https://h' || number % $2::int || '.example.com/', 'dead', -1, -1, now(), now(), now()
			FROM generate_series(1, $2::int * $3::int) AS number
			RETURNING client, id, callback_url, accepted_at
		)
		INSERT INTO dead_letters (client, request_id, callback_host, accepted_at)
		SELECT client, id, split_part(callback_url, '/', 3), accepted_at FROM ended`
	if _, err := s.pool.Exec(t.Context(), sql, client, hosts, each); err != nil {
		t.Fatal(err)
	}
}

// TestStorageOfAClientIsBounded plays the attack: mallory stores as much as she can, and
// has all of her callbacks die. Alice is accepted throughout.
func TestStorageOfAClientIsBounded(t *testing.T) {
	t.Parallel()
	const storage, letters = 100_000, 20
	s := newService(t, func(c *api.Config) {
		keyed(map[string]string{"a-key": "alice", "m-key": "mallory"})(c)
		c.Limits = func(string) clients.Limits {
			return clients.Limits{Rate: 10_000, Unfinished: 1000, PerDestination: 1000, Storage: storage, DeadLetters: letters}
		}
		c.Queue = newQueue(t, c.Pool, jobs.Config{AsyncLimit: 100, UnfinishedLimit: 1000, Limits: c.Limits})
		startQueue(t, c.Queue)
	})
	wantAlice := func() {
		t.Helper()
		if got := s.call(t, "POST", "/async", asyncBody, "Authorization", alice); got.status != http.StatusAccepted {
			t.Fatalf("alice: got %d with %s, want 202", got.status, got.body)
		}
	}
	large := `{"input":{"text":"` + strings.Repeat("x", 10_000) + `"},"callback_url":"https://hooks.example.com/"}`
	accepted := 0
	var last answer
	for range 30 {
		last = s.call(t, "POST", "/async", large, "Authorization", "Bearer m-key")
		if last.status == http.StatusAccepted {
			accepted++
		}
		wantAlice()
	}
	s.wantQuotaExceeded(t, last, "storage")
	if most := storage/10_000 + 1; accepted > most {
		t.Errorf("mallory: got %d of 10 kB accepted, want at most %d", accepted, most)
	}
	// A sample finds requests that no process counted as they came: here, of another
	// process.
	if _, err := s.pool.Exec(t.Context(), "DELETE FROM requests WHERE client = 'mallory'"); err != nil {
		t.Fatal(err)
	}
	s.plantDead(t, "mallory", 1, letters)
	another := newServiceAt(t, s.pool.Config().ConnString(), s.pool.Config().ConnString(), func(c *api.Config) {
		keyed(map[string]string{"a-key": "alice", "m-key": "mallory"})(c)
		c.Limits = func(string) clients.Limits { return clients.Limits{Rate: 10_000, DeadLetters: letters} }
		c.Queue = newQueue(t, c.Pool, jobs.Config{AsyncLimit: 100, UnfinishedLimit: 1000, Limits: c.Limits})
		startQueue(t, c.Queue)
	})
	s = another
	patience := time.Now().Add(dbtest.Patience)
	for last = (answer{}); last.status != http.StatusTooManyRequests && time.Now().Before(patience); {
		last = s.call(t, "POST", "/async", asyncBody, "Authorization", "Bearer m-key")
		wantAlice()
	}
	s.wantQuotaExceeded(t, last, "dead-letters")
	if got := s.call(t, "POST", "/redeliveries", `{}`, "Authorization", "Bearer m-key"); decode[redeliveries](t, got, http.StatusAccepted).Redelivered != letters {
		t.Errorf("the remedy: got %s, want all redelivered", got.body)
	}
}
