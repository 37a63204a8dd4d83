package api_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"ringback/db"
)

type redeliveries struct {
	Matched, Redelivered int
	More                 bool
	NextCursor           string `json:"next_cursor"`
}

// ended stores a request whose callback has ended after an attempt.
func (s *service) ended(t *testing.T, state db.CallbackState) db.Request {
	t.Helper()
	return s.store(t, db.Request{Status: db.Succeeded, CallbackState: state, SettledAt: morning.Add(time.Hour)},
		db.Attempt{StartedAt: morning.Add(time.Minute), EndedAt: morning.Add(time.Minute), Outcome: "gone", HTTPStatus: 410})
}

// storeDead stores dead letters for h.example, older than all others.
func (s *service) storeDead(t *testing.T, count int) {
	t.Helper()
	const sql = `
		WITH dead AS (
			INSERT INTO requests (
				id, mode, client, status, input, result, callback_url, callback_state,
				work_job_id, callback_job_id, accepted_at, finished_at, settled_at
			)
			SELECT lpad(to_hex(n), 32, '0')::uuid, 'async', 'local', 'succeeded', '1', '1', 'https://h.example/', 'dead', n, n, now(), now(), now()
			FROM generate_series(1, $1::int) AS n
			RETURNING client, id, accepted_at
		)
		INSERT INTO dead_letters (client, request_id, callback_host, accepted_at)
		SELECT client, id, 'h.example', accepted_at
		FROM dead`
	if _, err := s.pool.Exec(t.Context(), sql, count); err != nil {
		t.Fatal(err)
	}
}

func TestRedeliverRequest(t *testing.T) {
	t.Parallel()
	s := newService(t, keyed(map[string]string{"a": "local", "b": "bob"}))
	redeliver := func(t *testing.T, key string, id uuid.UUID) answer {
		return s.call(t, "POST", "/requests/"+id.String()+"/redeliver", "", "Authorization", "Bearer "+key)
	}

	for _, state := range []db.CallbackState{db.CallbackDead, db.CallbackDelivered} {
		t.Run("MakesPendingWhatIs/"+string(state), func(t *testing.T) {
			t.Parallel()
			request := s.ended(t, state)
			for range 2 { // the second finds it pending
				got := decode[map[string]any](t, redeliver(t, "a", request.ID), http.StatusAccepted)
				var events []string
				for _, event := range got["timeline"].([]any) {
					events = append(events, event.(map[string]any)["event"].(string))
				}
				want := []string{"accepted", "work_started", "work_succeeded", "callback_attempt_1_gone", "callback_redelivered"}
				if got["callback_state"] != "pending" || got["settled_at"] != nil || !slices.Equal(events, want) {
					t.Errorf("got %v, want it pending with the timeline %v", got, want)
				}
			}
			if !s.holds(t, "SELECT count(*) = 2 FROM river_job WHERE kind = 'callback' AND args ->> 'request_id' = $1", request.ID.String()) {
				t.Error("want one callback job more")
			}
		})
	}

	for name, shape := range map[string]db.Request{
		"Waiting": {Status: db.Accepted, CallbackState: db.CallbackWaiting}, "Sync": {Status: db.Succeeded},
		"Cancelled": {Status: db.Succeeded, CallbackState: db.CallbackCancelled, SettledAt: morning.Add(time.Hour)},
	} {
		t.Run("RefusesWhatHasNothingToDeliver/"+name, func(t *testing.T) {
			t.Parallel()
			s.wantProblem(t, redeliver(t, "a", s.store(t, shape).ID), http.StatusConflict, "not-redeliverable")
		})
	}

	t.Run("KnowsNothingOfAnotherClients", func(t *testing.T) {
		t.Parallel()
		request := s.ended(t, db.CallbackDead)
		s.wantProblem(t, redeliver(t, "b", request.ID), http.StatusNotFound, "not-found")
		if !s.holds(t, "SELECT callback_state = 'dead' FROM requests WHERE id = $1", request.ID) {
			t.Error("it was redelivered")
		}
		s.wantProblem(t, s.call(t, "POST", "/requests/1/redeliver", "", "Authorization", "Bearer a"), http.StatusBadRequest, "invalid-parameter", "id")
	})
}

