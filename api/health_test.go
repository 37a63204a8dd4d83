package api_test

import (
	"context"
	"net/http"
	"sync"
	"testing"

	"github.com/google/uuid"

	"ringback/api"
	"ringback/db"
	"ringback/db/dbtest"
)

func TestHealth(t *testing.T) {
	t.Parallel()

	t.Run("IsOK", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		if got := s.call(t, "GET", "/healthz", ""); got.status != http.StatusOK || string(got.body) != `{"status":"ok"}`+"\n" {
			t.Errorf("got %d with %s, want 200 with ok", got.status, got.body)
		}
	})

	t.Run("LivesWhileDraining", func(t *testing.T) {
		t.Parallel()
		s := newService(t, func(c *api.Config) { c.Draining = func() bool { return true } })
		if got := s.call(t, "GET", "/livez", ""); got.status != http.StatusOK {
			t.Errorf("GET /livez: got %d, want 200", got.status)
		}
		s.wantProblem(t, s.call(t, "GET", "/readyz", ""), http.StatusServiceUnavailable, "unavailable")
	})

	t.Run("IsUnavailableWhileDraining", func(t *testing.T) {
		t.Parallel()
		s := newService(t, func(c *api.Config) { c.Draining = func() bool { return true } })
		s.wantProblem(t, s.call(t, "GET", "/healthz", ""), http.StatusServiceUnavailable, "unavailable")
	})
}

func TestHead(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	stored := s.store(t, db.Request{Status: db.Succeeded, CallbackState: db.CallbackPending})
	for _, path := range []string{
		"/healthz", "/readyz", "/livez", "/works", "/requests", "/requests/" + stored.ID.String(), "/problems/not-found", "/openapi.json", "/openapi.yaml", "/docs", "/docs/page.js",
	} {
		// Nobody waits for events without a body.
		want, got := s.call(t, "GET", path, ""), s.call(t, "HEAD", path, "", "Accept", "text/event-stream")
		if got.status != http.StatusOK || len(got.body) != 0 || got.header.Get("Content-Type") != want.header.Get("Content-Type") {
			t.Errorf("HEAD %s: got %d with %v and %s, want GET's answer, without a body", path, got.status, got.header, got.body)
		}
	}
	if got := s.call(t, "HEAD", "/requests/"+uuid.NewString(), ""); got.status != http.StatusNotFound || len(got.body) != 0 {
		t.Errorf("HEAD of no request: got %d with %s, want 404 without a body", got.status, got.body)
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	for _, test := range []struct {
		method, path string
		status       int
		problem      string
	}{
		{"GET", "/", 404, "not-found"},
		{"GET", "/nowhere", 404, "not-found"},
		{"GET", "/problems/nothing", 404, "not-found"},
		{"GET", "/sync", 405, "method-not-allowed"},
		{"PUT", "/async", 405, "method-not-allowed"},
		{"DELETE", "/requests", 405, "method-not-allowed"},
		{"POST", "/requests/" + uuid.NewString(), 405, "method-not-allowed"},
	} {
		t.Run(test.method+test.path, func(t *testing.T) {
			t.Parallel()
			answer := s.call(t, test.method, test.path, "")
			s.wantProblem(t, answer, test.status, test.problem)
			if allow := answer.header.Get("Allow"); (allow != "") != (test.status == 405) {
				t.Errorf("Allow: got %q", allow)
			}
		})
	}
}

func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	routes := [][3]string{
		{"POST", "/sync", `{"input":{"text":"a"}}`},
		{"POST", "/async", asyncBody},
		{"GET", "/requests", ""},
		{"GET", "/requests/" + uuid.NewString(), ""},
		{"GET", "/healthz", ""},
	}
	for name, away := range map[string]func(*dbtest.Proxy){"Refused": (*dbtest.Proxy).Refuse, "Frozen": (*dbtest.Proxy).Freeze} {
		for kind, limits := range map[string]string{"": "", "WithOneConnection": "&pool_max_conns=1"} {
			t.Run(name+kind+"Is503UntilItIsBack", func(t *testing.T) {
				t.Parallel()
				url := dbtest.New(t)
				proxy, through := dbtest.NewProxy(t, url)
				s := newServiceAt(t, url, through+limits, nil)
				s.call(t, "GET", "/requests", "") // so that there is a connection to lose
				away(proxy)
				var calls sync.WaitGroup
				for _, route := range routes {
					calls.Go(func() {
						answer := s.call(t, route[0], route[1], route[2])
						s.wantProblem(t, answer, http.StatusServiceUnavailable, "unavailable")
					})
				}
				calls.Wait()
				if got := s.stored(t); got != 0 {
					t.Errorf("stored: got %d rows, want none", got)
				}
				proxy.Pass()
				ctx, cancel := context.WithTimeout(t.Context(), dbtest.Patience)
				defer cancel()
				for _, route := range routes {
					for {
						answer, err := s.try(ctx, route[0], route[1], route[2])
						if err != nil {
							t.Fatalf("%s %s after it is back: %v", route[0], route[1], err)
						}
						if answer.status != http.StatusServiceUnavailable {
							if answer.status >= 500 {
								t.Errorf("%s %s after it is back: got %d with %s", route[0], route[1], answer.status, answer.body)
							}
							break
						}
					}
				}
			})
		}
	}
}
