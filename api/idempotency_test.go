package api_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"ringback/work"
)

// withKey sends a call with an Idempotency-Key.
func (s *service) withKey(t *testing.T, key, path, body string) answer {
	t.Helper()
	return s.call(t, "POST", path, body, "Idempotency-Key", key)
}

// persist repeats a call that a busy machine didn't answer in time: keys are for that.
func (s *service) persist(t *testing.T, key, path, body string) answer {
	t.Helper()
	for {
		got := s.withKey(t, key, path, body)
		if got.status != http.StatusServiceUnavailable || t.Context().Err() != nil {
			return got
		}
	}
}

// wantReplay checks that an answer repeats the first.
func wantReplay(t *testing.T, first, again answer) {
	t.Helper()
	if again.status != first.status || string(again.body) != string(first.body) || again.header.Get("Location") != first.header.Get("Location") {
		t.Errorf("again: got %d %s, want %d %s", again.status, again.body, first.status, first.body)
	}
	if first.header.Get("Idempotent-Replayed") != "" || again.header.Get("Idempotent-Replayed") != "true" {
		t.Error("Idempotent-Replayed: want it on the second answer alone")
	}
}

const syncBody = `{"input":{"text":"a"}}`

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()

	for path, body := range map[string]string{"/sync": syncBody, "/async": asyncBody} {
		t.Run("GivesTheSameAnswerAgain"+path, func(t *testing.T) {
			t.Parallel()
			s := newService(t, nil)
			first := s.withKey(t, "k", path, body)
			rows := s.stored(t)
			wantReplay(t, first, s.withKey(t, "k", path, body))
			wantReplay(t, first, s.withKey(t, `"k"`, path, strings.ReplaceAll(body, ":{", " : {\n"))) // white space doesn't matter
			if got := s.stored(t); got != rows {
				t.Errorf("rows and jobs: got %d, want %d as after the first", got, rows)
			}
			s.wantProblem(t, s.withKey(t, "k", path, strings.Replace(body, `"a"`, `"b"`, 1)), http.StatusUnprocessableEntity, "idempotency-key-reused")
			if other := s.withKey(t, "l", path, body); other.status != first.status || string(other.body) == string(first.body) {
				t.Errorf("another key: got %d %s, want another request", other.status, other.body)
			}
			if s.call(t, "POST", path, body); !s.holds(t, "SELECT count(*) = 2 FROM idempotency_keys") {
				t.Error("want a row for each of the two keys, and none for a call without")
			}
		})

		t.Run("IsOneClientsAlone"+path, func(t *testing.T) {
			t.Parallel()
			s := newService(t, keyed(map[string]string{"a": "alice", "b": "bob"}))
			alice := s.call(t, "POST", path, body, "Idempotency-Key", "k", "Authorization", "Bearer a")
			bob := s.call(t, "POST", path, body, "Idempotency-Key", "k", "Authorization", "Bearer b")
			if alice.status != bob.status || alice.header.Get("Location") == bob.header.Get("Location") {
				t.Errorf("got %s and %s, want a request of each", alice.body, bob.body)
			}
		})

		t.Run("IsFreeAgainWhenItHasExpired"+path, func(t *testing.T) {
			t.Parallel()
			s := newService(t, nil)
			first := s.withKey(t, "k", path, body)
			if !s.holds(t, "SELECT idempotency_keys.expires_at - accepted_at = interval '24 hours' FROM idempotency_keys JOIN requests ON id = request_id") {
				t.Error("want the key kept for a day")
			}
			if _, err := s.pool.Exec(t.Context(), "UPDATE idempotency_keys SET expires_at = now()"); err != nil {
				t.Fatal(err)
			}
			if again := s.withKey(t, "k", path, body); again.status != first.status || again.header.Get("Location") == first.header.Get("Location") {
				t.Errorf("got %d %s, want another request", again.status, again.body)
			}
		})
	}

	t.Run("GivesAFailureAgain", func(t *testing.T) {
		t.Parallel()
		s := newService(t, doing(t, func(context.Context, jsontext.Value) (jsontext.Value, error) {
			return nil, &work.Error{Code: "no_such_word", Message: "There is no such word."}
		}))
		first := s.withKey(t, "k", "/sync", syncBody)
		again := s.withKey(t, "k", "/sync", syncBody)
		wantReplay(t, first, again)
		s.wantProblem(t, again, http.StatusInternalServerError, "work-failed")
	})

	t.Run("IsInFlightWhileTheWorkRuns", func(t *testing.T) {
		t.Parallel()
		started, release := make(chan struct{}, 2), make(chan struct{})
		s := newService(t, doing(t, func(context.Context, jsontext.Value) (jsontext.Value, error) {
			started <- struct{}{}
			<-release
			return jsontext.Value(`1`), nil
		}))
		first := make(chan answer)
		go func() { first <- s.withKey(t, "k", "/sync", syncBody) }()
		<-started
		s.wantProblem(t, s.withKey(t, "k", "/sync", syncBody), http.StatusConflict, "request-in-flight")
		close(release)
		wantReplay(t, <-first, s.withKey(t, "k", "/sync", syncBody))
		if len(started) != 0 {
			t.Error("the work was done twice")
		}
	})

	t.Run("IsFreeAgainWhenItsProcessHasDied", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		s.withKey(t, "k", "/sync", syncBody)
		for _, test := range []struct {
			held string
			want int
		}{{"1 minute", http.StatusConflict}, {"0", http.StatusOK}} {
			if _, err := s.pool.Exec(t.Context(), "DELETE FROM requests"); err != nil {
				t.Fatal(err)
			}
			if _, err := s.pool.Exec(t.Context(), "UPDATE idempotency_keys SET held_until = now() + $1::text::interval", test.held); err != nil {
				t.Fatal(err)
			}
			if got := s.withKey(t, "k", "/sync", syncBody); got.status != test.want {
				t.Errorf("held for %s more: got %d %s, want %d", test.held, got.status, got.body, test.want)
			}
		}
	})

	t.Run("IsFreeAgainWhenItsCallerWentAway", func(t *testing.T) {
		t.Parallel()
		started := make(chan struct{}, 1)
		s := newService(t, doing(t, func(ctx context.Context, _ jsontext.Value) (jsontext.Value, error) {
			select {
			case started <- struct{}{}: // filled again below, so that the second run ends
				<-ctx.Done()
				return nil, ctx.Err()
			default:
				return jsontext.Value(`1`), nil
			}
		}))
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error)
		go func() {
			for { // until a busy machine lets the work begin
				if got, err := s.try(ctx, "POST", "/sync", syncBody, "Idempotency-Key", "k"); err != nil || got.status != http.StatusServiceUnavailable {
					gone <- err
					return
				}
			}
		}()
		<-started
		cancel()
		<-gone
		started <- struct{}{}
		s.waitFor(t, "SELECT EXISTS (SELECT FROM requests WHERE status = 'cancelled')")
		if got := s.persist(t, "k", "/sync", syncBody); got.status != http.StatusOK {
			t.Errorf("got %d %s, want the work done", got.status, got.body)
		}
	})

	t.Run("MakesOneRequestOfManyCallsAtATime", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		second := newServiceAt(t, s.pool.Config().ConnString(), s.pool.Config().ConnString(), nil) // of another process
		answers := make(chan answer)
		const calls = 20
		for i := range calls {
			go func() { answers <- []*service{s, second}[i%2].persist(t, "k", "/async", asyncBody) }()
		}
		locations := map[string]bool{}
		for range calls {
			got := <-answers
			if got.status != http.StatusAccepted {
				t.Errorf("got %d %s, want 202", got.status, got.body)
			}
			locations[got.header.Get("Location")] = true
		}
		if len(locations) != 1 || s.stored(t) != 2 {
			t.Errorf("got the requests %v and %d rows and jobs, want one request with its job", locations, s.stored(t))
		}
	})

	t.Run("IsRefusedWhereItIsMalformed", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		for _, key := range []string{`"`, `""`, `"a`, `"a"b"`, `"a\b"`, `"a\`, "ä", "a\tb", strings.Repeat("x", 256)} {
			s.wantProblem(t, s.withKey(t, key, "/async", asyncBody), http.StatusBadRequest, "malformed-idempotency-key")
		}
		if got := s.stored(t); got != 0 {
			t.Errorf("rows and jobs: got %d, want none", got)
		}
		for _, key := range []string{strings.Repeat("x", 255), `"a \"b\" \\"`, "a b", `8e03978e-40d5-43dd-bc93-6894a57f9324`} {
			if got := s.withKey(t, key, "/async", asyncBody); got.status != http.StatusAccepted {
				t.Errorf("%s: got %d, want 202", key, got.status)
			}
		}
	})
}
