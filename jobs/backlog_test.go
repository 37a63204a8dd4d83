package jobs

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"ringback/db/dbtest"
	"ringback/internal/bubble"
	"ringback/jobs/clients"
)

// admits is how many more requests a backlog lets in, up to most.
func admits(b *backlog, most int) (count int) {
	for count < most && b.enter(0) == nil {
		b.entered(true)
		count++
	}
	return count
}

func answers(context.Context) error { return nil }

func TestBacklog(t *testing.T) {
	t.Parallel()
	const limit = 10
	counting := func(count int64) *backlog {
		return &backlog{limit: limit, ping: answers, count: func(context.Context, int64) (int64, error) { return count, nil }}
	}

	t.Run("AdmitsBelowItsLimit", func(t *testing.T) {
		t.Parallel()
		for unfinished, want := range map[int64]int{0: 10, 7: 3, 9: 1, 10: 0, 11: 0} {
			b := counting(unfinished)
			b.sample(t.Context())
			if got := admits(b, 2*limit); got != want {
				t.Errorf("%d unfinished: got %d admitted, want %d", unfinished, got, want)
			}
			if err := b.admit(0); !errors.Is(err, refusedBy(Backlog)) {
				t.Errorf("at the limit: got %v, want %v", err, Backlog)
			}
		}
	})

	t.Run("GivesBackWhatLeaves", func(t *testing.T) {
		t.Parallel()
		b := counting(0)
		admits(b, limit-2)
		for range 2 {
			if err := b.enter(0); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			b.entered(false)
		}
		if got := admits(b, limit); got != 2 {
			t.Errorf("after two left: got %d admitted, want 2", got)
		}
	})

	t.Run("CountsOnceWhatTheSampleHolds", func(t *testing.T) {
		t.Parallel()
		b := counting(4)
		admits(b, 4)
		b.sample(t.Context())
		if got := admits(b, 2*limit); got != 6 {
			t.Errorf("with 4 accepted and in the sample: got %d admitted, want 6", got)
		}
	})

	t.Run("CountsWhatIsWrittenAfterTheSample", func(t *testing.T) {
		t.Parallel()
		b := counting(0)
		if err := b.enter(0); err != nil {
			t.Fatal(err)
		}
		b.sample(t.Context())
		b.entered(true)
		if got := admits(b, 2*limit); got != 9 {
			t.Errorf("with 1 request whose commit ended after the sample: got %d admitted, want 9", got)
		}
	})

	t.Run("CountsWhatEntersDuringTheSample", func(t *testing.T) {
		t.Parallel()
		b := counting(0)
		b.count = func(context.Context, int64) (int64, error) { return 0, b.enter(0) }
		b.sample(t.Context())
		if got := admits(b, 2*limit); got != 9 {
			t.Errorf("with 1 request that the sample may have missed: got %d admitted, want 9", got)
		}
	})

	t.Run("KeepsTheLastSampleWhenThereIsNoNewOne", func(t *testing.T) {
		t.Parallel()
		b := counting(9)
		b.sample(t.Context())
		b.count = func(context.Context, int64) (int64, error) { return 0, errors.New("no permission") }
		b.sample(t.Context())
		if got := admits(b, 2*limit); got != 1 {
			t.Errorf("got %d admitted, want 1", got)
		}
	})

	t.Run("WithoutALimitAdmitsAll", func(t *testing.T) {
		t.Parallel()
		b := &backlog{ping: answers, count: func(context.Context, int64) (int64, error) { return 1 << 40, nil }}
		b.sample(t.Context())
		if got := admits(b, 1000); got != 1000 {
			t.Errorf("got %d admitted, want all", got)
		}
	})

	// The sleeps are the fake clock's.
	for name, test := range map[string]struct {
		count time.Duration // how long a count takes
		after time.Duration
		want  int64
	}{
		"EverySecond":               {0, 2500 * time.Millisecond, 3},
		"LessOftenWhereItTakesLong": {200 * time.Millisecond, 8 * time.Second, 2}, // at 0 s and 4.2 s
	} {
		t.Run("IsSampled"+name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				var samples atomic.Int64
				b := &backlog{ping: answers, count: func(context.Context, int64) (int64, error) {
					time.Sleep(test.count)
					return samples.Add(1), nil
				}}
				ctx, cancel := context.WithCancel(t.Context())
				defer bubble.Wait()
				defer cancel()
				go b.watch(ctx)
				time.Sleep(test.after)
				if got := samples.Load(); got != test.want {
					t.Errorf("after %v: got %d samples, want %d", test.after, got, test.want)
				}
			})
		})
	}

	t.Run("IsAwayWhenTheDatabaseFallsSilentInACount", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			silent := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
			b := &backlog{ping: answers}
			b.count = func(ctx context.Context, _ int64) (int64, error) {
				b.ping = silent
				return 0, silent(ctx)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer bubble.Wait()
			defer cancel()
			go b.watch(ctx)
			time.Sleep(sampleTimeout + backlogInterval + awayAfter + time.Millisecond)
			if err := b.admit(0); !errors.Is(err, ErrAway) {
				t.Errorf("got %v, want %v", err, ErrAway)
			}
		})
	})

	t.Run("IsAwayAfterTwoSecondsOfSilence", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			var hangs atomic.Bool
			b := &backlog{count: func(context.Context, int64) (int64, error) { return 0, nil }, ping: func(ctx context.Context) error {
				if hangs.Load() {
					<-ctx.Done()
				}
				return ctx.Err()
			}}
			ctx, cancel := context.WithCancel(t.Context())
			defer bubble.Wait()
			defer cancel()
			go b.watch(ctx)
			time.Sleep(500 * time.Millisecond)
			hangs.Store(true)
			time.Sleep(500*time.Millisecond + awayAfter - time.Millisecond)
			if err := b.admit(0); err != nil {
				t.Errorf("shortly before: got %v, want admission", err)
			}
			time.Sleep(2 * time.Millisecond)
			if err := b.enter(0); !errors.Is(err, ErrAway) {
				t.Errorf("after it: got %v, want %v", err, ErrAway)
			}
			hangs.Store(false)
			time.Sleep(backlogInterval)
			if err := b.admit(0); err != nil {
				t.Errorf("when it answers again: got %v, want admission", err)
			}
		})
	})
}

