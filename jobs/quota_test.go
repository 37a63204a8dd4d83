package jobs

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ringback/db"
)

func requestOf(client, origin string) db.Request {
	request := newRequest("https://" + origin + "/hook?a=//b/c")
	request.Client = client
	return request
}

// entered is how many more requests a quota lets in, up to most, and why no more.
func entered(q *quota, request db.Request, most int) (count int, err error) {
	for count < most && err == nil {
		if err = q.enter(request); err == nil {
			count++
		}
	}
	return count, err
}

func TestQuota(t *testing.T) {
	t.Parallel()
	const client, destination = 10, 4
	counting := func(counts map[db.Destination]int64) *quota {
		return &quota{client: client, destination: destination, accepted: unfinished{}, count: func(context.Context) (map[db.Destination]int64, error) {
			return counts, nil
		}}
	}
	sampled := func(t *testing.T, counts map[db.Destination]int64) *quota {
		q := counting(counts)
		q.sample(t.Context())
		return q
	}
	wantEntered := func(t *testing.T, q *quota, request db.Request, want int, reason error) {
		t.Helper()
		if got, err := entered(q, request, 100); got != want || !errors.Is(err, reason) {
			t.Errorf("%s for %s: got %d in, then %v, want %d, then %v", request.Client, request.CallbackURL, got, err, want, reason)
		}
	}

	t.Run("AdmitsAClientBelowItsLimits", func(t *testing.T) {
		t.Parallel()
		q := sampled(t, map[db.Destination]int64{{Client: "alice", Origin: "a:8443"}: 3, {Client: "alice", Origin: "b"}: 2, {Client: "bob", Origin: "a:8443"}: 4})
		if got := q.left("alice"); got != 5 {
			t.Errorf("left: got %d, want 5", got)
		}
		wantEntered(t, q, requestOf("alice", "a:8443"), 1, ErrDestinationQuota)
		wantEntered(t, q, requestOf("alice", "c"), 4, ErrClientQuota)
		if err := q.admit("alice"); !errors.Is(err, ErrClientQuota) || q.left("alice") != 0 {
			t.Errorf("at the limit: got %v and %d left, want %v and none", err, q.left("alice"), ErrClientQuota)
		}
		wantEntered(t, q, requestOf("bob", "a:8443"), 0, ErrDestinationQuota)
		wantEntered(t, q, requestOf("bob", "c"), 4, ErrDestinationQuota)
		if err := q.admit("bob"); err != nil {
			t.Errorf("bob, for another destination: got %v, want admission", err)
		}
	})

	t.Run("GivesBackWhatLeaves", func(t *testing.T) {
		t.Parallel()
		q := counting(nil)
		wantEntered(t, q, requestOf("alice", "a"), destination, ErrDestinationQuota)
		q.leave(requestOf("alice", "a"))
		wantEntered(t, q, requestOf("alice", "a"), 1, ErrDestinationQuota)
		if got := q.left("alice"); got != client-destination {
			t.Errorf("left: got %d, want %d", got, client-destination)
		}
	})

	t.Run("CountsOnceWhatTheSampleHolds", func(t *testing.T) {
		t.Parallel()
		q := counting(map[db.Destination]int64{{Client: "alice", Origin: "a"}: 2})
		wantEntered(t, q, requestOf("alice", "a"), destination, ErrDestinationQuota)
		q.sample(t.Context())
		wantEntered(t, q, requestOf("alice", "a"), 2, ErrDestinationQuota)
	})

	t.Run("CountsWhatEntersDuringTheSample", func(t *testing.T) {
		t.Parallel()
		q := counting(nil)
		q.count = func(context.Context) (map[db.Destination]int64, error) { return nil, q.enter(requestOf("alice", "a")) }
		q.sample(t.Context())
		wantEntered(t, q, requestOf("alice", "a"), destination-1, ErrDestinationQuota)
	})

	t.Run("KeepsTheCountWhenThereIsNoNewSample", func(t *testing.T) {
		t.Parallel()
		q := sampled(t, map[db.Destination]int64{{Client: "alice", Origin: "a"}: 1})
		q.count = func(context.Context) (map[db.Destination]int64, error) { return nil, errors.New("no permission") }
		for range 2 {
			if err := q.enter(requestOf("alice", "a")); err != nil {
				t.Fatal(err)
			}
			q.sample(t.Context())
		}
		wantEntered(t, q, requestOf("alice", "a"), 1, ErrDestinationQuota)
	})

	t.Run("WithoutOneAdmitsAll", func(t *testing.T) {
		t.Parallel()
		var none *quota
		none.leave(requestOf("alice", "a"))
		if err := errors.Join(none.admit("alice"), none.enter(requestOf("alice", "a"))); err != nil {
			t.Errorf("got %v", err)
		}
	})

	// The sleeps are the fake clock's.
	t.Run("IsSampledEverySecondAndLessOftenWhereItTakesLong", func(t *testing.T) {
		t.Parallel()
		for takes, want := range map[time.Duration]int64{0: 8, 200 * time.Millisecond: 2} { // at 0 s and 4.2 s
			synctest.Test(t, func(t *testing.T) {
				var samples atomic.Int64
				q := counting(nil)
				q.count = func(context.Context) (map[db.Destination]int64, error) {
					time.Sleep(takes)
					samples.Add(1)
					return nil, nil
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer synctest.Wait()
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

func TestQueueQuota(t *testing.T) {
	t.Parallel()
	q := newQueue(t, nil)
	q.quota = newQuota(Config{Pool: q.direct, Unfinished: 1000, ClientUnfinished: 3, DestinationUnfinished: 2})
	refuses := func(when string, request db.Request, want error) {
		t.Helper()
		if err := q.Accept(t.Context(), request); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", when, err, want)
		}
	}
	bad := requestOf("alice", "a.example")
	bad.Input = nil
	if err := q.Accept(t.Context(), bad); err == nil {
		t.Error("a bad row: got no error")
	}
	for range 2 { // the bad one doesn't count
		q.accept(t, requestOf("alice", "a.example"))
	}
	refuses("before a sample", requestOf("alice", "a.example"), ErrDestinationQuota)
	q.quota.sample(t.Context())
	refuses("after a sample", requestOf("alice", "a.example"), ErrDestinationQuota)
	q.accept(t, requestOf("alice", "b.example"))
	refuses("all of alice's", requestOf("alice", "c.example"), ErrClientQuota)
	if err := q.Admit("alice"); !errors.Is(err, ErrClientQuota) || q.Left("alice") != 0 {
		t.Errorf("Admit: got %v with %d left, want %v with none", err, q.Left("alice"), ErrClientQuota)
	}
	q.accept(t, requestOf("bob", "a.example"))
	q.exec(t, "UPDATE river_job SET state = 'completed', finalized_at = now() WHERE id = (SELECT min(id) FROM river_job)")
	q.quota.sample(t.Context())
	q.accept(t, requestOf("alice", "a.example"))
	refuses("full again", requestOf("alice", "a.example"), ErrClientQuota)
	q.backlog.limit = 4
	q.backlog.sample(t.Context())
	refuses("full in all", requestOf("bob", "a.example"), ErrBacklog)
	if got := q.Left("bob"); got != 2 {
		t.Errorf("bob, refused for the sake of all: got %d left, want 2", got)
	}
}
