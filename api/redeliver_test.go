package api_test

import (
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"ringback/api"
	"ringback/db"
	"ringback/jobs/clients"
	"ringback/jobs/webhook"
)

type redeliveries struct {
	Matched, Redelivered int
	Refused              []refusal
	More                 bool
	NextCursor           string `json:"next_cursor"`
}

type refusal struct {
	Count   int
	Problem problem
}

// ended stores a request whose callback has ended after an attempt.
func (s *service) ended(t *testing.T, state db.CallbackState) db.Request {
	t.Helper()
	return s.store(t, db.Request{Status: db.Succeeded, CallbackState: state, SettledAt: morning.Add(time.Hour)},
		db.Attempt{StartedAt: morning.Add(time.Minute), EndedAt: morning.Add(time.Minute), Outcome: "gone", HTTPStatus: 410})
}

// storeDead stores dead letters for h.example.com, older than all others.
func (s *service) storeDead(t *testing.T, count int) {
	t.Helper()
	const sql = `
		WITH dead AS (
			INSERT INTO requests (
				id, mode, client, status, input, result, callback_url, callback_state,
				work_job_id, callback_job_id, accepted_at, finished_at, settled_at
			)
			SELECT lpad(to_hex(n), 32, '0')::uuid, 'async', 'local', 'succeeded', '1', '1', 'https://h.example.com/', 'dead', n, n, now(), now(), now()
			FROM generate_series(1, $1::int) AS n
			RETURNING client, id, accepted_at
		)
		INSERT INTO dead_letters (client, request_id, callback_host, accepted_at)
		SELECT client, id, 'h.example.com', accepted_at
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
			if !s.holds(t, "SELECT count(*) = 1 FROM river_job WHERE kind = 'callback' AND args ->> 'request_id' = $1", request.ID.String()) {
				t.Error("want one callback job, in place of the job before")
			}
		})
	}

	t.Run("GivesWhatIsPendingTheJobThatItLost", func(t *testing.T) {
		t.Parallel()
		request := s.ended(t, db.CallbackDead)
		jobs := "FROM river_job WHERE kind = 'callback' AND args ->> 'request_id' = $1"
		for range 2 {
			decode[map[string]any](t, redeliver(t, "a", request.ID), http.StatusAccepted)
			if !s.holds(t, "SELECT count(*) = 1 AND bool_and(state = 'available') "+jobs, request.ID.String()) {
				t.Error("want one callback job, which is available")
			}
			if _, err := s.pool.Exec(t.Context(), "DELETE "+jobs, request.ID.String()); err != nil {
				t.Fatal(err)
			}
		}
	})

	for name, shape := range map[string]db.Request{
		"Waiting": {Status: db.Accepted, CallbackState: db.CallbackWaiting}, "Sync": {Status: db.Succeeded},
		"Cancelled": {Status: db.Succeeded, CallbackState: db.CallbackCancelled, SettledAt: morning.Add(time.Hour)},
	} {
		t.Run("RefusesWhatHasNothingToDeliver/"+name, func(t *testing.T) {
			t.Parallel()
			s.wantProblem(t, redeliver(t, "a", s.store(t, shape).ID), http.StatusConflict, "not-redeliverable")
		})
	}

	t.Run("RefusesWhatTheQuotasDoNotAdmit", func(t *testing.T) {
		t.Parallel()
		s := newLimited(t, clients.Limits{Rate: 1000, Unfinished: 1})
		s.plantDead(t, "alice", 1, 2)
		var ids []string
		for _, letter := range decode[page](t, s.call(t, "GET", "/requests?callback=dead", "", "Authorization", alice), http.StatusOK).Requests {
			ids = append(ids, letter["id"].(string))
		}
		if got := s.call(t, "POST", "/requests/"+ids[0]+"/redeliver", "", "Authorization", alice); got.status != http.StatusAccepted {
			t.Fatalf("first: got %d with %s, want 202", got.status, got.body)
		}
		s.wantQuotaExceeded(t, s.call(t, "POST", "/requests/"+ids[1]+"/redeliver", "", "Authorization", alice), "unfinished")
		if got := s.call(t, "POST", "/requests/"+ids[0]+"/redeliver", "", "Authorization", alice); got.status != http.StatusAccepted {
			t.Errorf("first again: got %d with %s, want 202: it is on its way", got.status, got.body)
		}
		s.wantQuotaExceeded(t, s.call(t, "POST", "/redeliveries", "{}", "Authorization", alice), "unfinished")
		if !s.holds(t, "SELECT count(*) = 1 FROM dead_letters") {
			t.Error("want the second left as it was")
		}
	})

	t.Run("RefusesHostsThatItsClientMayNotNameAnyMore", func(t *testing.T) {
		t.Parallel()
		s := newService(t, func(c *api.Config) {
			c.Callbacks = func(string) webhook.Hosts { return webhook.Hosts{"other.example.com"} }
		})
		request := s.ended(t, db.CallbackDead)
		s.wantProblem(t, s.call(t, "POST", "/requests/"+request.ID.String()+"/redeliver", ""), http.StatusUnprocessableEntity, "invalid-callback-url")
		s.plantDead(t, "local", 1, 2)
		for body, status := range map[string]int{`{"dry_run":true}`: http.StatusOK, "{}": http.StatusAccepted} {
			got := decode[redeliveries](t, s.call(t, "POST", "/redeliveries", body), status)
			if got.Matched != 3 || got.Redelivered != 0 || len(got.Refused) != 1 || got.Refused[0].Count != 3 || got.Refused[0].Problem.Type != "/problems/invalid-callback-url" {
				t.Errorf("%s: got %+v, want all three refused for their hosts", body, got)
			}
		}
		if !s.holds(t, "SELECT count(*) = 3 FROM dead_letters") {
			t.Error("want all left as they were")
		}
	})

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
			if got := decode[redeliveries](t, s.call(t, "POST", "/redeliveries", test.body), test.status); !reflect.DeepEqual(got, test.want) {
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

	t.Run("TellHowManyDidNotFitAndLeadOnToThem", func(t *testing.T) {
		t.Parallel()
		s := newLimited(t, clients.Limits{Rate: 1000, Unfinished: 7, PerDestination: 3})
		s.plantDead(t, "alice", 3, 4) // for each host one callback too many, and five in all
		got := decode[redeliveries](t, s.call(t, "POST", "/redeliveries", "{}", "Authorization", alice), http.StatusAccepted)
		refused := map[string]int{}
		for _, r := range got.Refused {
			refused[r.Problem.ViolatedPolicies[0]] += r.Count
			if r.Problem.Type != "/problems/quota-exceeded" || r.Problem.Detail == "" {
				t.Errorf("got %+v, want a problem that says which quota", r)
			}
		}
		if got.Matched != 12 || got.Redelivered != 7 || refused["unfinished"]+refused["destination"] != 5 || refused["unfinished"] == 0 || !got.More || got.NextCursor == "" {
			t.Fatalf("got %+v, want seven of twelve redelivered, and each of the others refused for a reason", got)
		}
		if !s.holds(t, "SELECT count(*) = 5 AND count(*) FILTER (WHERE request_id > $1) = $2 FROM dead_letters", got.NextCursor, refused["unfinished"]) {
			t.Error("want the cursor to lead to all that were not tried")
		}
		last := s.call(t, "POST", "/redeliveries", `{"cursor":"`+got.NextCursor+`"}`, "Authorization", alice)
		s.wantQuotaExceeded(t, last, "unfinished")
		if got := s.call(t, "POST", "/redeliveries", `{"dry_run":true}`, "Authorization", alice); decode[redeliveries](t, got, http.StatusOK).Matched != 5 {
			t.Errorf("dry run: got %s, want five found, regardless of quotas", got.body)
		}
	})

	t.Run("FindTheDeliveredFromATimeOn", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		request := s.ended(t, db.CallbackDelivered)
		s.ended(t, db.CallbackDead)
		for from, want := range map[time.Duration]redeliveries{-time.Minute: {Matched: 1}, time.Minute: {}} {
			body := fmt.Sprintf(`{"filter":{"callback_state":"delivered","from":%q},"dry_run":true}`, morning.Add(from).Format(time.RFC3339))
			if got := decode[redeliveries](t, s.call(t, "POST", "/redeliveries", body), http.StatusOK); !reflect.DeepEqual(got, want) {
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
		if !reflect.DeepEqual(next, redeliveries{Matched: 1}) {
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
		if !reflect.DeepEqual(next, redeliveries{Matched: 1, Redelivered: 1}) {
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
			`{"filter":{"callback_state":null}}`: "#/filter/callback_state", `{"filter":{"callback_state":1}}`: "#/filter/callback_state",
			`{"rate":"1"}`: "#/rate", `{"rate":1.5}`: "#/rate", `{"rate":true}`: "#/rate",
		} {
			s.wantProblem(t, s.call(t, "POST", "/redeliveries", body), http.StatusUnprocessableEntity, "invalid-input", field)
		}
	})
}

// Both calls for many callbacks take such a selection.
func TestSelectionsOfDeadLettersMeanWhatTheySay(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	s.ended(t, db.CallbackDead)
	for body, want := range map[string]struct{ field, detail string }{
		`null`:                              {"#", "must not be null"},
		`[]`:                                {"#", "must be an object"},
		`{"filter":null}`:                   {"#/filter", "must not be null"},
		`{"filter":[]}`:                     {"#/filter", "must be an object"},
		`{"filter":{"callback_host":null}}`: {"#/filter/callback_host", "must not be null"},
		`{"filter":{"callback_host":7}}`:    {"#/filter/callback_host", "must be a string"},
		`{"filter":{"callback_host":""}}`:   {"#/filter/callback_host", notAHost},
		`{"filter":{"callback_host":"https://hooks.example.com/x"}}`:             {"#/filter/callback_host", notAHost},
		`{"filter":{"callback_host":"hooks.example.com/x"}}`:                     {"#/filter/callback_host", notAHost},
		`{"filter":{"callback_host":"hooks.example.com."}}`:                      {"#/filter/callback_host", notAHost},
		`{"filter":{"callback_host":"*.example.com"}}`:                           {"#/filter/callback_host", notAHost},
		`{"filter":{"callback_host":"[0:0:0:0:0:0:0:1]"}}`:                       {"#/filter/callback_host", notAHost},
		`{"filter":{"callback_host":"hoo\u212as.example.com"}}`:                  {"#/filter/callback_host", notAHost}, // which would be a k in lower case
		`{"filter":{"callback_host":"127.1"}}`:                                   {"#/filter/callback_host", notAHost},
		`{"filter":{"callback_host":"hooks"}}`:                                   {"#/filter/callback_host", notAHost},
		`{"filter":{"from":null}}`:                                               {"#/filter/from", "must not be null"},
		`{"filter":{"from":1}}`:                                                  {"#/filter/from", notATime},
		`{"filter":{"to":null}}`:                                                 {"#/filter/to", "must not be null"},
		`{"filter":{"to":""}}`:                                                   {"#/filter/to", notATime},
		`{"filter":{"to":"0001-01-01T00:00:00Z"}}`:                               {"#/filter/to", "must be after from"},
		`{"filter":{"from":"2026-03-02T00:00:00Z","to":"2026-03-02T00:00:00Z"}}`: {"#/filter/to", "must be after from"},
		`{"dry_run":null}`:                                                       {"#/dry_run", "must not be null"},
		`{"dry_run":"true"}`:                                                     {"#/dry_run", "must be true or false"},
		`{"dry_run":1}`:                                                          {"#/dry_run", "must be true or false"},
		`{"cursor":null}`:                                                        {"#/cursor", "must not be null"},
		`{"cursor":""}`:                                                          {"#/cursor", "must be the next_cursor of an earlier answer"},
		`{"cursor":"none"}`:                                                      {"#/cursor", "must be the next_cursor of an earlier answer"},
		`{"cursor":"00000000-0000-0000-0000-000000000000"}`:                      {"#/cursor", "must be the next_cursor of an earlier answer"},
		`{"filter":{"from":"9999-12-31T23:59:59.999999999Z"}}`:                   {"#/filter/to", "must be after from"},
		`{"cursor":[]}`:                                                          {"#/cursor", "must be a string"},
	} {
		for _, path := range []string{"/redeliveries", "/discards"} {
			if path == "/discards" && !strings.Contains(body, `"filter"`) && strings.HasPrefix(body, "{") {
				body = `{"filter":{},` + body[1:]
			}
			answer := s.call(t, "POST", path, body)
			s.wantProblem(t, answer, http.StatusUnprocessableEntity, "invalid-input", want.field)
			got := decode[problem](t, answer, http.StatusUnprocessableEntity)
			if len(got.Errors) != 1 || got.Errors[0].Detail != want.detail {
				t.Errorf("%s with %s: got %+v, want %q", path, body, got.Errors, want.detail)
			}
		}
	}
	for _, path := range []string{"/redeliveries", "/discards"} {
		s.wantProblem(t, s.call(t, "POST", path+"?dry_run=true", `{}`), http.StatusBadRequest, "invalid-parameter", "dry_run")
		s.wantProblem(t, s.call(t, "POST", path+"?dry_run=%zz", `{}`), http.StatusBadRequest, "invalid-parameter")
	}
	for _, body := range []string{`{}`, `{"dry_run":false}`, `{"dry_run":true}`} { // dead letters that are given up are lost
		answer := s.call(t, "POST", "/discards", body)
		s.wantProblem(t, answer, http.StatusUnprocessableEntity, "invalid-input", "#/filter")
		if !strings.Contains(string(answer.body), "filter is required: {} picks all dead letters") {
			t.Errorf("/discards with %s: got %s, want how to pick all", body, answer.body)
		}
	}
	if !s.holds(t, "SELECT count(*) = 1 FROM dead_letters") {
		t.Error("a call that was refused touched a dead letter")
	}
	for _, body := range []string{`{"filter":{"callback_host":"HOOKS.example.com"},"dry_run":true}`, `{"filter":{"from":"0001-01-01T00:00:00Z"},"dry_run":true}`, `{"filter":{},"dry_run":true}`} {
		for _, path := range []string{"/redeliveries", "/discards"} {
			if got := decode[map[string]any](t, s.call(t, "POST", path, body), http.StatusOK); got["matched"] != 1.0 {
				t.Errorf("%s with %s: got %v, want one match", path, body, got)
			}
		}
	}
}

// A call about one request takes neither a body nor parameters, and overlooks none.
func TestCallsAboutOneRequestMeanWhatTheySay(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	path := "/requests/" + s.ended(t, db.CallbackDead).ID.String()
	for _, verb := range []string{"/redeliver", "/discard", "/cancel"} {
		s.wantProblem(t, s.call(t, "POST", path+verb+"?dry_run=true", ""), http.StatusBadRequest, "invalid-parameter", "dry_run")
		s.wantProblem(t, s.call(t, "POST", path+verb, `{"dry_run":true}`), http.StatusUnprocessableEntity, "invalid-input", "#/dry_run")
		s.wantProblem(t, s.call(t, "POST", path+verb, `null`), http.StatusUnprocessableEntity, "invalid-input", "#")
		s.wantProblem(t, s.call(t, "POST", path+verb, `dry_run=true`), http.StatusBadRequest, "malformed-json", "#")
		s.wantProblem(t, s.call(t, "POST", path+verb, `no`), http.StatusBadRequest, "malformed-json", "#")
		s.wantProblem(t, s.call(t, "POST", path+verb, `{"x":"`+strings.Repeat("x", 4<<10)+`"}`), http.StatusRequestEntityTooLarge, "body-too-large")
	}
	s.wantProblem(t, s.call(t, "GET", path+"?wait=10", ""), http.StatusBadRequest, "invalid-parameter", "wait")
	s.wantProblem(t, s.call(t, "GET", "/works?work=one", ""), http.StatusBadRequest, "invalid-parameter", "work")
	s.wantProblem(t, s.call(t, "POST", "/async?delay=60", asyncBody), http.StatusBadRequest, "invalid-parameter", "delay")
	s.wantProblem(t, s.call(t, "POST", "/sync?work=other", `{"input":{"text":"a"}}`), http.StatusBadRequest, "invalid-parameter", "work")
	if !s.holds(t, "SELECT count(*) = 1 FROM dead_letters") {
		t.Error("a call that was refused touched the dead letter")
	}
	if answer := s.call(t, "POST", path+"/redeliver", `{}`); answer.status != http.StatusAccepted {
		t.Errorf("with an empty object: got %d, want 202", answer.status)
	}
}

const notATime = "must be a time with its zone, as in 2026-11-24T00:00:00Z (RFC 3339)"

const notAHost = "must be a host as it stands in a callback URL, with its port if that is neither 443 nor 80, as in hooks.example.com"