func TestRedeliveries(t *testing.T) {
	t.Parallel()

	t.Run("TakeWhatMatchesOnceAndSpaceIt", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		var dead []uuid.UUID
		for range 3 {
			dead = append(dead, s.ended(t, db.CallbackDead).ID)
		}
		s.ended(t, db.CallbackDelivered)
		foreign := s.store(t, db.Request{Client: "bob", Status: db.Succeeded, CallbackState: db.CallbackDead, SettledAt: morning.Add(time.Hour)})
		for _, test := range []struct {
			body   string
			status int
			want   redeliveries
		}{
			{`{"dry_run":true}`, http.StatusOK, redeliveries{Matched: 3}},
			{`{"filter":{"callback_host":"hooks.example.org"}}`, http.StatusAccepted, redeliveries{}},
			{`{"filter":{"from":"2026-03-01T08:00:01Z"}}`, http.StatusAccepted, redeliveries{}},
			{`{"filter":{"to":"2026-03-01T08:00:00.123456Z"}}`, http.StatusAccepted, redeliveries{}},
			{`{"cursor":"` + dead[2].String() + `"}`, http.StatusAccepted, redeliveries{}},
			{`{"filter":{"callback_host":"Hooks.example.com","from":"2026-03-01T08:00:00Z","to":"2026-03-01T08:00:01Z"},"rate":2}`, http.StatusAccepted, redeliveries{Matched: 3, Redelivered: 3}},
			{`{}`, http.StatusAccepted, redeliveries{}},
		} {
			if got := decode[redeliveries](t, s.call(t, "POST", "/redeliveries", test.body), test.status); got != test.want {
				t.Errorf("%s: got %+v, want %+v", test.body, got, test.want)
			}
		}
		const spaced = `
			SELECT array_agg(request_id ORDER BY callback_job_scheduled_at) = $1::uuid[]
			   AND max(callback_job_scheduled_at) - min(callback_job_scheduled_at) = interval '1 second'
			FROM request_trace
			WHERE callback_state = 'pending'`
		if !s.holds(t, spaced, dead) {
			t.Error("want the three oldest first, half a second apart")
		}
		if !s.holds(t, "SELECT callback_state = 'dead' FROM requests WHERE id = $1", foreign.ID) {
			t.Error("another client's was redelivered")
		}
	})

	t.Run("FindTheDeliveredFromATimeOn", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		request := s.ended(t, db.CallbackDelivered)
		s.ended(t, db.CallbackDead)
		for from, want := range map[time.Duration]redeliveries{-time.Minute: {Matched: 1}, time.Minute: {}} {
			body := fmt.Sprintf(`{"filter":{"callback_state":"delivered","from":%q},"dry_run":true}`, morning.Add(from).Format(time.RFC3339))
			if got := decode[redeliveries](t, s.call(t, "POST", "/redeliveries", body), http.StatusOK); got != want {
				t.Errorf("%s with %v: got %+v, want %+v", body, request.ID, got, want)
			}
		}
	})

	t.Run("TakeAThousandACallAndSayThatThereAreMore", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		s.storeDead(t, 1001)
		first := decode[redeliveries](t, s.call(t, "POST", "/redeliveries", `{"dry_run":true}`), http.StatusOK)
		if first.Matched != 1000 || !first.More || first.NextCursor == "" {
			t.Errorf("first: got %+v, want a thousand and more", first)
		}
		next := decode[redeliveries](t, s.call(t, "POST", "/redeliveries", `{"dry_run":true,"cursor":"`+first.NextCursor+`"}`), http.StatusOK)
		if next != (redeliveries{Matched: 1}) {
			t.Errorf("next: got %+v, want the last one", next)
		}
	})

	t.Run("LookAtTwoThousandACallAndSayWhereToGoOn", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		s.storeDead(t, 2000)
		last := s.ended(t, db.CallbackDead)
		const filter = `"filter":{"callback_host":"hooks.example.com"}`
		first := decode[redeliveries](t, s.call(t, "POST", "/redeliveries", "{"+filter+"}"), http.StatusAccepted)
		if first.Matched != 0 || !first.More || first.NextCursor == "" {
			t.Errorf("first: got %+v, want none, and more", first)
		}
		next := decode[redeliveries](t, s.call(t, "POST", "/redeliveries", "{"+filter+`,"cursor":"`+first.NextCursor+`"}`), http.StatusAccepted)
		if next != (redeliveries{Matched: 1, Redelivered: 1}) {
			t.Errorf("next: got %+v, want %s", next, last.ID)
		}
	})

	t.Run("RefuseWhatIsNotValid", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		for body, field := range map[string]string{
			`{"filter":{"callback_state":"pending"}}`: "#/filter/callback_state", `{"filter":{"callback_state":"delivered"}}`: "#/filter/from",
			`{"rate":0}`: "#/rate", `{"rate":101}`: "#/rate", `{"rate":null}`: "#/rate", `{"cursor":"x"}`: "#/cursor", `{"filter":{"host":"x"}}`: "#/filter/host",
			`{"filter":{"from":"yesterday"}}`: "#/filter/from", `{"filter":{"callback_host":"\u0000"}}`: "#/filter/callback_host",
		} {
			s.wantProblem(t, s.call(t, "POST", "/redeliveries", body), http.StatusUnprocessableEntity, "invalid-input", field)
		}
	})
}
