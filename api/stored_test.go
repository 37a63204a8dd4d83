package api_test

import (
	"net/http"
	"strings"
	"testing"

	"ringback/api"
	"ringback/db"
	"ringback/jobs"
	"ringback/jobs/clients"
)

// endAs lets all requests end in another process.
func (s *service) endAs(t *testing.T, status, result, failure string) {
	t.Helper()
	s.waitFor(t, "SELECT count(*) > 0 FROM requests")
	const sql = "UPDATE requests SET status = $1, result = nullif($2, '')::json, error = nullif($3, '')::json, started_at = now(), finished_at = now()"
	if _, err := s.pool.Exec(t.Context(), sql, status, result, failure); err != nil {
		t.Fatal(err)
	}
}

// Postgres takes from SQL what no caller may send.
func TestRequestThatWasChangedBySQLIsShown(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ text, shown string }{
		"NameTwice": {`{"a":1,"a":{"b":2,"b":3}}`, `{"a":1,"a":{"b":2,"b":3}}`},
		"HalfAPair": {`"\ud800"`, "\"\uFFFD\""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newService(t, nil)
			stored := s.located(t, s.call(t, "POST", "/sync", syncBody, "Prefer", "respond-async"))
			s.endAs(t, "succeeded", test.text, "")
			if _, err := s.pool.Exec(t.Context(), "UPDATE requests SET input = $1::text::json", test.text); err != nil {
				t.Fatal(err)
			}
			location := "/requests/" + stored.ID.String()
			got := s.call(t, "GET", location, "")
			if body := string(got.body); got.status != http.StatusOK || !strings.Contains(body, `"input":`+test.shown) || !strings.Contains(body, `"result":`+test.shown) {
				t.Errorf("got %d %s, want %s", got.status, body, test.shown)
			}
			if event := s.follow(t, location).next(); !strings.Contains(event.data, `"result":`+test.shown) {
				t.Errorf("events: got %+v, want %s", event, test.shown)
			}
		})
	}
}

