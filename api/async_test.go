package api_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"ringback/api"
	"ringback/api/contract"
	"ringback/db"
	"ringback/jobs"
	"ringback/jobs/webhook"
)

const hook = "https://hooks.example.com/x"

const asyncBody = `{"input":{"text":"a"},"callback_url":"` + hook + `"}`

type asyncAnswer struct {
	ID         string    `json:"id"`
	Status     string    `json:"status"`
	AcceptedAt time.Time `json:"accepted_at"`
}

func TestAsync(t *testing.T) {
	t.Parallel()

	t.Run("IsAcceptedWithItsJob", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		answer := s.call(t, "POST", "/async", `{"callback_url": "HTTPS://Hooks.Example.com:443/x", "input": {"text": "a"}}`)
		got := decode[asyncAnswer](t, answer, http.StatusAccepted)
		if got.Status != "accepted" || answer.header.Get("Location") != "/requests/"+got.ID {
			t.Errorf("got %s at %q, want it accepted, at its Location", answer.body, answer.header.Get("Location"))
		}
		row := s.located(t, answer)
		if row.Mode != db.Async || row.Status != db.Accepted || row.CallbackState != db.CallbackWaiting || row.CallbackURL != hook ||
			string(row.Input) != `{"text":"a","rounds":0,"delay_ms":0}` || !row.AcceptedAt.Equal(got.AcceptedAt) {
			t.Errorf("row: got %+v, want it accepted as in %s", row, answer.body)
		}
		const sql = `
			SELECT count(*) = 1
			FROM requests
			JOIN river_job ON river_job.id = requests.work_job_id
			WHERE requests.id = $1
			  AND river_job.kind = 'work'
			  AND river_job.state = 'available'
			  AND river_job.args = jsonb_build_object('request_id', $1::text)
			  AND (SELECT count(*) FROM river_job) = 1`
		if !s.holds(t, sql, got.ID) {
			t.Error("want one work job, joined by work_job_id, with nothing but the request's id")
		}
	})

	t.Run("NamesOnlyHostsThatItsClientMay", func(t *testing.T) {
		t.Parallel()
		s := newService(t, func(c *api.Config) {
			keyed(map[string]string{"a-key": "alice", "b-key": "bob"})(c)
			c.Callbacks = func(client string) webhook.Hosts {
				return map[string]webhook.Hosts{"alice": {"hooks.example.com", "*.below.example.com:8443"}}[client]
			}
		})
		for url, want := range map[string]int{
			"https://HOOKS.example.com./x": http.StatusAccepted, "https://x.below.example.com:8443/": http.StatusAccepted,
			"https://x.below.example.com/": http.StatusUnprocessableEntity, "https://hooks.example.com.evil.org/": http.StatusUnprocessableEntity,
		} {
			got := s.call(t, "POST", "/async", `{"input":{"text":"a"},"callback_url":"`+url+`"}`, "Authorization", "Bearer a-key")
			if want == http.StatusAccepted && got.status != want {
				t.Errorf("%s: got %d with %s, want 202", url, got.status, got.body)
			} else if want != http.StatusAccepted {
				s.wantProblem(t, got, want, "invalid-callback-url", "#/callback_url")
			}
		}
		if got := s.call(t, "POST", "/async", `{"input":{"text":"a"},"callback_url":"https://evil.org/"}`, "Authorization", "Bearer b-key"); got.status != http.StatusAccepted {
			t.Errorf("bob, who may name all: got %d with %s, want 202", got.status, got.body)
		}
	})

	t.Run("BeyondTheLimitIsRefusedAtOnce", func(t *testing.T) {
		t.Parallel()
		var queue *jobs.Queue
		s := newService(t, func(c *api.Config) {
			queue = newQueue(t, c.Pool, jobs.Config{AsyncLimit: 1})
			c.Queue = queue
		})
		tx, err := s.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), "LOCK TABLE requests"); err != nil {
			t.Fatal(err)
		}
		// One call for the flusher, which then waits for the lock, and one call in the
		// queue.
		first := make(chan answer)
		for range 2 {
			go func() { first <- s.call(t, "POST", "/async", asyncBody) }()
			s.waitFor(t, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')")
		}
		for queue.Admit("local") == nil {
			s.waitFor(t, "SELECT true")
		}
		s.wantProblem(t, s.callOnce(t, "POST", "/async", asyncBody), http.StatusServiceUnavailable, "temporary-reduced-capacity")
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got := <-first; got.status != http.StatusAccepted {
				t.Errorf("before it: got %d, want 202", got.status)
			}
		}
		if got := s.stored(t); got != 4 {
			t.Errorf("rows and jobs: got %d, want two of each", got)
		}
	})

	t.Run("RefusedLeavesItsConnectionToTheNext", func(t *testing.T) {
		t.Parallel()
		s := fullService(t)
		in, conn, closes := s.refused(t, len(asyncBody), asyncBody)
		for tries := 1; closes && tries < 100; tries++ { // on a busy machine the body is read too late
			in, conn, closes = s.refused(t, len(asyncBody), asyncBody)
		}
		if closes {
			t.Fatal("the answer says that the connection closes, want it kept")
		}
		fmt.Fprintf(conn, "GET /problems/temporary-reduced-capacity HTTP/1.1\r\nHost: localhost\r\n\r\n")
		if next, err := http.ReadResponse(in, nil); err != nil || next.StatusCode != http.StatusOK {
			t.Errorf("next call on the connection: got %v, %v, want 200", next, err)
		}
	})

	for name, length := range map[string]int{"Small": 1000, "Large": 5000} {
		t.Run("RefusedClosesWhenItsBodyIsNotSent/"+name, func(t *testing.T) {
			t.Parallel()
			in, _, closes := fullService(t).refused(t, length, "")
			if !closes {
				t.Error("the answer says that the connection stays open, want it closed")
			}
			if got, err := in.ReadByte(); !errors.Is(err, io.EOF) {
				t.Errorf("after the answer: got %q, %v, want %v rather than that it waits for the body", got, err, io.EOF)
			}
		})
	}
}