func TestQueueBacklog(t *testing.T) {
	t.Parallel()

	t.Run("RefusesBeyondTheUnfinished", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		q.backlog.limit = 3
		refuses := func(when string) {
			t.Helper()
			if err := q.Admit("alice"); !errors.Is(err, refusedBy(Backlog)) {
				t.Errorf("%s: Admit: got %v, want %v", when, err, Backlog)
			}
			if err := q.Accept(t.Context(), newRequest("http://127.0.0.1:9/")); !errors.Is(err, refusedBy(Backlog)) {
				t.Errorf("%s: Accept: got %v, want %v", when, err, Backlog)
			}
		}
		bad := newRequest("")
		if err := q.Accept(t.Context(), bad); err == nil {
			t.Error("a bad row: got no error")
		}
		for range 3 { // the bad row doesn't count
			q.accept(t, newRequest("http://127.0.0.1:9/"))
		}
		refuses("before a sample")
		q.backlog.sample(t.Context())
		refuses("after a sample")
		q.exec(t, "UPDATE river_job SET state = 'completed', finalized_at = now() WHERE id = (SELECT min(id) FROM river_job)")
		refuses("before the next sample")
		q.backlog.sample(t.Context())
		q.accept(t, newRequest("http://127.0.0.1:9/"))
		refuses("full again")
	})

	t.Run("LeavesRoomForTheNextClientInEveryProcess", func(t *testing.T) {
		t.Parallel()
		const greedy, each, total = 10, 10, 100
		url := dbtest.New(t)
		open := func() *testQueue {
			q := newQueueAt(t, url, url, nil)
			q.backlog.limit = total
			q.quotas = newQuotas(Config{Pool: q.direct, Limits: limited(clients.Limits{Unfinished: each})})
			return q
		}
		first, second := open(), open()
		accepts := func(q *testQueue, client string, most int) (accepted int) {
			for _, q := range []*testQueue{first, second} {
				q.backlog.sample(t.Context())
				q.quotas.sampleUnfinished(t.Context())
			}
			for accepted < most {
				request := newRequest("http://127.0.0.1:9/")
				request.Client = client
				err := q.Accept(t.Context(), request)
				if errors.Is(err, refusedBy(Backlog)) || errors.Is(err, refusedBy(UnfinishedQuota)) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				accepted++
			}
			return accepted
		}
		all := 0
		for n := range greedy {
			all += accepts(first, fmt.Sprint("greedy", n), total)
		}
		if all < 9*total/10 {
			t.Errorf("got %d accepted of greedy clients, want most of %d", all, total)
		}
		if got := accepts(first, "alice", 1); got != 1 {
			t.Error("alice isn't accepted beside them")
		}
		if got := accepts(second, "bob", 1); got != 1 {
			t.Error("bob isn't accepted beside them, in another process")
		}
		if got := accepts(second, "bob", total); all+2+got > total {
			t.Errorf("got %d accepted in all, want at most %d", all+2+got, total)
		}
		second.exec(t, "UPDATE river_job SET state = 'completed', finalized_at = now() WHERE id = (SELECT min(id) FROM river_job)")
		if got := accepts(second, "greedy0", 1); got != 0 {
			t.Error("a greedy client gets the room that became free")
		}
		if got := accepts(second, "carol", 1); got != 1 {
			t.Error("carol doesn't get it")
		}
	})

	for name, takeAway := range map[string]func(*dbtest.Proxy){"Down": (*dbtest.Proxy).Refuse, "Silent": (*dbtest.Proxy).Freeze} {
		t.Run("IsAwayWhileTheDatabaseIs"+name, func(t *testing.T) {
			t.Parallel()
			url := dbtest.New(t)
			proxy, through := dbtest.NewProxy(t, url)
			q := newQueueAt(t, url, through, nil)
			q.start(t)
			q.accept(t, newRequest("http://127.0.0.1:9/"))
			takeAway(proxy)
			waitUntil(t, func() bool { return errors.Is(q.Ready(), ErrAway) })
			if err := q.Admit("alice"); !errors.Is(err, ErrAway) {
				t.Errorf("Admit: got %v, want %v", err, ErrAway)
			}
			if err := q.Accept(t.Context(), newRequest("http://127.0.0.1:9/")); !errors.Is(err, ErrAway) {
				t.Errorf("Accept: got %v, want %v at once", err, ErrAway)
			}
			proxy.Pass()
			waitUntil(t, func() bool { return q.Ready() == nil })
			acceptAgain(t, q)
		})
	}
}

// acceptAgain accepts as soon as the queue admits again.
func acceptAgain(t *testing.T, q *testQueue) {
	t.Helper()
	untilInTime(t, func() error { return q.Accept(t.Context(), newRequest("http://127.0.0.1:9/")) })
}

// waitUntil returns when condition is true.
func waitUntil(t *testing.T, condition func() bool) {
	t.Helper()
	timeout := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatal("waited in vain")
		}
	}
}
