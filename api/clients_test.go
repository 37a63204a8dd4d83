package api_test

import (
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"ringback/api"
	"ringback/db"
	"ringback/jobs/clients"
)

func TestAPIKeys(t *testing.T) {
	t.Parallel()
	s := newService(t, keyed(map[string]string{"a-key": "alice", "b-key": "bob"}))
	alices := s.store(t, db.Request{Client: "alice", Status: db.Succeeded})
	bobs := s.store(t, db.Request{Client: "bob", Status: db.Succeeded})

	for name, header := range map[string]string{
		"Missing": "", "Wrong": "Bearer c-key", "Empty": "Bearer ", "OtherScheme": "Basic a-key", "NoScheme": "a-key", "WithMore": "Bearer a-key b-key", "Name": "Bearer alice",
	} {
		t.Run(name+"IsA401", func(t *testing.T) {
			t.Parallel()
			for _, route := range [][3]string{
				{"POST", "/sync", `{"input":{"text":"a"}}`}, {"POST", "/async", asyncBody}, {"GET", "/requests", ""}, {"GET", "/requests/" + alices.ID.String(), ""},
			} {
				answer := s.call(t, route[0], route[1], route[2], "Authorization", header)
				s.wantProblem(t, answer, http.StatusUnauthorized, "unauthorized")
				if got, want := answer.header.Get("WWW-Authenticate"), `Bearer realm="ringback"`; got != want {
					t.Errorf("%s %s: got WWW-Authenticate %q, want %q", route[0], route[1], got, want)
				}
			}
			if got := s.stored(t); got != 2 {
				t.Errorf("stored: got %d rows, want the two from before", got)
			}
		})
	}

	t.Run("OthersRequestsAreNotThere", func(t *testing.T) {
		t.Parallel()
		for key, ids := range map[string]struct{ own, other db.Request }{"bearer a-key": {alices, bobs}, "Bearer b-key": {bobs, alices}} {
			s.wantProblem(t, s.call(t, "GET", "/requests/"+ids.other.ID.String(), "", "Authorization", key), http.StatusNotFound, "not-found")
			if got := s.call(t, "GET", "/requests/"+ids.own.ID.String(), "", "Authorization", key); got.status != http.StatusOK {
				t.Errorf("%s, own request: got %d, want 200", key, got.status)
			}
			list := decode[page](t, s.call(t, "GET", "/requests", "", "Authorization", key), http.StatusOK)
			if len(list.Requests) != 1 || list.Requests[0]["id"] != ids.own.ID.String() {
				t.Errorf("%s, list: got %v, want %s only", key, list.Requests, ids.own.ID)
			}
		}
	})

	t.Run("HealthAndProblemsNeedNone", func(t *testing.T) {
		t.Parallel()
		for _, path := range []string{"/healthz", "/problems/unauthorized"} {
			if got := s.call(t, "GET", path, ""); got.status != http.StatusOK {
				t.Errorf("%s: got %d, want 200", path, got.status)
			}
		}
	})
}

func TestAcceptedRequestsAreTheirClients(t *testing.T) {
	t.Parallel()
	s := newService(t, keyed(map[string]string{"a-key": "alice", "b-key": "bob"}))
	for path, body := range map[string]string{"/sync": `{"input":{"text":"a"}}`, "/async": asyncBody} {
		if got := s.call(t, "POST", path, body, "Authorization", "Bearer b-key"); got.status >= 300 {
			t.Errorf("%s: got %d with %s", path, got.status, got.body)
		}
	}
	if !s.holds(t, "SELECT count(*) = 2 AND bool_and(client = 'bob') FROM requests") {
		t.Error("want two requests, both bob's")
	}
}

func TestLocalModeNeedsNoKey(t *testing.T) {
	t.Parallel()
	s := newService(t, func(c *api.Config) { c.FindClient = findClient(map[string]string{"a-key": "alice"}) })
	for header, want := range map[string]string{"": "local", "Bearer a-key": "alice"} {
		answer := s.call(t, "POST", "/sync", `{"input":{"text":"a"}}`, "Authorization", header)
		if answer.status != http.StatusOK || !s.holds(t, "SELECT count(*) = 1 FROM requests WHERE client = $1", want) {
			t.Errorf("Authorization %q: got %d with %s, want it to be %s's", header, answer.status, answer.body, want)
		}
	}
	answer := s.call(t, "POST", "/sync", `{"input":{"text":"a"}}`, "Authorization", "Bearer b-key")
	s.wantProblem(t, answer, http.StatusUnauthorized, "unauthorized")
}