// TestStoredSync holds what POST /sync does for callers that prefer respond-async.
func TestStoredSync(t *testing.T) {
	t.Parallel()

	for _, prefer := range []string{"respond-async=false", `x="y, respond-async, z"`} {
		t.Run("IsNotFor/"+prefer, func(t *testing.T) {
			t.Parallel()
			s := newService(t, nil)
			if got := s.call(t, "POST", "/sync", syncBody, "Prefer", prefer); got.status != http.StatusOK || got.header.Get("Preference-Applied") != "" {
				t.Errorf("got %d, applied %q, want the result", got.status, got.header.Get("Preference-Applied"))
			}
		})
	}

	t.Run("IsAcceptedWithAJobAndWithoutACallback", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		got := s.call(t, "POST", "/sync", syncBody, "Prefer", "respond-async")
		answer := decode[asyncAnswer](t, got, http.StatusAccepted)
		if answer.Status != "accepted" || got.header.Get("Retry-After") == "" || got.header.Get("Preference-Applied") != "respond-async" {
			t.Errorf("got %+v with %v", answer, got.header)
		}
		stored := s.located(t, got)
		if stored.Mode != db.Sync || stored.Status != db.Accepted || stored.WorkJobID == 0 || stored.CallbackURL != "" || stored.CallbackState != "" {
			t.Errorf("got %+v, want it accepted with a work job and no callback", stored)
		}
		for _, query := range []string{"status=accepted", "status=accepted&mode=sync", "mode=sync"} {
			if got := s.call(t, "GET", "/requests?"+query, ""); !strings.Contains(string(got.body), stored.ID.String()) {
				t.Errorf("%s: got %s, want the request", query, got.body)
			}
		}
		for _, query := range []string{"status=accepted&mode=async", "callback=waiting"} {
			if got := s.call(t, "GET", "/requests?"+query, ""); strings.Contains(string(got.body), stored.ID.String()) {
				t.Errorf("%s: got %s, want nothing", query, got.body)
			}
		}
	})

	for status, test := range map[string]struct {
		result, failure string
		code            int
		tells           string
	}{
		"succeeded": {`{"a":1}`, "", http.StatusOK, `"result":{"a":1}`},
		"failed":    {"", `{"code":"refused","message":"No such page."}`, http.StatusUnprocessableEntity, "No such page."},
	} {
		t.Run("IsAnsweredAsSyncWhereTheWorkEndsInTime/"+status, func(t *testing.T) {
			t.Parallel()
			s := newService(t, nil)
			answers := make(chan answer)
			go func() { answers <- s.call(t, "POST", "/sync", syncBody, "Prefer", "respond-async, wait=60") }()
			s.endAs(t, status, test.result, test.failure)
			got := <-answers
			if got.status != test.code || !strings.Contains(string(got.body), test.tells) || s.located(t, got).Status != db.Status(status) {
				t.Errorf("got %d %s, want %d with %s", got.status, got.body, test.code, test.tells)
			}
			if applied := got.header.Get("Preference-Applied"); status == "succeeded" && applied != "respond-async, wait=60" {
				t.Errorf("Preference-Applied: got %q", applied)
			}
		})
	}

	t.Run("IsAnsweredWithItsLocationWhereTheWorkTakesLonger", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		got := s.call(t, "POST", "/sync", syncBody, "Prefer", "respond-async;x=y, wait=1")
		decode[asyncAnswer](t, got, http.StatusAccepted)
		got = s.call(t, "POST", "/sync/fingerprint", syncBody, "Prefer", "wait=1; x, Respond-Async")
		decode[asyncAnswer](t, got, http.StatusAccepted)
		if applied := got.header.Get("Preference-Applied"); applied != "respond-async, wait=1" {
			t.Errorf("Preference-Applied: got %q", applied)
		}
	})

	t.Run("IsRepeatedByItsKey", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		first := s.call(t, "POST", "/sync", syncBody, "Prefer", "respond-async", "Idempotency-Key", "k")
		decode[asyncAnswer](t, first, http.StatusAccepted)
		for _, prefer := range []string{"respond-async", ""} {
			again := s.call(t, "POST", "/sync", syncBody, "Prefer", prefer, "Idempotency-Key", "k")
			if again.status != http.StatusAccepted || again.header.Get("Location") != first.header.Get("Location") || again.header.Get("Idempotent-Replayed") != "true" {
				t.Errorf("again, with %q: got %d %s with %v, want the first answer", prefer, again.status, again.body, again.header)
			}
		}
		s.endAs(t, "succeeded", `{"a":1}`, "")
		for _, prefer := range []string{"respond-async", ""} {
			if again := s.call(t, "POST", "/sync", syncBody, "Prefer", prefer, "Idempotency-Key", "k"); again.status != http.StatusOK || !strings.Contains(string(again.body), `{"a":1}`) {
				t.Errorf("when it has ended, with %q: got %d %s, want the result", prefer, again.status, again.body)
			}
		}
	})

	t.Run("IsCancelled", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		location := s.call(t, "POST", "/sync", syncBody, "Prefer", "respond-async").header.Get("Location")
		got := s.call(t, "POST", location+"/cancel", "")
		if got.status != http.StatusOK || !strings.Contains(string(got.body), `"stopped":["work"]`) || !strings.Contains(string(got.body), `"status":"cancelled"`) || strings.Contains(string(got.body), "callback_state") {
			t.Errorf("got %d %s, want the work stopped and nothing of a callback", got.status, got.body)
		}
	})

	t.Run("IsRefusedAsOthersAre", func(t *testing.T) {
		t.Parallel()
		s := newService(t, func(c *api.Config) {
			keyed(map[string]string{"key": "alice"})(c)
			c.Queue = newQueue(t, c.Pool, jobs.Config{AsyncLimit: 100, UnfinishedLimit: 100, Limits: func(string) clients.Limits { return clients.Limits{Unfinished: 1} }})
		})
		call := func() answer {
			return s.call(t, "POST", "/sync", syncBody, "Prefer", "respond-async", "Authorization", "Bearer key")
		}
		decode[asyncAnswer](t, call(), http.StatusAccepted)
		s.wantProblem(t, call(), http.StatusTooManyRequests, "quota-exceeded")
		s.wantProblem(t, s.call(t, "POST", "/sync", `{"input":{}}`, "Prefer", "respond-async"), http.StatusUnauthorized, "unauthorized")
	})

	t.Run("IsNotDoneForOthers", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		for _, prefer := range []string{"", "wait=10", "respond-asynchronously", `x="respond-async"`} {
			got := s.call(t, "POST", "/sync", syncBody, "Prefer", prefer)
			decode[syncAnswer](t, got, http.StatusOK)
			if stored := s.located(t, got); stored.WorkJobID != 0 || got.header.Get("Preference-Applied") != "" {
				t.Errorf("%q: got %+v, want a request without a job", prefer, stored)
			}
		}
	})
}
