package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"ringback/db"
)

type page struct {
	Requests   []map[string]any `json:"requests"`
	NextCursor string           `json:"next_cursor"`
	SearchedTo string           `json:"searched_to"`
}

func (p page) ids() (ids []string) {
	for _, request := range p.Requests {
		ids = append(ids, request["id"].(string))
	}
	return ids
}

func TestListRequests(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	shapes := []db.Request{
		{Status: db.Succeeded},
		{Status: db.Accepted, CallbackState: db.CallbackWaiting},
		{Status: db.Failed},
		{Status: db.Succeeded, CallbackState: db.CallbackPending},
		{Status: db.Failed, CallbackState: db.CallbackDead, SettledAt: morning.Add(time.Hour)},
		{Status: db.Succeeded, CallbackState: db.CallbackDelivered, SettledAt: morning.Add(time.Hour)},
		{Status: db.Cancelled},
	}
	var all []db.Request // newest first
	for i := range 25 {
		all = slices.Insert(all, 0, s.store(t, shapes[i%len(shapes)]))
	}

	t.Run("GivesTwentyAtFirstNewestFirst", func(t *testing.T) {
		t.Parallel()
		got := decode[page](t, s.call(t, "GET", "/requests", ""), http.StatusOK)
		var want []string
		for _, request := range all[:20] {
			want = append(want, request.ID.String())
		}
		if diff := cmp.Diff(want, got.ids()); diff != "" || got.NextCursor == "" {
			t.Errorf("next_cursor %q, ids (-want +got):\n%s", got.NextCursor, diff)
		}
		for _, request := range got.Requests {
			if _, ok := request["input"]; ok || request["result"] != nil || request["error"] != nil || request["client"] != nil {
				t.Errorf("got %v, want no input, result, error and client", request)
			}
		}
	})

	for query, want := range map[string]func(db.Request) bool{
		"limit=1":                  func(db.Request) bool { return true },
		"limit=7":                  func(db.Request) bool { return true },
		"limit=25":                 func(db.Request) bool { return true },
		"limit=100":                func(db.Request) bool { return true },
		"limit=3&mode=sync":        func(r db.Request) bool { return r.Mode == db.Sync },
		"limit=3&mode=async":       func(r db.Request) bool { return r.Mode == db.Async },
		"limit=2&status=failed":    func(r db.Request) bool { return r.Status == db.Failed },
		"limit=2&status=accepted":  func(r db.Request) bool { return r.Status == db.Accepted },
		"limit=2&callback=dead":    func(r db.Request) bool { return r.CallbackState == db.CallbackDead },
		"limit=2&status=expired":   func(r db.Request) bool { return false },
		"status=failed&mode=async": func(r db.Request) bool { return r.Status == db.Failed && r.Mode == db.Async },
		"callback=delivered":       func(r db.Request) bool { return r.CallbackState == db.CallbackDelivered },

		"callback_host=Hooks.example.com&limit=9": func(r db.Request) bool { return r.Mode == db.Async },
		"callback_host=example.com":               func(r db.Request) bool { return false },
		"from=2026-03-01T08:00:00Z&limit=9":       func(r db.Request) bool { return true },
		"from=2026-03-01t08:00:00z&limit=9":       func(r db.Request) bool { return true },
		"from=2026-03-01T09:00:01%2B01:00":        func(r db.Request) bool { return false },
		"to=2026-03-01T08:00:00.123456Z":          func(r db.Request) bool { return false },
		"to=2026-03-01T08:00:00.123457Z&limit=9":  func(r db.Request) bool { return true },
		"callback=waiting&limit=50":               func(r db.Request) bool { return r.CallbackState == db.CallbackWaiting },
	} {
		t.Run("PagesGiveEachOnce/"+query, func(t *testing.T) {
			t.Parallel()
			var got, wantIDs []string
			for _, request := range all {
				if want(request) {
					wantIDs = append(wantIDs, request.ID.String())
				}
			}
			for cursor, pages := "", 0; pages <= len(all); pages++ {
				next := decode[page](t, s.call(t, "GET", "/requests?"+query+cursor, ""), http.StatusOK)
				got = append(got, next.ids()...)
				if next.NextCursor == "" {
					break
				}
				cursor = "&cursor=" + next.NextCursor
			}
			if diff := cmp.Diff(wantIDs, got); diff != "" {
				t.Errorf("ids (-want +got):\n%s", diff)
			}
		})
	}

	t.Run("GoesOnWhereNothingMatchesForLong", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		want := s.store(t, db.Request{Status: db.Succeeded})
		const sql = `
			INSERT INTO requests (id, mode, client, status, input, error, accepted_at, finished_at)
			SELECT (lpad(to_hex(4e12::bigint + n), 12, '0') || '7000a' || lpad(to_hex(n), 15, '0'))::uuid, 'sync', 'local', 'failed', '1', '1', now(), now()
			FROM generate_series(1, 500) AS n`
		if _, err := s.pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
		var got, searched []string
		pages, cursor := 0, ""
		for ; pages == 0 || cursor != ""; pages++ {
			next := decode[page](t, s.call(t, "GET", "/requests?status=succeeded"+cursor, ""), http.StatusOK)
			got, searched = append(got, next.ids()...), append(searched, next.SearchedTo)
			if next.NextCursor == "" {
				break
			}
			cursor = "&cursor=" + next.NextCursor
		}
		if want := []string{"2096-10-02T07:06:40.301Z", "2096-10-02T07:06:40.101Z", ""}; !slices.Equal(searched, want) {
			t.Errorf("searched to: got %q, want %q: how far the empty pages have looked", searched, want)
		}
		if !slices.Equal(got, []string{want.ID.String()}) || pages != 2 {
			t.Errorf("got %q in %d pages and one, want %s after two pages that looked at 200 each", got, pages, want.ID)
		}
	})

	t.Run("IsAnEmptyListWithoutAny", func(t *testing.T) {
		t.Parallel()
		if got, want := string(s.call(t, "GET", "/requests?status=expired", "").body), `{"requests":[]}`+"\n"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})

	for query, wrong := range map[string][]string{
		"cursor=": {"cursor"}, "cursor=1": {"cursor"}, "cursor=00000000-0000-0000-0000-000000000000": {"cursor"}, "cursor=0197ab00000070008000000000000000": {"cursor"},
		"mode=sync&callback=dead": {"callback"}, "mode=sync&callback_host=h.example.com": {"callback_host"}, "status=accepted&callback=dead": {"callback"}, "mode=sync&status=expired": {"status"},
		"from=2026-03-02T00:00:00Z&to=2026-03-02T00:00:00Z": {"to"}, "callback_host=https://h.example.com/": {"callback_host"}, "callback_host=h.example.com.": {"callback_host"}, "callback_host=h.example.com:443": {"callback_host"}, "callback_host=h.example.com:65536": {"callback_host"},
		"mode=": {"mode"}, "mode=later": {"mode"}, "status=done": {"status"}, "callback=lost": {"callback"},
		"limit=": {"limit"}, "limit=0": {"limit"}, "limit=101": {"limit"}, "limit=-1": {"limit"}, "limit=ten": {"limit"}, "limit=99999999999999999999": {"limit"},
		"client=bob": {"client"}, "mode=sync&mode=async": {"mode"}, "from=": {"from"}, "to=yesterday": {"to"}, "callback_host=": {"callback_host"}, "callback_host=%00": {"callback_host"}, "callback_host=hoo%E2%84%AAs.example.com": {"callback_host"},
		"to=0001-01-01T00:00:00Z": {"to"}, "limit=0&mode=x&status=x&callback=x&callback_host=+&from=x&to=x&cursor=x&extra=x": {"callback", "callback_host", "cursor", "extra", "from", "limit", "mode", "status", "to"},
	} {
		t.Run("NamesEveryBadParameter/"+query, func(t *testing.T) {
			t.Parallel()
			s.wantProblem(t, s.call(t, "GET", "/requests?"+query, ""), http.StatusBadRequest, "invalid-parameter", wrong...)
		})
	}

	for _, query := range []string{"mode=%zz", "mode=sync;limit=1"} {
		t.Run("RefusesAMalformedQuery/"+query, func(t *testing.T) {
			t.Parallel()
			if got := s.call(t, "GET", "/requests?"+query, ""); got.status != http.StatusBadRequest {
				t.Errorf("got %d, want 400", got.status)
			}
		})
	}
}