// The operator reads why a call was refused, and from where it came. The caller reads what
// is wrong with its header, and nothing about a key of the right form.
func TestLogOf401(t *testing.T) {
	t.Parallel()
	logged := make(chan string, 10)
	s := newService(t, func(c *api.Config) {
		keyed(map[string]string{"a-key": "alice"})(c)
		c.WhyUnknown = func(key string) clients.Unknown {
			if key == "'a-key'" {
				return clients.Unknown{Why: clients.MalformedKey, Length: 7, Mistake: "it has a quote or a space in it"}
			}
			return clients.Unknown{Why: "disabled_client", Client: "bob"}
		}
		c.Logger = slog.New(slog.NewTextHandler(lines(logged), nil))
	})
	const from = ` remote_addr=127\.0\.0\.1:[0-9]+`
	for header, want := range map[string]struct{ line, detail string }{
		"":               {"no_key" + from, "The call has no API key. Send a valid"},
		"Basic a-key":    {"no_bearer" + from, "another scheme than Bearer. Send a valid"},
		"Bearer 'a-key'": {"malformed_key" + from + ` key_length=7 key_mistake="it has a quote or a space in it"`, "not of the form of a key: rbk_ and 43 letters"},
		"Bearer b-key":   {"disabled_client" + from + " key_of=bob", `"detail":"Send a valid API key as Authorization: Bearer KEY."`},
	} {
		answer := s.call(t, "GET", "/requests", "", "Authorization", header)
		got, body := <-logged, string(answer.body)
		if !regexp.MustCompile("problem=unauthorized cause="+want.line).MatchString(got) || strings.Contains(got, "-key") {
			t.Errorf("Authorization %q: got the line\n%s\nwant cause %s, without the key", header, got, want.line)
		}
		if !strings.Contains(body, want.detail) || strings.Contains(body, "disabled") || strings.Contains(body, "-key") {
			t.Errorf("Authorization %q: got %s, want %s", header, body, want.detail)
		}
	}
}

// The operator reads which rule a callback URL broke, and nothing of the URL.
func TestLogOfARefusedCallbackURL(t *testing.T) {
	t.Parallel()
	logged := make(chan string, 10)
	s := newService(t, func(c *api.Config) { c.Logger = slog.New(slog.NewTextHandler(lines(logged), nil)) })
	for url, rule := range map[string]string{
		"ftp://secret.example.com/":         "must start with https",
		"https://secret.example.com:99999/": "port",
	} {
		s.call(t, "POST", "/async", `{"input":{"text":"a"},"callback_url":"`+url+`"}`)
		if got := <-logged; !regexp.MustCompile(`problem=invalid-callback-url cause="[^"]*`+rule).MatchString(got) || strings.Contains(got, "secret") {
			t.Errorf("%s: got the line\n%s\nwant the rule %q, without the URL", url, got, rule)
		}
	}
}

// Calls that anybody can send, as many as it likes, don't fill the log.
func TestCallsOfStrangersAreLoggedSeldom(t *testing.T) {
	t.Parallel()
	const calls = 200
	logged := make(chan string, 2*calls)
	s := newService(t, func(c *api.Config) {
		keyed(map[string]string{"a-key": "alice"})(c)
		c.Logger = slog.New(slog.NewTextHandler(lines(logged), nil))
	})
	for n := range calls {
		call := []string{"GET /requests", "GET /nowhere", "POST /work/token", "GET /problems/none", "PUT /sync"}[n%5]
		method, path, _ := strings.Cut(call, " ")
		if got := s.call(t, method, path, ""); got.status < 400 {
			t.Errorf("%s: got %d, want a problem", call, got.status)
		}
	}
	if got := len(logged); got == 0 || got > calls/2 {
		t.Errorf("%d calls: got %d lines, want ten a second", calls, got)
	}
}
