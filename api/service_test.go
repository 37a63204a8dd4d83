package api_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/api"
	"ringback/api/contract"
	"ringback/db"
	"ringback/db/dbtest"
	"ringback/jobs"
	"ringback/work"
	"ringback/work/fingerprint"
)

func TestMain(m *testing.M) {
	contract.Install()
	os.Exit(m.Run())
}

// service is the API on a real listener and a database of its own.
type service struct {
	url  string
	pool *pgxpool.Pool // the direct way to the database
}

// newService starts a service after adjust, if any, changed its settings.
func newService(t *testing.T, adjust func(*api.Config)) *service {
	t.Helper()
	url := dbtest.New(t)
	return newServiceAt(t, url, url, adjust)
}

// notInATest is a time that no test lives to see the end of.
const notInATest = 2 * dbtest.Patience

// newServiceAt reaches the database at url through another address.
func newServiceAt(t *testing.T, url, through string, adjust func(*api.Config)) *service {
	t.Helper()
	pool, reads := dbtest.Pool(t, through), dbtest.Reads(t, through)

	config := api.Config{
		BodyTimeout: notInATest,
		Pool:        pool, Reads: reads, ReadLimit: int(reads.Stat().MaxConns()), Queue: newQueue(t, pool, jobs.Config{AsyncLimit: 100}), Logger: discard, Catalog: catalogOf(t, fingerprint.Work),
		FindClient: findClient(nil), LocalClient: "local", SyncLimit: 100, Draining: func() bool { return false },
	}
	if url == through { // the database is always there, though it may be slow
		config.DatabaseTimeout = notInATest
	}
	if adjust != nil {
		adjust(&config)
	}
	server := httptest.NewServer(api.New(config))
	t.Cleanup(server.Close)
	contract.Watch(t, server.URL)
	return &service{server.URL, dbtest.Pool(t, url)}
}

// newQueue returns a queue that only inserts.
func newQueue(t *testing.T, pool *pgxpool.Pool, config jobs.Config) *jobs.Queue {
	t.Helper()
	config.Pool, config.RiverPool, config.Logger, config.Retention = pool, pool, discard, time.Hour
	config.Catalog = catalogOf(t, fingerprint.Work)
	queue, err := jobs.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return queue
}

// keyed makes the clients of a service, by their keys.
func keyed(clients map[string]string) func(*api.Config) {
	return func(c *api.Config) { c.FindClient, c.LocalClient = findClient(clients), "" }
}

func findClient(clients map[string]string) func(key string) string {
	return func(key string) string { return clients[key] }
}

// doing makes do the work of a service.
func doing(t *testing.T, do work.Plain) func(*api.Config) {
	return func(c *api.Config) { c.Catalog = catalogOf(t, work.Work{Check: fingerprint.Check, Do: do.Do}) }
}

// catalogOf offers one work.
func catalogOf(t *testing.T, w work.Work) *work.Catalog {
	t.Helper()
	catalog, err := work.NewCatalog(work.Set{"fingerprint": w}, "fingerprint", 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return catalog
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

// call sends JSON; header holds pairs of names and values, which win, and an
// empty value removes a name. It calls again where a busy machine is why it was refused.
func (s *service) call(t *testing.T, method, path, body string, header ...string) answer {
	t.Helper()
	for {
		if got := s.callOnce(t, method, path, body, header...); !got.isOfABusyMachine() {
			return got
		}
	}
}

// callOnce is call without another try.
func (s *service) callOnce(t *testing.T, method, path, body string, header ...string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), dbtest.Patience)
	defer cancel()
	got, err := s.try(ctx, method, path, body, header...)
	if err != nil {
		t.Errorf("%s %s: %v", method, path, err)
	}
	return got
}

// isOfABusyMachine tells whether a call was refused, and nothing was done, since a commit
// or a read took longer than a quarter of a second.
func (a answer) isOfABusyMachine() bool {
	return a.status == http.StatusServiceUnavailable &&
		(bytes.Contains(a.body, []byte("Requests wait too long to be stored.")) || bytes.Contains(a.body, []byte("Too many reads are under way.")))
}

