package jobs

import (
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"net/http"
	"path"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/riverqueue/river/rivertype"

	"ringback/db"
	"ringback/db/dbtest"
	"ringback/jobs/webhook"
	"ringback/work"
)

// elsewhere is a queue whose work goes on elsewhere.
type elsewhere struct {
	*testQueue
	tokens chan string // of the attempts
	began  func(ctx context.Context, token string)
}

func newElsewhere(t *testing.T, changes ...func(*Config)) *elsewhere {
	t.Helper()
	e := &elsewhere{tokens: make(chan string, 100)}
	do := func(ctx context.Context, call work.Call) (jsontext.Value, error) {
		token := path.Base(call.FinishURL)
		if !strings.HasPrefix(call.FinishURL, "http://ringback.example.com/work/") {
			t.Errorf("got %q, want a URL of the service", call.FinishURL)
		}
		if e.began != nil {
			e.began(ctx, token)
		}
		e.tokens <- token
		return nil, work.ErrElsewhere
	}
	catalog, err := work.NewCatalog(work.Set{"later": {Do: do, Lease: 10 * time.Minute}}, "later", 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	url, logged := dbtest.New(t), make(chan string, 1000)
	sender := webhook.NewSender(webhook.Policy{Local: true}, "test")
	t.Cleanup(sender.Close)
	config := Config{
		Pool: dbtest.Pool(t, url), RiverPool: dbtest.Pool(t, url), Logger: slog.New(recorder{slog.DiscardHandler, logged}),
		Catalog: catalog, Sender: sender, Secrets: secretsOf, AsyncLimit: 1000, Workers: 1, WorkLimit: 1, Retention: time.Hour,
		StopTimeout: 20 * time.Millisecond, PublicURL: "http://ringback.example.com/",
	}
	for _, change := range changes {
		change(&config)
	}
	queue, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	e.testQueue = &testQueue{queue, url, dbtest.Pool(t, url), logged}
	return e
}

// begin accepts a request and returns the token of its first attempt, when that is known
// to go on elsewhere and its job sleeps.
func (e *elsewhere) begin(t *testing.T, request db.Request) (token string) {
	t.Helper()
	e.start(t)
	return e.beginNext(t, request)
}

// beginNext is begin for a queue that was started.
func (e *elsewhere) beginNext(t *testing.T, request db.Request) (token string) {
	t.Helper()
	e.accept(t, request)
	token = <-e.tokens
	e.waitFor(t, request.ID, asleep)
	return token
}

const asleep = "work_job_state = 'scheduled' AND EXISTS (SELECT FROM work_leases WHERE work_leases.request_id = request_trace.request_id)"

func noContent(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }

func (e *elsewhere) report(t *testing.T, token string, report work.Report) error {
	t.Helper()
	attempt, err := e.RunByToken(t.Context(), token)
	if err != nil {
		return err
	}
	return e.Report(t.Context(), attempt, report)
}

// wakeUp lets the job of the only request wake at once.
func (e *elsewhere) wakeUp(t *testing.T) {
	t.Helper()
	e.exec(t, "UPDATE river_job SET state = 'available', scheduled_at = now() WHERE state = 'scheduled'")
}

var (
	ten       = work.Report{Progress: jsontext.Value(`{"percent":10}`)}
	hasResult = work.Report{Result: jsontext.Value(`{"words":1}`)}
)

func TestElsewhere(t *testing.T) {
	t.Parallel()

	t.Run("EndsByAReport", func(t *testing.T) {
		t.Parallel()
		e := newElsewhere(t)
		request := newRequest(newServer(t, noContent))
		token := e.begin(t, request)
		if err := e.report(t, token, ten); err != nil {
			t.Fatal(err)
		}
		if got := e.get(t, request.ID); string(got.Progress) != `{"percent":10}` || got.ProgressNumber != 1 {
			t.Errorf("got %s, number %d, want the progress", got.Progress, got.ProgressNumber)
		}
		if err := e.report(t, token, hasResult); err != nil {
			t.Fatal(err)
		}
		e.waitFor(t, request.ID, `status = 'succeeded' AND started_at <= finished_at AND callback_state IN ('pending', 'delivered')
			AND work_job_state = 'completed' AND work_job_attempt = 1 AND NOT EXISTS (SELECT FROM work_leases)`)
		for _, report := range []work.Report{{}, ten, hasResult} {
			if err := e.report(t, token, report); !errors.Is(err, ErrGivenUp) {
				t.Errorf("afterwards: got %v, want ErrGivenUp", err)
			}
		}
	})

	for name, test := range map[string]struct {
		report work.Report
		code   string
	}{
		"AnError":           {work.Report{Error: &work.Error{Code: "no_page", Message: "No such page."}}, "no_page"},
		"ATooLargeResult":   {work.Report{Result: jsontext.Value(`"` + strings.Repeat("x", work.MaxResultBytes) + `"`)}, "result_too_large"},
		"ATooDeepResult":    {work.Report{Result: jsontext.Value(strings.Repeat("[", 1001) + strings.Repeat("]", 1001))}, "invalid_result"},
		"WhatIsNotStorable": {work.Report{Result: jsontext.Value(strings.Repeat("[", 1000) + strings.Repeat("]", 1000))}, "result_not_storable"},
	} {
		t.Run("FailsBy/"+name, func(t *testing.T) {
			t.Parallel()
			e := newElsewhere(t)
			refuseDeepResults(t, e.pool)
			request := newRequest(newServer(t, noContent))
			if err := e.report(t, e.begin(t, request), test.report); err != nil {
				t.Fatal(err)
			}
			e.waitFor(t, request.ID, "status = 'failed' AND error_code = '"+test.code+"'")
		})
	}

	t.Run("HoldsNoWorker", func(t *testing.T) {
		t.Parallel()
		e := newElsewhere(t)
		e.start(t)
		for i := range 10 { // with one worker
			request := newRequest(newServer(t, noContent))
			request.ID[15] += byte(i)
			e.accept(t, request)
		}
		for range 10 {
			<-e.tokens
		}
	})

	t.Run("IsFinishedBeforeItIsKnownToGoOn", func(t *testing.T) {
		t.Parallel()
		e := newElsewhere(t)
		e.began = func(ctx context.Context, token string) {
			for _, report := range []work.Report{ten, hasResult} {
				if err := e.report(t, token, report); err != nil {
					t.Error(err)
				}
			}
		}
		request := newRequest(newServer(t, noContent))
		e.start(t)
		e.accept(t, request)
		<-e.tokens
		e.waitFor(t, request.ID, "status = 'succeeded' AND work_job_state = 'completed' AND NOT EXISTS (SELECT FROM work_leases)")
	})

	t.Run("EndsByTheFirstOfTwoReports", func(t *testing.T) {
		t.Parallel()
		e := newElsewhere(t)
		request := newRequest(newServer(t, noContent))
		attempt, err := e.RunByToken(t.Context(), e.begin(t, request))
		if err != nil {
			t.Fatal(err)
		}
		loaded, _, held, err := e.reported(t.Context(), attempt.runID) // by both, before either has ended it
		if err != nil || !held {
			t.Fatalf("got %v, %v, want an attempt that goes on", held, err)
		}
		for i, want := range []error{nil, ErrGivenUp} {
			outcome := work.Outcome{StartedAt: morning, FinishedAt: morning, Result: jsontext.Value(strconv.Itoa(i))}
			if err := e.finishElsewhere(t.Context(), loaded, outcome); !errors.Is(err, want) {
				t.Errorf("report %d: got %v, want %v", i, err, want)
			}
		}
		if got := e.get(t, request.ID); string(got.Result) != "0" {
			t.Errorf("got %s, want the first result", got.Result)
		}
	})

	t.Run("IsToldWhereAStopBreaksItOff", func(t *testing.T) {
		t.Parallel()
		e := newElsewhere(t)
		begun := make(chan string)
		e.began = func(ctx context.Context, token string) { begun <- token; <-ctx.Done() }
		request := newRequest(newServer(t, noContent))
		e.accept(t, request)
		if err := e.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		token := <-begun
		e.stop(t)
		if err := e.report(t, token, hasResult); !errors.Is(err, ErrGivenUp) {
			t.Errorf("got %v, want ErrGivenUp until the attempt is made again", err)
		}
		e.waitFor(t, request.ID, "status = 'accepted' AND work_job_state = 'available' AND work_job_attempt = 0")
		if got := e.get(t, request.ID).WorkAttempts; len(got) != 1 || got[0].Code != codeCutOff || got[0].Attempt != 1 {
			t.Errorf("got %+v, want the run that was cut off", got)
		}
	})

	t.Run("IsChargedWhereItsJobIsSoonToWake", func(t *testing.T) {
		t.Parallel()
		e := newElsewhere(t)
		request := newRequest(newServer(t, noContent))
		token := e.begin(t, request)
		e.exec(t, "UPDATE river_job SET state = 'available' WHERE state = 'scheduled'") // as River has jobs that sleep less than 5 s
		if err := e.report(t, token, hasResult); err != nil {
			t.Fatal(err)
		}
		e.waitFor(t, request.ID, "status = 'succeeded' AND work_job_state = 'completed' AND work_job_attempt = 1")
	})

	t.Run("IsChargedWhereItsJobFallsAsleepMeanwhile", func(t *testing.T) {
		t.Parallel()
		e := newElsewhere(t)
		var loaded db.Request
		e.began = func(ctx context.Context, token string) {
			attempt, err := e.RunByToken(ctx, token)
			if err == nil {
				var held bool
				if loaded, _, held, err = e.reported(ctx, attempt.runID); held {
					t.Error("got a lease before the attempt went on")
				}
			}
			if err != nil {
				t.Error(err)
			}
		}
		request := newRequest(newServer(t, noContent))
		e.begin(t, request)
		if err := e.finishElsewhere(t.Context(), loaded, work.Outcome{StartedAt: morning, FinishedAt: morning, Result: hasResult.Result}); err != nil {
			t.Fatal(err)
		}
		e.waitFor(t, request.ID, "status = 'succeeded' AND work_job_state = 'completed' AND work_job_attempt = 1")
	})

	t.Run("IsNotDoneAgainWhereItEndsJustAsItsJobWakes", func(t *testing.T) {
		t.Parallel()
		e := newElsewhere(t)
		request := newRequest(newServer(t, noContent))
		token := e.begin(t, request)
		woken, err := e.runner.load(t.Context(), request.ID)
		if err != nil || !woken.Elsewhere {
			t.Fatalf("got %+v, %v, want a request whose work goes on elsewhere", woken, err)
		}
		if err := e.report(t, token, hasResult); err != nil {
			t.Fatal(err)
		}
		e.waitFor(t, request.ID, "callback_state = 'delivered'")
		job := &rivertype.JobRow{ID: woken.WorkJobID, Attempt: 1}
		if err := e.runner.look(t.Context(), job, e.runner.catalog.Default(), woken); err != nil || len(e.tokens) > 0 {
			t.Errorf("got %v and %d further attempts, want none", err, len(e.tokens))
		}
	})

	t.Run("IsNotHeldByAnEarlierAttempt", func(t *testing.T) {
		t.Parallel()
		e := newElsewhere(t)
		request := newRequest(newServer(t, noContent))
		e.begin(t, request)
		job := &rivertype.JobRow{ID: e.get(t, request.ID).WorkJobID, Attempt: 1}
		e.exec(t, "UPDATE work_leases SET lease_until = now()")
		e.wakeUp(t)
		second := <-e.tokens
		e.waitFor(t, request.ID, asleep)
		offer := e.runner.catalog.Default()
		if err := e.runner.hold(t.Context(), job, offer, request, work.Outcome{StartedAt: morning, Elsewhere: true}); err != nil {
			t.Errorf("got %v, want that a process that was paused leaves it", err)
		}
		e.waitFor(t, request.ID, asleep)
		if err := e.report(t, second, hasResult); err != nil {
			t.Errorf("got %v, want the second attempt to go on", err)
		}
	})

	t.Run("IsLostBySilence", func(t *testing.T) {
		t.Parallel()
		e := newElsewhere(t)
		request := newRequest(newServer(t, noContent))
		first := e.begin(t, request)
		e.exec(t, "UPDATE work_leases SET lease_until = now()")
		e.wakeUp(t)
		second := <-e.tokens
		e.waitFor(t, request.ID, asleep)
		for _, report := range []work.Report{{}, ten, hasResult} {
			if err := e.report(t, first, report); !errors.Is(err, ErrGivenUp) {
				t.Errorf("the first attempt: got %v, want ErrGivenUp", err)
			}
		}
		if got := e.get(t, request.ID); len(got.WorkAttempts) != 1 || got.WorkAttempts[0].Code != work.CodeLeaseExpired {
			t.Errorf("got %+v, want the lost attempt", got.WorkAttempts)
		}
		if err := e.report(t, second, hasResult); err != nil {
			t.Error(err)
		}
		e.waitFor(t, request.ID, "status = 'succeeded' AND work_job_attempt = 2")
	})

	t.Run("LivesWhileSomethingIsHeardOfIt", func(t *testing.T) {
		t.Parallel()
		e := newElsewhere(t)
		request := newRequest(newServer(t, noContent))
		token := e.begin(t, request)
		e.exec(t, "UPDATE work_leases SET lease_until = now(), heard_at = now() - interval '1 second'")
		if err := e.report(t, token, work.Report{}); err != nil {
			t.Fatal(err)
		}
		if !e.holds(t, "SELECT lease_until > now() + interval '9 minutes' AND progress IS NULL AND progress_number = 0 FROM work_leases") {
			t.Error("a report without progress didn't renew the lease")
		}
		e.wakeUp(t)
		e.waitFor(t, request.ID, "(SELECT state = 'scheduled' AND scheduled_at > now() + interval '9 minutes' FROM river_job WHERE id = work_job_id)")
		select {
		case <-e.tokens:
			t.Error("another attempt began")
		default:
		}
	})

	t.Run("IsNotGivenUpWhereTheDatabaseCanNotTell", func(t *testing.T) {
		t.Parallel()
		e := newElsewhere(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := e.missing(ctx, e.NewID()); err == nil || errors.Is(err, ErrGivenUp) {
			t.Errorf("got %v, want an error that doesn't end the attempt", err)
		}
	})

	t.Run("EndsByCancelling", func(t *testing.T) {
		t.Parallel()
		e := newElsewhere(t)
		request := newRequest(newServer(t, noContent))
		token := e.begin(t, request)
		if _, err := e.Cancel(t.Context(), request.Client, request.ID); err != nil {
			t.Fatal(err)
		}
		if err := e.report(t, token, hasResult); !errors.Is(err, ErrGivenUp) {
			t.Errorf("got %v, want ErrGivenUp", err)
		}
		e.waitFor(t, request.ID, "status = 'cancelled' AND NOT EXISTS (SELECT FROM work_leases) AND work_job_state = 'cancelled' AND work_job_attempt = 1")
	})

	t.Run("EndsWhenItsTimeIsOver", func(t *testing.T) {
		t.Parallel()
		e := newElsewhere(t)
		request := newRequest(newServer(t, noContent))
		request.ExpiresAt = e.Now().Add(time.Minute)
		token := e.begin(t, request)
		if !e.holds(t, "SELECT scheduled_at <= now() + interval '1 minute' FROM river_job") {
			t.Error("the job doesn't wake when the time is over")
		}
		e.exec(t, "UPDATE requests SET expires_at = now()")
		e.wakeUp(t)
		e.waitFor(t, request.ID, "status = 'expired' AND NOT EXISTS (SELECT FROM work_leases)")
		if err := e.report(t, token, hasResult); !errors.Is(err, ErrGivenUp) {
			t.Errorf("got %v, want ErrGivenUp", err)
		}
	})

	t.Run("LeavesNoLeaseBehind", func(t *testing.T) {
		t.Parallel()
		e := newElsewhere(t)
		e.begin(t, newRequest(newServer(t, noContent)))
		e.exec(t, "UPDATE work_leases SET lease_until = now()")
		for _, want := range []int{0, 1} {
			if dropped, err := db.DropLeases(t.Context(), e.direct, 10); err != nil || dropped != want {
				t.Errorf("got %d dropped, %v, want %d", dropped, err, want)
			}
			e.exec(t, "DELETE FROM requests")
		}
	})
}

func TestTokens(t *testing.T) {
	t.Parallel()
	e := newElsewhere(t)
	a := runID{e.NewID(), 3}
	token, err := e.Queue.tokens.of(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	other := newElsewhere(t)
	other.exec(t, "UPDATE finish_key SET key = decode(replace(gen_random_uuid()::text, '-', ''), 'hex')") // each test's database is a copy of the same template

	t.Run("NameTheirAttempt", func(t *testing.T) {
		t.Parallel()
		if got, err := e.RunByToken(t.Context(), token); err != nil || got.runID != a {
			t.Errorf("got %+v, %v, want %+v", got, err, a)
		}
	})

	t.Run("CanNotBeMadeUp", func(t *testing.T) {
		t.Parallel()
		raw, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil {
			t.Fatal(err)
		}
		forged := []string{"", "x", token[1:], token + "A", token[:len(token)-1], strings.ToUpper(token), "%"}
		for i := range raw {
			raw[i] ^= 1
			forged = append(forged, base64.RawURLEncoding.EncodeToString(raw))
			raw[i] ^= 1
		}
		for _, text := range forged {
			if _, err := e.RunByToken(t.Context(), text); !errors.Is(err, ErrUnknownToken) {
				t.Errorf("%s: got %v, want ErrUnknownToken", text, err)
			}
		}
		if _, err := other.RunByToken(t.Context(), token); !errors.Is(err, ErrUnknownToken) {
			t.Errorf("with another key: got %v, want ErrUnknownToken", err)
		}
	})

	t.Run("AreKnownToOtherProcesses", func(t *testing.T) {
		t.Parallel()
		again := tokens{find: func(ctx context.Context) ([]byte, error) { return db.FinishKey(ctx, e.direct) }}
		if got, err := again.read(t.Context(), token); err != nil || got != a {
			t.Errorf("got %+v, %v, want %+v", got, err, a)
		}
	})

	t.Run("MayBeFasterThanTheRecordOfTheirRequest", func(t *testing.T) {
		t.Parallel()
		fresh, err := e.Queue.tokens.of(t.Context(), runID{e.NewID(), 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.report(t, fresh, hasResult); !errors.Is(err, ErrNotYet) {
			t.Errorf("got %v, want ErrNotYet", err)
		}
		old, err := e.Queue.tokens.of(t.Context(), runID{uuid.MustParse("01900000-0000-7000-8000-000000000000"), 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.report(t, old, hasResult); !errors.Is(err, ErrGivenUp) {
			t.Errorf("of a request that is gone: got %v, want ErrGivenUp", err)
		}
	})
}
