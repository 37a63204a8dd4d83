package api_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"ringback/api"

	"ringback/jobs/clients"
)

func TestDelayedWork(t *testing.T) {
	t.Parallel()

	t.Run("HasAJobThatIsDueThen", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		for _, field := range []string{`"delay":3600`, `"run_at":"` + time.Now().Add(time.Hour).UTC().Format(time.RFC3339) + `"`} {
			answer := s.call(t, "POST", "/async", `{"input":{"text":"a"},`+field+`,"callback_url":"`+hook+`"}`)
			got := decode[asyncAnswer](t, answer, http.StatusAccepted)
			const sql = `
				SELECT river_job.scheduled_at = requests.run_at
				   AND requests.run_at - requests.accepted_at BETWEEN interval '59 minutes' AND interval '61 minutes'
				   AND river_job.attempt = 0
				FROM requests
				JOIN river_job ON river_job.id = requests.work_job_id
				WHERE requests.id = $1`
			if !s.holds(t, sql, got.ID) {
				t.Errorf("%s: want a job that is due in an hour", field)
			}
			if after, err := strconv.Atoi(answer.header.Get("Retry-After")); err != nil || after < 3500 || after > 3700 {
				t.Errorf("%s: got Retry-After %q, want about an hour", field, answer.header.Get("Retry-After"))
			}
			if seen := s.call(t, "GET", "/requests/"+got.ID, ""); !strings.Contains(string(seen.body), `"run_at":`) {
				t.Errorf("got %s, want when it is due", seen.body)
			}
		}
	})

	t.Run("IsDueLaterWhereItsClientHasABurstDueThen", func(t *testing.T) {
		t.Parallel()
		s := newLimited(t, clients.Limits{Rate: 10, Unfinished: 100, PerDestination: 100}) // a burst of twenty
		wanted := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
		body := `{"input":{"text":"a"},"run_at":"` + wanted + `","callback_url":"` + hook + `"}`
		for n := range 41 {
			caller := alice
			if n == 40 {
				caller = bob
			}
			answer := s.call(t, "POST", "/async", body, "Authorization", caller)
			for answer.status == http.StatusTooManyRequests { // beyond the rate
				answer = s.call(t, "POST", "/async", body, "Authorization", caller)
			}
			decode[asyncAnswer](t, answer, http.StatusAccepted)
		}
		const sql = `
			SELECT array_agg(tenths ORDER BY client, tenths) = ARRAY(SELECT n / 2 FROM generate_series(0, 39) AS n) || 0
			FROM (
				SELECT requests.client, round(extract(epoch FROM river_job.scheduled_at - $1::timestamptz) * 10)::int AS tenths
				FROM requests
				JOIN river_job ON river_job.id = requests.work_job_id
			) AS due`
		if !s.holds(t, sql, wanted) {
			t.Error("want two of alice in each tenth of two seconds, and bob's work on time")
		}
	})

	t.Run("IsDoneAtOnceWhereThatHasPassed", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		for _, field := range []string{`"delay":0`, `"run_at":"2020-01-01T00:00:00Z"`, `"run_at":"2020-01-01t00:00:00z"`, `"run_at":"2016-12-31T23:59:60Z"`, `"delay":null`} {
			answer := s.call(t, "POST", "/async", `{"input":{"text":"a"},`+field+`,"callback_url":"`+hook+`"}`)
			got := decode[asyncAnswer](t, answer, http.StatusAccepted)
			if !s.holds(t, `SELECT run_at IS NULL FROM requests WHERE id = $1`, got.ID) || answer.header.Get("Retry-After") != "1" {
				t.Errorf("%s: got Retry-After %q, want it due at once", field, answer.header.Get("Retry-After"))
			}
		}
	})

	t.Run("IsRefusedWithWhatItContradicts", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		for fields, pointer := range map[string]string{
			`"delay":-1`: "#/delay", `"delay":2592001`: "#/delay", `"delay":1.5`: "#/delay", `"delay":"1"`: "#/delay",
			`"run_at":"2126-01-01T00:00:00Z"`: "#/run_at", `"run_at":"soon"`: "#/run_at", `"run_at":5`: "#/run_at",
			`"delay":1,"run_at":"2026-01-01T00:00:00Z"`: "#/run_at", `"delay":10,"ordering_key":"k"`: "#/ordering_key",
			`"delay":10,"expires_in":10`: "#/expires_in",
		} {
			got := s.call(t, "POST", "/async", `{"input":{"text":"a"},`+fields+`,"callback_url":"`+hook+`"}`)
			s.wantProblem(t, got, http.StatusUnprocessableEntity, "invalid-input", pointer)
		}
		if !s.holds(t, `SELECT count(*) = 0 FROM requests`) {
			t.Error("want nothing stored")
		}
	})
}

