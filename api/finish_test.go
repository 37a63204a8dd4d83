package api_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"ringback/api"
	"ringback/db"
	"ringback/jobs"
	"ringback/work"
)

// newLater starts a service whose work goes on elsewhere. It calls did first.
func newLater(t *testing.T, did func(s *service, finish string)) *service {
	t.Helper()
	var s *service
	do := func(_ context.Context, call work.Call) (jsontext.Value, error) {
		address, err := url.Parse(call.FinishURL)
		if err != nil || address.Host != "ringback.example.com" {
			t.Errorf("got %q, %v, want a URL of the service", call.FinishURL, err)
		}
		did(s, address.Path)
		return nil, work.ErrElsewhere
	}
	s = newService(t, func(c *api.Config) {
		c.Catalog = catalogOf(t, work.Work{Do: do, Lease: time.Minute})
		queue, err := jobs.New(jobs.Config{
			Pool: c.Pool, RiverPool: c.Pool, Logger: discard, Catalog: c.Catalog, AsyncLimit: 100, Retention: time.Hour,
			PublicURL: "http://ringback.example.com",
		})
		if err != nil {
			t.Fatal(err)
		}
		c.Queue = queue
	})
	return s
}

func TestReports(t *testing.T) {
	t.Parallel()

	t.Run("FinishSyncWorkThatGoesOn", func(t *testing.T) {
		t.Parallel()
		var finish string
		s := newLater(t, func(_ *service, path string) { finish = path })
		got := s.call(t, "POST", "/sync", syncBody, "Idempotency-Key", "k")
		decode[asyncAnswer](t, got, http.StatusAccepted)
		location := got.header.Get("Location")
		if stored := s.located(t, got); stored.Mode != db.Sync || stored.WorkJobID == 0 || got.header.Get("Retry-After") == "" {
			t.Errorf("got %+v with %v, want it accepted with a job", stored, got.header)
		}
		if again := s.call(t, "POST", "/sync", syncBody, "Idempotency-Key", "k"); again.status != http.StatusAccepted || again.header.Get("Location") != location {
			t.Errorf("with its key: got %d %s, want the first answer", again.status, again.body)
		}
		stream := s.follow(t, location)
		if got := stream.next(); got.event != "state" {
			t.Errorf("got %+v, want the state", got)
		}

		s.wantProblem(t, s.call(t, "POST", "/work/x", `{"result":1}`), http.StatusNotFound, "not-found")
		s.wantProblem(t, s.call(t, "POST", finish+"A", `{"result":1}`), http.StatusNotFound, "not-found")
		s.wantProblem(t, s.call(t, "POST", finish, `{"result":1}`, "Content-Type", "text/plain"), http.StatusUnsupportedMediaType, "unsupported-media-type")
		s.wantProblem(t, s.call(t, "POST", finish, `{"result":`+strings.Repeat(" ", 256<<10)+`1}`), http.StatusRequestEntityTooLarge, "body-too-large")
		for body, field := range map[string]string{
			`{"result":`:                 "#",
			`[]`:                         "#",
			`{"resul":1}`:                "#/resul",
			`{"result":1,"progress":{}}`: "#",
			`{"error":{"message":"m"}}`:  "#/error/code",
			`{"error":{"code":"c"}}`:     "#/error/message",
			`{"error":{"code":"No Page","message":"m"}}`:                          "#/error/code",
			`{"error":{"code":"abandoned","message":"m"}}`:                        "#/error/code",
			`{"error":{"code":"c` + strings.Repeat("c", 64) + `","message":"m"}}`: "#/error/code",
			`{"error":"c"}`:  "#/error",
			`{"progress":7}`: "#/progress",
			`{"progress":{"a":"` + strings.Repeat("x", 4<<10) + `"}}`: "#/progress",
		} {
			s.wantProblem(t, s.call(t, "POST", finish, body), http.StatusUnprocessableEntity, "invalid-input", field)
		}
		for _, body := range []string{"", "{}", `{"progress":{"percent":10}}`} {
			if got := s.call(t, "POST", finish, body); got.status != http.StatusNoContent {
				t.Errorf("%q: got %d %s, want 204", body, got.status, got.body)
			}
		}
		if got := s.call(t, "GET", location, ""); !strings.Contains(string(got.body), `"status":"accepted"`) || !strings.Contains(string(got.body), `"progress":{"percent":10}`) {
			t.Errorf("got %s, want the progress", got.body)
		}
		for path, event := range map[string]string{location: `"event":"work_goes_on_elsewhere"`, "/requests": "", "/requests?status=accepted": ""} {
			if got := s.call(t, "GET", path, ""); !strings.Contains(string(got.body), `"running_since":"`) || !strings.Contains(string(got.body), event) {
				t.Errorf("%s: got %s, want since when it goes on elsewhere", path, got.body)
			}
		}
		if got := stream.next(); got != (sent{"progress", "1", `{"percent":10}`}) {
			t.Errorf("got %+v, want the progress", got)
		}
		late := s.follow(t, location, "Last-Event-ID", "1")

		if got := s.call(t, "POST", finish, `{"result":{"a":1}}`); got.status != http.StatusNoContent {
			t.Errorf("got %d %s, want 204", got.status, got.body)
		}
		for _, e := range []*events{stream, late} {
			if got := e.next(); got.event != "end" || !strings.Contains(got.data, `"result":{"a":1}`) {
				t.Errorf("got %+v, want the end and nothing before it", got)
			}
		}
		for _, path := range []string{location, "/requests"} {
			if got := s.call(t, "GET", path, ""); strings.Contains(string(got.body), "running_since") || strings.Contains(string(got.body), "elsewhere") {
				t.Errorf("%s: got %s, want that nothing goes on", path, got.body)
			}
		}
		for _, body := range []string{"", `{"result":1}`, `{"progress":{}}`} {
			s.wantProblem(t, s.call(t, "POST", finish, body), http.StatusGone, "attempt-over")
		}
		if got := s.call(t, "POST", "/sync", syncBody, "Idempotency-Key", "k"); got.status != http.StatusOK || !strings.Contains(string(got.body), `"result":{"a":1}`) {
			t.Errorf("with its key, afterwards: got %d %s, want the result", got.status, got.body)
		}
	})

	t.Run("ThatComeTooEarlyAreToComeAgain", func(t *testing.T) {
		t.Parallel()
		s := newLater(t, func(s *service, finish string) {
			s.wantProblem(t, s.call(t, "POST", finish, `{"result":1}`), http.StatusServiceUnavailable, "unavailable")
		})
		decode[asyncAnswer](t, s.call(t, "POST", "/sync", syncBody), http.StatusAccepted)
	})

	t.Run("AreTakenByProcessesThatOnlyWork", func(t *testing.T) {
		t.Parallel()
		pool := newService(t, nil).pool
		server := httptest.NewServer(api.NewHealth(api.Config{Pool: pool, Queue: newQueue(t, pool, jobs.Config{AsyncLimit: 1}), Logger: discard}))
		t.Cleanup(server.Close)
		worker := service{url: server.URL}
		if got := worker.call(t, "POST", "/work/x", ""); got.status != http.StatusNotFound || !strings.Contains(string(got.body), "No attempt has this token.") {
			t.Errorf("got %d %s, want that it knows tokens", got.status, got.body)
		}
	})
}