func TestGetRequest(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)

	t.Run("GivesTheWholeRequestWithoutWhatIsForOperators", func(t *testing.T) {
		t.Parallel()
		at := func(offset time.Duration) time.Time { return morning.Truncate(time.Second).Add(offset) }
		first := db.Attempt{
			StartedAt: at(2900 * time.Millisecond), EndedAt: at(2999 * time.Millisecond), Outcome: "http_status", HTTPStatus: 500, NextAttemptAt: at(3999 * time.Millisecond),
			Address: "192.0.2.1:443", Cause: "cause", DNS: 1, Connect: 2, TLS: 3, FirstByte: 4,
		}
		second := db.Attempt{StartedAt: at(4 * time.Second), EndedAt: at(4567 * time.Millisecond), Outcome: "timeout"}
		stored := s.store(t, db.Request{Status: db.Failed, CallbackState: db.CallbackDead, SettledAt: at(4567 * time.Millisecond)}, first, second)
		got := decode[map[string]any](t, s.call(t, "GET", "/requests/"+stored.ID.String(), ""), http.StatusOK)
		const wantJSON = `{
			"id": %q, "mode": "async", "status": "failed", "input": {"text": "a"}, "error": {"code": "panic", "message": "m"},
			"callback_url": "https://hooks.example.com/", "callback_state": "dead",
			"accepted_at": "2026-03-01T08:00:00.123456Z", "started_at": "2026-03-01T08:00:01.123456Z",
			"finished_at": "2026-03-01T08:00:02.123456Z", "settled_at": "2026-03-01T08:00:04Z",
			"attempts": [
				{"attempt": 1, "at": "2026-03-01T08:00:02Z", "outcome": "http_status", "http_status": 500, "next_attempt_at": "2026-03-01T08:00:03Z"},
				{"attempt": 2, "at": "2026-03-01T08:00:04Z", "outcome": "timeout"}
			],
			"timeline": [
				{"at": "2026-03-01T08:00:00.123456Z", "event": "accepted"},
				{"at": "2026-03-01T08:00:01.123456Z", "event": "work_started"},
				{"at": "2026-03-01T08:00:02.123456Z", "event": "work_failed"},
				{"at": "2026-03-01T08:00:02.123456Z", "event": "callback_attempt_1_http_status"},
				{"at": "2026-03-01T08:00:04Z", "event": "callback_attempt_2_timeout"},
				{"at": "2026-03-01T08:00:04Z", "event": "callback_dead"}
			]
		}`
		var want map[string]any
		if err := json.Unmarshal(fmt.Appendf(nil, wantJSON, stored.ID), &want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})

	t.Run("SaysUntilWhenAPendingCallbackWaits", func(t *testing.T) {
		t.Parallel()
		began := time.Now().Add(-time.Hour)
		failed := db.Attempt{StartedAt: began, EndedAt: began, Outcome: "http_status", HTTPStatus: 500, NextAttemptAt: began.Add(time.Second)}
		for name, attempts := range map[string][]db.Attempt{"BeforeItsFirstAttempt": nil, "AfterAnAttempt": {failed}} {
			stored := s.store(t, db.Request{Status: db.Succeeded, CallbackState: db.CallbackPending}, attempts...)
			const sql = `
				UPDATE river_job
				SET state = 'scheduled', scheduled_at = '2126-03-01T08:00:00.5Z', metadata = '{"output": {"waits_for": "receiver_closed"}}'
				WHERE id = (SELECT callback_job_id FROM requests WHERE id = $1)`
			if _, err := s.pool.Exec(t.Context(), sql, stored.ID); err != nil {
				t.Fatal(err)
			}
			got := decode[map[string]any](t, s.call(t, "GET", "/requests/"+stored.ID.String(), ""), http.StatusOK)
			const want = "2126-03-01T08:00:01Z" // to the second, and not before it
			if got["callback_waits_for"] != "receiver_closed" || got["callback_due_at"] != want {
				t.Errorf("%s: got %v, want it closed until %s", name, got, want)
			}
			for _, attempt := range got["attempts"].([]any) {
				if next := attempt.(map[string]any)["next_attempt_at"]; next != want {
					t.Errorf("got %v as the time of the next attempt, want %s", next, want)
				}
			}
		}
	})

	t.Run("ShowsTheAttemptsOfTheWork", func(t *testing.T) {
		t.Parallel()
		stored := s.located(t, s.call(t, "POST", "/async", asyncBody))
		if _, err := s.pool.Exec(t.Context(), `UPDATE river_job SET errors = ARRAY[
			'{"at": "2026-03-01T08:00:00.5Z", "attempt": 1, "error": "not done: upstream_busy", "trace": ""}',
			'{"at": "2026-03-01T08:00:01Z", "attempt": 2, "error": "Stuck job rescued by Rescuer", "trace": ""}',
			'{"at": "2126-03-01T08:00:02.5Z", "attempt": 3, "error": "not done: deadline_exceeded", "trace": ""}']::jsonb[]
			WHERE id = $1`, stored.WorkJobID); err != nil {
			t.Fatal(err)
		}
		got := decode[map[string]any](t, s.call(t, "GET", "/requests/"+stored.ID.String(), ""), http.StatusOK)
		var events []any
		for _, event := range got["timeline"].([]any) {
			events = append(events, event.(map[string]any)["event"])
		}
		want := []any{"accepted", "work_attempt_1_upstream_busy", "work_attempt_2_deadline_exceeded"}
		if diff := cmp.Diff(want, events); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})

	t.Run("IsWhatTheAnswersLocationLeadsTo", func(t *testing.T) {
		t.Parallel()
		for path, body := range map[string]string{"/sync": `{"input":{"text":"a"}}`, "/async": asyncBody} {
			answer := s.call(t, "POST", path, body)
			got := decode[map[string]any](t, s.call(t, "GET", answer.header.Get("Location"), ""), http.StatusOK)
			told := map[string]any{}
			if err := json.Unmarshal(answer.body, &told); err != nil {
				t.Fatal(err)
			}
			for name, want := range told {
				if diff := cmp.Diff(want, got[name]); diff != "" {
					t.Errorf("%s of %s (-told +got):\n%s", name, path, diff)
				}
			}
		}
	})

	for _, id := range []string{"1", "0197ab00-0000-7000-8000-00000000000g", "0197ab00000070008000000000000000", "%00"} {
		t.Run("BadIDIsA400/"+id, func(t *testing.T) {
			t.Parallel()
			s.wantProblem(t, s.call(t, "GET", "/requests/"+id, ""), http.StatusBadRequest, "invalid-parameter", "id")
		})
	}

	t.Run("TakesIDsInUpperCase", func(t *testing.T) {
		t.Parallel()
		request := s.store(t, db.Request{Status: db.Succeeded})
		got := decode[map[string]any](t, s.call(t, "GET", "/requests/"+strings.ToUpper(request.ID.String()), ""), http.StatusOK)
		if got["id"] != request.ID.String() {
			t.Errorf("got %v, want %s", got["id"], request.ID)
		}
	})

	t.Run("UnknownIDIsA404", func(t *testing.T) {
		t.Parallel()
		s.wantProblem(t, s.call(t, "GET", "/requests/"+uuid.NewString(), ""), http.StatusNotFound, "not-found")
	})
}
