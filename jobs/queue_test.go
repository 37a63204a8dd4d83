package jobs

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/api/contract"
	"ringback/db"
	"ringback/db/dbtest"
	"ringback/jobs/webhook"
	"ringback/work"
)

// patience is how long a test waits for an event that must come.
const patience = dbtest.Patience

var morning = time.Date(2026, 3, 1, 8, 0, 0, 123456000, time.UTC)

// succeeded ended just now: a callback whose work ended two days ago is given up instead of
// waiting, as it may have to for its receiver's pace on a busy machine.
var succeeded = outcomeAt(time.Now().Truncate(time.Microsecond))

func outcomeAt(at time.Time) work.Outcome {
	return work.Outcome{Result: jsontext.Value(`{"words":1}`), StartedAt: at, FinishedAt: at}
}

func doNothing(context.Context, jsontext.Value) (jsontext.Value, error) { return succeeded.Result, nil }

// testQueue is a queue with the direct way to its database.
type testQueue struct {
	*Queue
	url    string
	direct *pgxpool.Pool // not through a proxy
	logged chan string   // the messages of its log
}

// newQueue returns a queue on a database of its own. Once started, it runs do.
func newQueue(t *testing.T, do work.Plain) *testQueue {
	t.Helper()
	url := dbtest.New(t)
	return newQueueAt(t, url, url, do)
}

// newQueueAt reaches the database at url through another address.
func newQueueAt(t *testing.T, url, through string, do work.Plain) *testQueue {
	t.Helper()
	return newQueueOf(t, url, through, do, 4)
}

// newQueueOf has so many workers.
func newQueueOf(t *testing.T, url, through string, do work.Plain, workers int) *testQueue {
	t.Helper()
	return newQueueBy(t, url, through, do, workers, webhook.Policy{Local: true})
}