func (s *service) try(ctx context.Context, method, path, body string, header ...string) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	request.Header.Set("Content-Type", "application/json")
	for pair := range slices.Chunk(header, 2) {
		request.Header.Set(pair[0], pair[1])
		if pair[1] == "" {
			request.Header.Del(pair[0])
		}
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, content}, err
}

// decode reads an answer of the given status, whose fields are the fields of T and no
// others.
func decode[T any](t *testing.T, a answer, status int) (body T) {
	t.Helper()
	if a.status != status {
		t.Fatalf("status: got %d with %s, want %d", a.status, a.body, status)
	}
	decoder := json.NewDecoder(bytes.NewReader(a.body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&body); err != nil {
		t.Fatalf("decoding %s: %v", a.body, err)
	}
	return body
}

type problem struct {
	Type   string
	Title  string
	Status int
	Detail string

	ViolatedPolicies []string `json:"violated-policies"`

	Errors []struct{ Pointer, Parameter, Detail string }
}

// wantProblem checks an error answer: its form, that its type leads to its
// explanation, and the pointers and parameters that it names.
func (s *service) wantProblem(t *testing.T, a answer, status int, name string, fields ...string) {
	t.Helper()
	if got, want := a.header.Get("Content-Type"), "application/problem+json"; got != want {
		t.Errorf("content type: got %q, want %q", got, want)
	}
	got := decode[problem](t, a, status)
	if got.Type != "/problems/"+name || got.Status != status || got.Title == "" || got.Detail == "" {
		t.Errorf("problem: got %s, want %s of status %d with a title and a detail", a.body, name, status)
	}
	var named []string
	for _, field := range got.Errors {
		named = append(named, field.Pointer+field.Parameter)
		if field.Detail == "" {
			t.Errorf("problem: got %s, want a detail for each field", a.body)
		}
	}
	if !slices.Equal(named, fields) {
		t.Errorf("fields named: got %q by %s, want %q", named, a.body, fields)
	}
	if retry := a.header.Get("Retry-After"); (retry != "") != (status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests || name == "request-in-flight") || len(retry) > 2 {
		t.Errorf("Retry-After of a %d: got %q", status, retry)
	}
	type explanation struct {
		Name, Title string
		Status      int
	}
	want := explanation{name, got.Title, status}
	if explained := decode[explanation](t, s.call(t, "GET", got.Type, ""), http.StatusOK); explained != want {
		t.Errorf("GET %s: got %+v, want %+v", got.Type, explained, want)
	}
}

// stored is how many requests and jobs the database holds.
func (s *service) stored(t *testing.T) (count int) {
	t.Helper()
	const sql = "SELECT (SELECT count(*) FROM requests) + (SELECT count(*) FROM river_job)"
	if err := s.pool.QueryRow(t.Context(), sql).Scan(&count); err != nil {
		t.Fatal(err)
	}
	return count
}

// located is the request that an answer's Location leads to, from the
// database.
func (s *service) located(t *testing.T, a answer) db.Request {
	t.Helper()
	id, ok := strings.CutPrefix(a.header.Get("Location"), "/requests/")
	if !ok {
		t.Fatalf("Location: got %q, want that of a request", a.header.Get("Location"))
	}
	request, err := db.GetRequest(t.Context(), s.pool, "local", uuid.MustParse(id))
	if err != nil {
		t.Fatal(err)
	}
	return request
}

// holds tells whether sql selects true.
func (s *service) holds(t *testing.T, sql string, args ...any) (yes bool) {
	t.Helper()
	if err := s.pool.QueryRow(t.Context(), sql, args...).Scan(&yes); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return yes
}

// waitFor returns when sql selects true.
func (s *service) waitFor(t *testing.T, sql string) {
	t.Helper()
	timeout := time.After(dbtest.Patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !s.holds(t, sql) {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("never true: %s", sql)
		}
	}
}

// store writes a request with all that its fields say, through every step.
func (s *service) store(t *testing.T, want db.Request, attempts ...db.Attempt) db.Request {
	t.Helper()
	want.ID, want.Input = idOfTheMorning(), jsontext.Value(`{"text":"a"}`)
	if want.Client == "" {
		want.Client = "local"
	}
	want.Mode, want.AcceptedAt = db.Sync, morning
	if want.CallbackState != "" {
		want.Mode, want.CallbackURL = db.Async, "https://hooks.example.com/"
	}
	if want.Status != db.Accepted {
		want.StartedAt, want.FinishedAt = morning.Add(time.Second), morning.Add(2*time.Second)
	}
	switch want.Status {
	case db.Succeeded:
		want.Result = jsontext.Value(`{"words":1}`)
	case db.Expired:
		want.Error, want.ExpiresAt = jsontext.Value(`{"code":"expired","message":"m"}`), morning
	case db.Failed, db.Cancelled:
		want.Error = jsontext.Value(`{"code":"panic","message":"m"}`)
	}
	err := db.InTx(t.Context(), s.pool, func(tx pgx.Tx) error {
		if want.Mode == db.Sync {
			_, err := db.InsertRequests(t.Context(), tx, workJobs, []db.Request{want})
			return err
		}
		accepted := db.Request{
			ID: want.ID, Mode: want.Mode, Client: want.Client, Status: db.Accepted, Input: want.Input, CallbackURL: want.CallbackURL,
			CallbackState: db.CallbackWaiting, AcceptedAt: want.AcceptedAt, ExpiresAt: want.ExpiresAt,
		}
		if _, err := db.InsertRequests(t.Context(), tx, workJobs, []db.Request{accepted}); err != nil || want.Status == db.Accepted {
			return err
		}
		callbacks, err := db.FinishRequests(t.Context(), tx, callbackJobs, []db.Request{want})
		if err != nil {
			return err
		}
		for i, attempt := range attempts {
			attempt.RequestID = want.ID
			settlement := db.Settlement{Attempt: attempt, JobID: callbacks[want.ID].CallbackJobID, State: db.CallbackPending}
			if i == len(attempts)-1 {
				settlement.State = want.CallbackState
			}
			if _, err := db.SettleCallbacks(t.Context(), tx, []db.Settlement{settlement}); err != nil {
				return err
			}
		}
		if want.SettledAt.IsZero() {
			return nil
		}
		const sql = "UPDATE requests SET callback_state = $2, settled_at = $3 WHERE id = $1"
		_, err = tx.Exec(t.Context(), sql, want.ID, want.CallbackState, want.SettledAt)
		if err != nil || want.CallbackState != db.CallbackDead {
			return err
		}
		const letter = `
			INSERT INTO dead_letters (client, request_id, callback_host, accepted_at)
			SELECT client, id, 'hooks.example.com', accepted_at FROM requests WHERE id = $1
			ON CONFLICT DO NOTHING`
		_, err = tx.Exec(t.Context(), letter, want.ID)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return want
}

var morning = time.Date(2026, 3, 1, 8, 0, 0, 123456000, time.UTC)

// idOfTheMorning rises with every call.
func idOfTheMorning() (id uuid.UUID) {
	binary.BigEndian.PutUint64(id[:], uint64(morning.UnixMilli())<<16|7<<12)
	binary.BigEndian.PutUint64(id[8:], 1<<63|uint64(idsOfTheMorning.Add(1)))
	return id
}

var idsOfTheMorning atomic.Int64

var discard = slog.New(slog.DiscardHandler)

var (
	workJobs     = db.Jobs{Kind: "work", Queue: "work", MaxAttempts: 1000}
	callbackJobs = db.Jobs{Kind: "callback", Queue: "callback", MaxAttempts: 1000}
)
