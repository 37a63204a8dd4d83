package jobs

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"ringback/db"
	"ringback/internal/bubble"
	"ringback/jobs/clients"
	"ringback/jobs/limit"
)

func requestOf(client, origin string) db.Request {
	request := newRequest("https://" + origin + "/hook?a=//b/c")
	request.Client = client
	return request
}

// entered is how many more requests quotas let in, up to most, and the reason of the first
// refusal.
func entered(q *quotas, request db.Request, most int) (count int, err error) {
	for count < most && err == nil {
		if err = q.enter(demandOf(request)); err == nil {
			q.entered(demandOf(request), true)
			count++
		}
	}
	return count, err
}

// limited are the same limits for every client.
func limited(limits clients.Limits) func(string) clients.Limits {
	return func(string) clients.Limits { return limits }
}

// exceeds tells whether err says that a quota is used up.
func exceeds(err error, quota limit.Reason) bool { return errors.Is(err, refusedBy(quota)) }

func refusedBy(reason limit.Reason) error { return limit.Decision{Reason: reason}.Err() }

func TestQuotas(t *testing.T) {
	t.Parallel()
	const client, destination = 10, 4
	counting := func(counts map[db.Destination]int64) *quotas {
		return &quotas{
			limits: limited(clients.Limits{Unfinished: client, PerDestination: destination}),
			count:  func(context.Context) (map[db.Destination]int64, error) { return counts, nil },
			sample: func(context.Context) (map[string]db.Kept, error) { return nil, nil },
		}
	}
	sampled := func(t *testing.T, counts map[db.Destination]int64) *quotas {
		q := counting(counts)
		q.sampleUnfinished(t.Context())
		return q
	}
	wantEntered := func(t *testing.T, q *quotas, request db.Request, want int, reason limit.Reason) {
		t.Helper()
		if got, err := entered(q, request, 100); got != want || !exceeds(err, reason) {
			t.Errorf("%s for %s: got %d in, then %v, want %d, then %v", request.Client, request.CallbackURL, got, err, want, reason)
		}
	}

	t.Run("AdmitsAClientBelowItsLimits", func(t *testing.T) {
		t.Parallel()
		q := sampled(t, map[db.Destination]int64{{Client: "alice", Host: "a:8443"}: 3, {Client: "alice", Host: "b"}: 2, {Client: "bob", Host: "a:8443"}: 4})
		if got := q.left("alice"); got != 5 {
			t.Errorf("left: got %d, want 5", got)
		}
		wantEntered(t, q, requestOf("alice", "a:8443"), 1, DestinationQuota)
		wantEntered(t, q, requestOf("alice", "c"), 4, UnfinishedQuota)
		if err := q.admit(anywhere("alice")); !exceeds(err, UnfinishedQuota) || q.left("alice") != 0 {
			t.Errorf("at the limit: got %v and %d left, want %v and none", err, q.left("alice"), UnfinishedQuota)
		}
		wantEntered(t, q, requestOf("bob", "a:8443"), 0, DestinationQuota)
		wantEntered(t, q, requestOf("bob", "c"), 4, DestinationQuota)
		if err := q.admit(anywhere("bob")); err != nil {
			t.Errorf("bob, for another destination: got %v, want admission", err)
		}
	})

	t.Run("GivesBackWhatLeaves", func(t *testing.T) {
		t.Parallel()
		q := counting(nil)
		if got, err := entered(q, requestOf("alice", "a"), destination-1); got != destination-1 {
			t.Fatalf("got %d in, then %v, want %d", got, err, destination-1)
		}
		d := demandOf(requestOf("alice", "a"))
		if err := q.enter(d); err != nil {
			t.Fatal(err)
		}
		wantEntered(t, q, requestOf("alice", "a"), 0, DestinationQuota)
		q.entered(d, false)
		wantEntered(t, q, requestOf("alice", "a"), 1, DestinationQuota)
		if got := q.left("alice"); got != client-destination {
			t.Errorf("left: got %d, want %d", got, client-destination)
		}
	})

	t.Run("CountsOnceWhatTheSampleHolds", func(t *testing.T) {
		t.Parallel()
		q := counting(map[db.Destination]int64{{Client: "alice", Host: "a"}: 2})
		wantEntered(t, q, requestOf("alice", "a"), destination, DestinationQuota)
		q.sampleUnfinished(t.Context())
		wantEntered(t, q, requestOf("alice", "a"), 2, DestinationQuota)
	})

	t.Run("CountsWhatIsWrittenAfterTheSample", func(t *testing.T) {
		t.Parallel()
		q, d := counting(nil), demandOf(requestOf("alice", "a"))
		if err := q.enter(d); err != nil {
			t.Fatal(err)
		}
		q.sampleUnfinished(t.Context())
		q.entered(d, true)
		wantEntered(t, q, requestOf("alice", "a"), destination-1, DestinationQuota)
	})

	t.Run("CountsWhatEntersDuringTheSample", func(t *testing.T) {
		t.Parallel()
		q := counting(nil)
		q.count = func(context.Context) (map[db.Destination]int64, error) {
			return nil, q.enter(demandOf(requestOf("alice", "a")))
		}
		q.sampleUnfinished(t.Context())
		wantEntered(t, q, requestOf("alice", "a"), destination-1, DestinationQuota)
	})

	t.Run("KeepsTheCountWhenThereIsNoNewSample", func(t *testing.T) {
		t.Parallel()
		q := sampled(t, map[db.Destination]int64{{Client: "alice", Host: "a"}: 1})
		q.count = func(context.Context) (map[db.Destination]int64, error) { return nil, errors.New("no permission") }
		for range 2 {
			if err := q.enter(demandOf(requestOf("alice", "a"))); err != nil {
				t.Fatal(err)
			}
			q.sampleUnfinished(t.Context())
		}
		wantEntered(t, q, requestOf("alice", "a"), 1, DestinationQuota)
	})

	t.Run("WithoutOneAdmitsAll", func(t *testing.T) {
		t.Parallel()
		var none *quotas
		none.entered(demandOf(requestOf("alice", "a")), false)
		none.keep(requestOf("alice", "a"))
		if err := errors.Join(none.admit(anywhere("alice")), none.admitStorage("alice"), none.enter(demandOf(requestOf("alice", "a")))); err != nil || !none.redeliverAt("alice", morning, morning.Add(time.Hour)).Equal(morning) {
			t.Errorf("got %v, and a redelivery at another time than was wanted", err)
		}
	})

	t.Run("AreEachClientsOwnAndFollowTheirChange", func(t *testing.T) {
		t.Parallel()
		q, own := counting(nil), clients.Limits{Unfinished: 2, PerDestination: 2}
		q.limits = func(client string) clients.Limits {
			if client == "alice" {
				return own
			}
			return clients.Limits{Unfinished: 3, PerDestination: 3}
		}
		wantEntered(t, q, requestOf("alice", "a"), 2, UnfinishedQuota)
		wantEntered(t, q, requestOf("bob", "a"), 3, UnfinishedQuota)
		own.Unfinished = 5
		wantEntered(t, q, requestOf("alice", "b"), 2, DestinationQuota)
		if err := q.enter(demandOf(requestOf("alice", "c"))); err != nil || q.left("alice") != 0 {
			t.Errorf("got %v with %d left, want the fifth in", err, q.left("alice"))
		}
		var exceeded *limit.Refusal
		if err := q.admit(anywhere("alice")); !errors.As(err, &exceeded) || exceeded.Most != 5 {
			t.Errorf("got %v, want alice's own limit of 5 told", err)
		}
	})

	// each is the count of one request for "a".
	each := keptOf(requestOf("alice", "a"))
	storing := func(kept map[string]db.Kept) *quotas {
		q := counting(nil)
		q.limits = limited(clients.Limits{Storage: 5 * each, DeadLetters: 3})
		q.sample = func(context.Context) (map[string]db.Kept, error) { return kept, nil }
		q.sampleKept(t.Context())
		return q
	}

	t.Run("CountWhatIsKeptForTheCallback", func(t *testing.T) {
		t.Parallel()
		q, request := storing(nil), requestOf("alice", "a")
		request.CallbackHeaders = strings.Repeat("h", int(4*each))
		wantEntered(t, q, request, 1, StorageQuota)
	})

	t.Run("AdmitAClientBelowItsStorage", func(t *testing.T) {
		t.Parallel()
		q := storing(map[string]db.Kept{"alice": {Bytes: 2 * each}})
		wantEntered(t, q, requestOf("alice", "a"), 3, StorageQuota)
		if err := q.admitStorage("alice"); !exceeds(err, StorageQuota) {
			t.Errorf("sync: got %v, want it refused, too", err)
		}
		if err := q.enter(demand{destinationOf("alice", "https://a/"), db.AttemptBytes, true}); !exceeds(err, StorageQuota) {
			t.Errorf("redelivery: got %v, want it refused, since its attempts are kept", err)
		}
		wantEntered(t, q, requestOf("bob", "a"), 5, StorageQuota)
	})

	t.Run("CountWhatSyncRequestsKeep", func(t *testing.T) {
		t.Parallel()
		q := storing(nil)
		request := requestOf("alice", "a")
		request.Result = make([]byte, each)
		q.keep(request)
		wantEntered(t, q, requestOf("alice", "a"), 3, StorageQuota)
	})

	t.Run("CountOnceWhatTheSampleOfStorageHolds", func(t *testing.T) {
		t.Parallel()
		q := storing(nil)
		wantEntered(t, q, requestOf("alice", "a"), 5, StorageQuota)
		q.sample = func(context.Context) (map[string]db.Kept, error) {
			return map[string]db.Kept{"alice": {Bytes: 3 * each}}, nil
		}
		q.sampleKept(t.Context())
		wantEntered(t, q, requestOf("alice", "a"), 2, StorageQuota)
	})

	t.Run("RefuseRequestsBeyondTheDeadLettersAndLetThemBeRedelivered", func(t *testing.T) {
		t.Parallel()
		q := storing(map[string]db.Kept{"alice": {DeadLetters: 3}, "bob": {DeadLetters: 2}})
		if err := q.admit(anywhere("alice")); !exceeds(err, DeadLetterQuota) {
			t.Errorf("admit: got %v, want it refused", err)
		}
		wantEntered(t, q, requestOf("alice", "a"), 0, DeadLetterQuota)
		if err := errors.Join(q.admitStorage("alice"), q.enter(demand{destinationOf("alice", "https://a/"), db.AttemptBytes, true}), q.admit(anywhere("bob"))); err != nil {
			t.Errorf("sync, redelivery and bob: got %v, want admission", err)
		}
	})

	// The sleeps are the fake clock's.
	t.Run("IsSampledEverySecondAndLessOftenWhereItTakesLong", func(t *testing.T) {
		t.Parallel()
		for takes, want := range map[time.Duration]int64{
			0: 8, 200 * time.Millisecond: 2, // at 0 s and 4.2 s
			time.Second: 2, // at 0 s and 6 s, since requests that have ended count meanwhile
		} {
			bubble.Test(t, func(t *testing.T) {
				var samples atomic.Int64
				q := counting(nil)
				q.count = func(context.Context) (map[db.Destination]int64, error) {
					time.Sleep(takes)
					samples.Add(1)
					return nil, nil
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer bubble.Wait()
				defer cancel()
				go q.watch(ctx)
				time.Sleep(7500 * time.Millisecond)
				if got := samples.Load(); got != want {
					t.Errorf("each of %v: got %d samples, want %d", takes, got, want)
				}
			})
		}
	})
}

func TestQueueQuotas(t *testing.T) {
	t.Parallel()
	q := newQueue(t, nil)
	q.quotas = newQuotas(Config{Pool: q.direct, Limits: limited(clients.Limits{Unfinished: 3, PerDestination: 2})})
	refuses := func(when string, request db.Request, want limit.Reason) {
		t.Helper()
		if err := q.Accept(t.Context(), request); !exceeds(err, want) {
			t.Errorf("%s: got %v, want %v", when, err, want)
		}
	}
	bad := requestOf("alice", "a.example")
	bad.Input = nil
	if err := q.Accept(t.Context(), bad); err == nil {
		t.Error("a bad row: got no error")
	}
	for range 2 { // the bad row doesn't count
		q.accept(t, requestOf("alice", "a.example"))
	}
	refuses("before a sample", requestOf("alice", "a.example"), DestinationQuota)
	q.quotas.sampleUnfinished(t.Context())
	refuses("after a sample", requestOf("alice", "a.example"), DestinationQuota)
	q.accept(t, requestOf("alice", "b.example"))
	refuses("all of alice's", requestOf("alice", "c.example"), UnfinishedQuota)
	if err := q.Admit("alice"); !exceeds(err, UnfinishedQuota) || q.Left("alice") != 0 {
		t.Errorf("Admit: got %v with %d left, want %v with none", err, q.Left("alice"), UnfinishedQuota)
	}
	q.accept(t, requestOf("bob", "a.example"))
	q.exec(t, "UPDATE river_job SET state = 'completed', finalized_at = now() WHERE id = (SELECT min(id) FROM river_job)")
	q.quotas.sampleUnfinished(t.Context())
	q.accept(t, requestOf("alice", "a.example"))
	refuses("full again", requestOf("alice", "a.example"), UnfinishedQuota)
	q.backlog.limit = 4
	q.backlog.sample(t.Context())
	if err := q.Accept(t.Context(), requestOf("bob", "a.example")); !errors.Is(err, refusedBy(Backlog)) {
		t.Errorf("full in all: got %v, want %v", err, Backlog)
	}
	if got := q.Left("bob"); got != 2 {
		t.Errorf("bob, refused for the sake of all: got %d left, want 2", got)
	}
}

func TestQueueStorage(t *testing.T) {
	t.Parallel()
	q := newQueue(t, nil)
	request := requestOf("alice", "a.example")
	stored := keptOf(request) + 2 // with a header for each of two short values
	q.quotas = newQuotas(Config{Pool: q.direct, Limits: limited(clients.Limits{Storage: 4 * stored, DeadLetters: 2})})
	wantFull := func(when string, want limit.Reason) {
		t.Helper()
		if err := q.Admit("alice"); !exceeds(err, want) {
			t.Errorf("%s: got %v, want %v", when, err, want)
		}
		if err := errors.Join(q.Admit("bob"), q.AdmitSync("bob")); err != nil {
			t.Errorf("%s: bob: got %v, want admission", when, err)
		}
	}
	q.accept(t, request)
	q.end(t, request, db.CallbackDead)
	record := requestOf("alice", "")
	record.Mode, record.Status, record.Result, record.CallbackURL, record.CallbackState = db.Sync, db.Succeeded, succeeded.Result, "", ""
	record.FinishedAt = morning
	for range 5 {
		if q.AdmitSync("alice") != nil {
			break
		}
		record.ID = uuid.Must(uuid.NewV7())
		if err := q.Record(t.Context(), record); err != nil {
			t.Fatal(err)
		}
	}
	wantFull("before a sample", StorageQuota)
	q.quotas.sampleKept(t.Context())
	wantFull("after a sample", StorageQuota)
	q.exec(t, "DELETE FROM requests WHERE mode = 'sync'")
	q.quotas.sampleKept(t.Context())
	if err := errors.Join(q.Admit("alice"), q.AdmitSync("alice")); err != nil {
		t.Errorf("after some were removed: got %v, want admission", err)
	}
	another := requestOf("alice", "a.example")
	q.accept(t, another)
	q.end(t, another, db.CallbackDead)
	q.quotas.sampleKept(t.Context())
	wantFull("two dead letters", DeadLetterQuota)
	if err := q.AdmitSync("alice"); err != nil {
		t.Errorf("sync: got %v, want admission: it makes no dead letters", err)
	}
}