// newQueueBy calls back by a policy.
func newQueueBy(t *testing.T, url, through string, do work.Plain, workers int, policy webhook.Policy) *testQueue {
	t.Helper()
	logged := make(chan string, 1000)
	sender := webhook.NewSender(policy, "test")
	t.Cleanup(sender.Close)
	queue, err := New(Config{
		Pool: dbtest.Pool(t, through), RiverPool: dbtest.Pool(t, through), Logger: slog.New(recorder{slog.DiscardHandler, logged}),
		Catalog: catalogOf(t, do), Sender: sender, Secrets: secretsOf, AsyncLimit: 1000, Workers: workers, WorkLimit: 4, Retention: time.Hour,
		StopTimeout: 20 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	return &testQueue{queue, url, dbtest.Pool(t, url), logged}
}

// catalogOf offers one kind of work.
func catalogOf(t testing.TB, do work.Plain) *work.Catalog {
	t.Helper()
	catalog, err := work.NewCatalog(work.Set{"plain": {Do: do.Do}}, "plain", 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return catalog
}

// testSecret signs every client's callbacks, but for the clients whose secrets can't be
// read.
const (
	testSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	unreadable = "unreadable"
	panicking  = "panicking" // begins the name of a client whose secret can be had at the second look
)

var panicked sync.Map

func secretsOf(client string) ([]webhook.Secret, error) {
	if client == unreadable {
		return nil, errors.New("its secret can't be read")
	}
	if _, again := panicked.LoadOrStore(client, true); strings.HasPrefix(client, panicking) && !again {
		panic("its secret is worse than unreadable")
	}
	secret, err := webhook.ParseSecret(testSecret)
	return []webhook.Secret{secret}, err
}

// recorder passes the messages of a log on, also with the request that they are about.
type recorder struct {
	slog.Handler
	messages chan<- string
}

func (r recorder) pass(message string) {
	select {
	case r.messages <- message:
	default:
	}
}

func (recorder) Enabled(context.Context, slog.Level) bool { return true }

func (r recorder) Handle(_ context.Context, record slog.Record) error {
	r.pass(record.Message)
	record.Attrs(func(attr slog.Attr) bool {
		switch attr.Key {
		case "request_id":
			r.pass(record.Message + " " + attr.Value.String())
		case "remedy":
			r.pass(record.Message + ": " + attr.Value.String())
		}
		return true
	})
	return nil
}

// newServer starts a receiver.
func newServer(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(contract.Receiver(t, handler))
	t.Cleanup(server.Close)
	return server.URL + "/"
}

func newRequest(callbackURL string) db.Request {
	return db.Request{
		ID: uuid.Must(uuid.NewV7()), Mode: db.Async, Client: "alice", Status: db.Accepted, Input: jsontext.Value(`{"text":"a"}`),
		CallbackURL: callbackURL, CallbackState: db.CallbackWaiting, AcceptedAt: morning,
	}
}

// accept accepts a request once, however busy the machine is.
func (q *testQueue) accept(t *testing.T, request db.Request) {
	t.Helper()
	untilInTime(t, func() error {
		err := q.Accept(t.Context(), request)
		if err != nil && q.holds(t, "SELECT EXISTS (SELECT FROM requests WHERE id = $1)", request.ID) {
			return nil // the answer of its commit was late
		}
		return err
	})
}

// start runs the queue until the test ends.
func (q *testQueue) start(t *testing.T) {
	t.Helper()
	untilInTime(t, func() error { return q.Start(t.Context()) })
	t.Cleanup(func() { q.stop(t) })
}

// untilInTime does something again while the database is too slow for it.
func untilInTime(t *testing.T, do func() error) {
	t.Helper()
	waitUntil(t, func() bool {
		err := do()
		if err != nil && !db.IsUnavailable(err) && !errors.Is(err, ErrAway) {
			t.Fatal(err)
		}
		return err == nil
	})
}

func (q *testQueue) stop(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := q.Stop(ctx); err != nil {
		t.Errorf("stopping: %v", err)
	}
}

func (q *testQueue) get(t *testing.T, id uuid.UUID) db.Request {
	t.Helper()
	request, err := db.GetRequest(t.Context(), q.direct, "alice", id)
	if err != nil {
		t.Fatal(err)
	}
	return request
}

// settle settles a callback as the run of the request's present callback job does.
func (q *testQueue) settle(ctx context.Context, request db.Request, sent webhook.Attempt, next step) (int, error) {
	const sql = "SELECT callback_job_id FROM requests WHERE id = $1"
	if err := q.direct.QueryRow(context.WithoutCancel(ctx), sql, request.ID).Scan(&request.CallbackJobID); err != nil {
		return 0, err
	}
	return q.Queue.settle(ctx, request, sent, next, false)
}

func (q *testQueue) outcomes(t *testing.T, id uuid.UUID) (words []string) {
	t.Helper()
	attempts, err := db.ListAttempts(t.Context(), q.direct, id, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, attempt := range attempts {
		words = append(words, attempt.Outcome)
	}
	return words
}

func (q *testQueue) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := q.direct.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// holds tells whether sql selects true.
func (q *testQueue) holds(t *testing.T, sql string, args ...any) (yes bool) {
	t.Helper()
	if err := q.direct.QueryRow(t.Context(), sql, args...).Scan(&yes); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return yes
}

// waitFor returns when the trace of a request has a row that meets condition.
func (q *testQueue) waitFor(t *testing.T, id uuid.UUID, condition string) {
	t.Helper()
	timeout := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !q.holds(t, "SELECT EXISTS (SELECT FROM request_trace WHERE request_id = $1 AND "+condition+")", id) {
		select {
		case <-tick.C:
		case <-timeout:
			var trace string
			_ = q.direct.QueryRow(t.Context(), "SELECT json_agg(request_trace) FROM request_trace WHERE request_id = $1", id).Scan(&trace)
			t.Fatalf("got %s, want %s", trace, condition)
		}
	}
}

// waitForLog returns the first of the messages that is logged.
func (q *testQueue) waitForLog(t *testing.T, messages ...string) string {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case got := <-q.logged:
			if slices.Contains(messages, got) {
				return got
			}
		case <-timeout:
			t.Fatalf("none of %q was logged", messages)
		}
	}
}

// hasLogged tells whether a message is among the messages that nobody waited for.
func (q *testQueue) hasLogged(message string) bool {
	for {
		select {
		case got := <-q.logged:
			if got == message {
				return true
			}
		default:
			return false
		}
	}
}

func TestQueue(t *testing.T) {
	t.Parallel()

	t.Run("InterruptsLongWorkOnStopAndAnotherFinishesIt", func(t *testing.T) {
		t.Parallel()
		started := make(chan struct{})
		first := newQueue(t, func(ctx context.Context, _ jsontext.Value) (jsontext.Value, error) {
			close(started)
			<-ctx.Done()
			return nil, ctx.Err()
		})
		receiver := newReceiver(t, always(http.StatusOK))
		request := newRequest(receiver.URL)
		first.accept(t, request)
		if err := first.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-started
		first.stop(t)
		first.waitForLog(t, "work_cut_off "+request.ID.String())
		first.waitFor(t, request.ID, "status = 'accepted' AND work_job_state = 'available' AND work_job_attempt = 0")
		if !first.holds(t, "SELECT scheduled_at <= now() FROM river_job") {
			t.Error("the job waits, want it to be taken up at once")
		}
		if got := first.get(t, request.ID).WorkAttempts; len(got) != 1 || got[0].Code != codeCutOff || got[0].Attempt != 1 || got[0].At.Before(request.AcceptedAt) {
			t.Errorf("got %+v, want the run that was cut off", got)
		}

		second := newQueueAt(t, first.url, first.url, doNothing)
		second.start(t)
		receiver.next(t)
		second.waitFor(t, request.ID, "status = 'succeeded' AND work_job_state = 'completed' AND work_job_attempt = 1 AND callback_state = 'delivered'")
	})

	t.Run("InterruptsACallbackOnStopAndChargesNothing", func(t *testing.T) {
		t.Parallel()
		started, release := make(chan struct{}), make(chan struct{})
		url := newServer(t, func(http.ResponseWriter, *http.Request) {
			close(started)
			<-release
		})
		defer close(release)
		q := newQueue(t, doNothing)
		request := newRequest(url)
		q.accept(t, request)
		if err := q.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-started
		q.stop(t)
		q.waitForLog(t, "callback_cut_off "+request.ID.String())
		q.waitFor(t, request.ID, "callback_state = 'pending' AND callback_job_state = 'available' AND callback_job_attempt = 0 AND attempt IS NULL")
	})

	t.Run("GoesOnAfterTheEndOfTheContextOfStart", func(t *testing.T) {
		t.Parallel()
		q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
		ctx, cancel := context.WithCancel(t.Context())
		if err := q.Start(ctx); err != nil {
			t.Fatal(err)
		}
		defer q.stop(t)
		cancel()
		q.accept(t, newRequest(receiver.URL))
		receiver.next(t)
	})

	t.Run("WithoutWorkersOnlyInserts", func(t *testing.T) {
		t.Parallel()
		url := dbtest.New(t)
		pool := dbtest.Pool(t, url)
		queue, err := New(Config{Pool: pool, RiverPool: pool, Logger: slog.New(slog.DiscardHandler), Catalog: catalogOf(t, doNothing), AsyncLimit: 10, Retention: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		q := &testQueue{Queue: queue, url: url, direct: pool}
		q.start(t)
		request := newRequest("http://127.0.0.1:9/")
		q.accept(t, request)
		q.waitFor(t, request.ID, "work_job_state = 'available'")
		if !q.holds(t, "SELECT NOT EXISTS (SELECT FROM river_leader)") {
			t.Error("it stands for leader, want no election")
		}
	})

	t.Run("SaysWhatIsWrongWithItsSettings", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.Pool(t, dbtest.NewEmpty(t))
		_, err := New(Config{Pool: pool, RiverPool: pool, Logger: slog.New(slog.DiscardHandler), Catalog: catalogOf(t, doNothing), Workers: 1 << 30})
		if err == nil || !strings.HasPrefix(err.Error(), "setting up river: ") || errors.Unwrap(err) == nil {
			t.Errorf("a billion workers: got %v, want River's reason", err)
		}
	})
}
