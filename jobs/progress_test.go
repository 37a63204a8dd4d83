package jobs

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"ringback/db"
	"ringback/work"
)

// Progress of work that goes on elsewhere, from the report to those who follow it.
func TestProgress(t *testing.T) {
	t.Parallel()

	t.Run("StoresTheLatestOfManyReports", func(t *testing.T) {
		t.Parallel()
		e := newElsewhere(t)
		request := newRequest(newServer(t, noContent))
		token := e.begin(t, request)
		for percent := range 50 {
			if err := e.report(t, token, work.Report{Progress: jsontext.Value(strconv.Itoa(percent))}); err != nil {
				t.Fatal(err)
			}
		}
		e.waitFor(t, request.ID, "(SELECT progress::text = '49' FROM work_leases)")
		if !e.holds(t, "SELECT progress_number < 50 FROM work_leases") {
			t.Error("each report was stored")
		}
	})

	t.Run("KeepsLaterProgressOfAnotherProcess", func(t *testing.T) {
		t.Parallel()
		e := newElsewhere(t)
		request := newRequest(newServer(t, noContent))
		token := e.begin(t, request)
		if err := e.report(t, token, ten); err != nil {
			t.Fatal(err)
		}
		e.exec(t, "UPDATE work_leases SET heard_at = now() - interval '1 second', progress_at = now() - interval '1 hour'")
		attempt, err := e.RunByToken(t.Context(), token)
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			age  time.Duration
			want int
		}{{2 * time.Hour, 0}, {30 * time.Minute, 1}} {
			renewal := db.Renewal{RequestID: request.ID, Run: attempt.run, Lease: time.Minute, Progress: jsontext.Value("2"), Age: step.age}
			renewed, err := e.renew(t.Context(), []db.Renewal{renewal}, reportPause)
			if err != nil || len(renewed) != step.want {
				t.Errorf("a report of %s ago: got %+v, %v, want %d stored", step.age, renewed, err, step.want)
			}
		}
		if !e.holds(t, "SELECT progress_at BETWEEN now() - interval '1 hour' AND now() - interval '30 minutes' FROM work_leases") {
			t.Error("the time of the progress is not when it was taken")
		}
	})

	t.Run("StoresAtAStopWhatIsKept", func(t *testing.T) {
		t.Parallel()
		e := newElsewhere(t)
		token := e.begin(t, newRequest(newServer(t, noContent)))
		e.exec(t, "UPDATE work_leases SET progress = '1', heard_at = now() + interval '1 hour'") // so that it isn't stored sooner
		if err := e.report(t, token, ten); err != nil {
			t.Fatal(err)
		}
		e.exec(t, "UPDATE work_leases SET heard_at = now()")
		e.heard.storeAll(t.Context())
		if !e.holds(t, "SELECT progress::text = $1 FROM work_leases", string(ten.Progress)) {
			t.Error("what was kept is gone")
		}
	})

	t.Run("KeepsProgressUntilItIsRecordedThatItGoesOn", func(t *testing.T) {
		t.Parallel()
		e := newElsewhere(t)
		e.began = func(ctx context.Context, token string) {
			if err := e.report(t, token, ten); err != nil {
				t.Error(err)
			}
		}
		request := newRequest(newServer(t, noContent))
		e.begin(t, request)
		e.waitFor(t, request.ID, `(SELECT progress::text = '{"percent":10}' FROM work_leases)`)
	})

	t.Run("StoresNoMoreThanTwoReportsASecond", func(t *testing.T) {
		t.Parallel()
		e := newElsewhere(t)
		token := e.begin(t, newRequest(newServer(t, noContent)))
		for _, step := range []struct {
			heard string
			want  int
		}{{"now() + interval '1 hour'", 1}, {"now() + interval '1 hour'", 1}, {"now() - interval '500 ms'", 2}} {
			e.exec(t, "UPDATE work_leases SET heard_at = "+step.heard)
			e.heard.mu.Lock()
			e.heard.recent, e.heard.kept = nil, nil
			e.heard.mu.Unlock()
			if err := e.report(t, token, ten); err != nil {
				t.Fatal(err)
			}
			if !e.holds(t, "SELECT progress_number = $1 FROM work_leases", step.want) {
				t.Errorf("last heard at %s: want %d in all", step.heard, step.want)
			}
		}
	})

	t.Run("TellsProgressOfTheNextAttemptToWhoKnowsMoreOfTheFirst", func(t *testing.T) {
		t.Parallel()
		e := newElsewhere(t)
		request := newRequest(newServer(t, noContent))
		heard, stop, err := e.Follow("", request.ID, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		first := e.begin(t, request)
		e.exec(t, "UPDATE work_leases SET progress_number = 7")
		if err := e.report(t, first, ten); err != nil {
			t.Fatal(err)
		}
		if got := <-heard; got.Number != 8 {
			t.Errorf("got %+v, want the eighth progress", got)
		}
		e.exec(t, "UPDATE work_leases SET lease_until = now()")
		e.wakeUp(t)
		second := <-e.tokens
		e.waitFor(t, request.ID, asleep)
		if err := e.report(t, second, work.Report{Progress: jsontext.Value("2")}); err != nil {
			t.Fatal(err)
		}
		if got := <-heard; string(got.Value) != "2" || got.Number <= 8 {
			t.Errorf("got %+v, want the progress of the second attempt, with a higher number", got)
		}
	})

	t.Run("TellsProgressOfThisProcessThatTheEndFollowsAtOnce", func(t *testing.T) {
		t.Parallel()
		e := newElsewhere(t)
		request := newRequest(newServer(t, noContent))
		token := e.begin(t, request)
		heard, stop, err := e.Follow("", request.ID, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		for _, report := range []work.Report{ten, hasResult} {
			if err := e.report(t, token, report); err != nil {
				t.Fatal(err)
			}
		}
		if got, open := <-heard; !open || string(got.Value) != string(ten.Progress) {
			t.Errorf("got %+v, want the progress before the end", got)
		}
	})
}