func TestCallbackHeaders(t *testing.T) {
	t.Parallel()
	s := newService(t, func(c *api.Config) {
		c.SealHeaders = func(client string, headers map[string]string) (string, error) {
			return fmt.Sprintf("sealed for %s: %v", client, headers), nil
		}
	})

	t.Run("AreSealedAndNotShown", func(t *testing.T) {
		t.Parallel()
		got := decode[asyncAnswer](t, s.call(t, "POST", "/async",
			`{"input":{"text":"a"},"callback":{"url":"`+hook+`","headers":{"authorization":"Bearer hidden"}}}`), http.StatusAccepted)
		if !s.holds(t, `SELECT callback_headers = 'sealed for local: map[Authorization:Bearer hidden]' AND callback_url = $2 FROM requests WHERE id = $1`, got.ID, hook) {
			t.Error("want the headers sealed, and the URL as ever")
		}
		if seen := s.call(t, "GET", "/requests/"+got.ID, ""); strings.Contains(string(seen.body), "hidden") {
			t.Errorf("got %s, want no headers shown", seen.body)
		}
	})

	t.Run("AreRefusedWithTheirName", func(t *testing.T) {
		t.Parallel()
		for callback, pointer := range map[string]string{
			`{"url":"` + hook + `","headers":{"Host":"x"}}`:     "#/callback/headers/Host",
			`{"url":"` + hook + `","headers":{"a/b":"x"}}`:      "#/callback/headers/a~1b",
			`{"url":"` + hook + `","headers":{"X-A":1}}`:        "#/callback/headers/X-A",
			`{"url":"` + hook + `","headers":{"X-Real-IP":""}}`: "#/callback/headers/X-Real-IP",
			`{"url":"` + hook + `","headers":{"X-A":null}}`:     "#/callback/headers/X-A",
			`{"url":"` + hook + `","headers":[]}`:               "#/callback/headers",
			`{"headers":{}}`:                                    "#/callback/url",
			`{"url":"` + hook + `","header":{}}`:                "#/callback/header",
			`{"url":"` + hook + `","headers":{` + nine() + `}}`: "#/callback/headers",
		} {
			got := s.call(t, "POST", "/async", `{"input":{"text":"a"},"callback":`+callback+`}`)
			s.wantProblem(t, got, http.StatusUnprocessableEntity, "invalid-input", pointer)
		}
		got := s.call(t, "POST", "/async", `{"input":{"text":"a"},"callback_url":"`+hook+`","callback":{"url":"`+hook+`"}}`)
		s.wantProblem(t, got, http.StatusUnprocessableEntity, "invalid-input", "#/callback")
		got = s.call(t, "POST", "/async", `{"input":{"text":"a"},"callback":{"url":"http://10.0.0.1/"}}`)
		s.wantProblem(t, got, http.StatusUnprocessableEntity, "invalid-callback-url", "#/callback/url")
	})
}

func nine() string {
	var headers []string
	for i := range 9 {
		headers = append(headers, fmt.Sprintf(`"X-%d":"v"`, i))
	}
	return strings.Join(headers, ",")
}

type batchAnswer struct {
	Requests []struct {
		Request *asyncAnswer `json:"request"`
		Problem *struct {
			Type   string           `json:"type"`
			Title  string           `json:"title"`
			Status int              `json:"status"`
			Detail string           `json:"detail"`
			Errors []map[string]any `json:"errors"`
		} `json:"problem"`
	} `json:"requests"`
}