// fullService has accepted as many requests as its limit allows.
func fullService(t *testing.T) *service {
	t.Helper()
	s := newService(t, func(c *api.Config) { c.Queue = newQueue(t, c.Pool, jobs.Config{AsyncLimit: 1, UnfinishedLimit: 1}) })
	if got := s.call(t, "POST", "/async", asyncBody); got.status != http.StatusAccepted {
		t.Fatalf("first: got %d, want 202", got.status)
	}
	return s
}

// refused calls a service that is full, sends only a part of a body of the given length,
// and returns its connection after the answer, which may say that the connection closes.
func (s *service) refused(t *testing.T, length int, body string) (in *bufio.Reader, conn net.Conn, closes bool) {
	t.Helper()
	conn = s.open(t, fmt.Sprintf("POST /async HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d", length), body)
	in = bufio.NewReader(conn)
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	contract.CheckRaw(t, "POST /async", response)
	if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != http.StatusServiceUnavailable {
		t.Fatalf("got %d, %v, want 503", response.StatusCode, err)
	}
	return in, conn, response.Close
}

func TestCallHeaders(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)

	const valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for name, test := range map[string]struct{ sent, want string }{
		"ValidIsStored":         {valid, valid},
		"AbsentIsNone":          {"", ""},
		"UpperCaseIsIgnored":    {strings.ToUpper(valid), ""},
		"OtherVersionIsIgnored": {"ff" + valid[2:], ""},
		"TooShortIsIgnored":     {valid[:len(valid)-1], ""},
		"TooLongIsIgnored":      {valid + "-00", ""},
		"ZeroTraceIDIsIgnored":  {"00-00000000000000000000000000000000-b7ad6b7169203331-01", ""},
		"ZeroParentIDIsIgnored": {"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", ""},
	} {
		t.Run("Traceparent/"+name, func(t *testing.T) {
			t.Parallel()
			for path, body := range map[string]string{"/sync": `{"input":{"text":"a"}}`, "/async": asyncBody} {
				if got := s.located(t, s.call(t, "POST", path, body, "Traceparent", test.sent)).Traceparent; got != test.want {
					t.Errorf("%s with %q: got %q, want %q", path, test.sent, got, test.want)
				}
			}
		})
	}

	for name, test := range map[string]struct {
		sent string
		echo bool
	}{
		"ValidIsEchoed": {"call-1/x", true}, "LongestIsEchoed": {strings.Repeat("x", 128), true},
		"TooLongIsReplaced": {strings.Repeat("x", 129), false}, "SpaceIsReplaced": {"a b", false}, "ForeignIsReplaced": {"ä", false}, "AbsentIsMade": {"", false},
	} {
		t.Run("RequestID/"+name, func(t *testing.T) {
			t.Parallel()
			for _, path := range []string{"/healthz", "/nowhere"} {
				got := s.call(t, "GET", path, "", "X-Request-Id", test.sent).header.Get("X-Request-Id")
				if got == "" || (got == test.sent) != test.echo {
					t.Errorf("%s with %q: got %q, want it echoed: %v", path, test.sent, got, test.echo)
				}
			}
		})
	}
}