func TestBatch(t *testing.T) {
	t.Parallel()
	item := func(fields string) string {
		return `{"input":{"text":"a"},"callback_url":"` + hook + `"` + fields + `}`
	}

	t.Run("AcceptsEachForItself", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		answer := s.call(t, "POST", "/async/batch", `{"requests":[`+strings.Join([]string{
			item(""), item(`,"delay":-1`), item(`,"work":"fingerprint","idempotency_key":"k"`), item(`,"work":"nothing"`), item(`,"idempotency_key":""`),
			`7`, `{"input":{"text":"a"},"callback_url":"http://10.0.0.1/"}`, item(`,"other":1`),
		}, ",")+`]}`)
		got := decode[batchAnswer](t, answer, http.StatusAccepted)
		var told []string
		for _, r := range got.Requests {
			switch {
			case r.Request != nil && r.Request.Status == "accepted":
				told = append(told, "ok")
			case len(r.Problem.Errors) > 0:
				told = append(told, fmt.Sprint(r.Problem.Errors[0]["pointer"]))
			default:
				told = append(told, r.Problem.Type)
			}
		}
		want := "ok #/requests/1/delay ok #/requests/3/work #/requests/4/idempotency_key #/requests/5 #/requests/6/callback_url #/requests/7/other"
		if strings.Join(told, " ") != want || answer.header.Get("Retry-After") != "1" {
			t.Errorf("got %q, want %q", strings.Join(told, " "), want)
		}
		if !s.holds(t, `SELECT count(*) = 2 FROM requests JOIN river_job ON river_job.id = work_job_id`) {
			t.Error("want the two, with their jobs")
		}
	})

	t.Run("RepeatsWhatAKeyStandsFor", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		body := `{"requests":[` + item(`,"idempotency_key":"k"`) + `]}`
		first := decode[batchAnswer](t, s.call(t, "POST", "/async/batch", body), http.StatusAccepted)
		again := decode[batchAnswer](t, s.call(t, "POST", "/async/batch", body), http.StatusAccepted)
		if first.Requests[0].Request.ID != again.Requests[0].Request.ID {
			t.Errorf("got %+v and %+v, want the same request", first, again)
		}
		alone := decode[asyncAnswer](t, s.call(t, "POST", "/async", item(""), "Idempotency-Key", "k"), http.StatusAccepted)
		if alone.ID != first.Requests[0].Request.ID {
			t.Errorf("alone: got %+v, want the same request", alone)
		}
	})

	t.Run("TakesAThousand", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		accepted := 0
		for accepted < 1000 { // a busy machine refuses some, which may be sent again
			body := `{"requests":[` + strings.TrimSuffix(strings.Repeat(item("")+",", 1000-accepted), ",") + `]}`
			for _, r := range decode[batchAnswer](t, s.call(t, "POST", "/async/batch", body), http.StatusAccepted).Requests {
				if r.Request != nil {
					accepted++
				} else if r.Problem.Status != http.StatusServiceUnavailable {
					t.Fatalf("got %v, want it accepted, or refused for now", r.Problem)
				}
			}
		}
		if !s.holds(t, `SELECT count(*) = $1 FROM requests`, accepted) || accepted != 1000 {
			t.Errorf("got %d accepted, want as many as the database holds", accepted)
		}
	})

	t.Run("IsRefusedAsAWhole", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		for body, want := range map[string]struct {
			status  int
			problem string
			pointer string
		}{
			`{}`: {422, "invalid-input", "#/requests"}, `{"requests":[]}`: {422, "invalid-input", "#/requests"}, `{"requests":null}`: {422, "invalid-input", "#/requests"},
			`{"requests":{}}`: {422, "invalid-input", "#/requests"},
			`{"requests":[` + strings.TrimSuffix(strings.Repeat("1,", 1001), ",") + `]}`: {422, "invalid-input", "#/requests"},
			`{"requests":[` + item(`,"work":""`) + `]}`:                                  {422, "invalid-input", "#/requests/0/work"},
			`{"requests":[{}]}`: {422, "invalid-input", "#/requests/0/input"},
		} {
			s.wantProblem(t, s.call(t, "POST", "/async/batch", body), want.status, want.problem, want.pointer)
		}
		got := s.call(t, "POST", "/async/batch", `{"requests":[`+item("")+`]}`, "Idempotency-Key", "k")
		if got.status != http.StatusBadRequest {
			t.Errorf("with a key for all: got %d, want 400", got.status)
		}
		var large struct {
			Requests []map[string]any `json:"requests"`
		}
		large.Requests = []map[string]any{{"input": map[string]string{"text": strings.Repeat("a", 5<<20)}}}
		encoded, err := json.Marshal(large)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.call(t, "POST", "/async/batch", string(encoded)); got.status != http.StatusRequestEntityTooLarge {
			t.Errorf("5 MiB: got %d, want 413", got.status)
		}
	})
}
