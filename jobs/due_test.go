package jobs

import (
	"testing"
	"time"

	"ringback/db"
	"ringback/jobs/clients"
	"ringback/jobs/flow"
	"ringback/jobs/limit"
)

func TestDueTimesOfAClientAreSpread(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 27, 4, 0, 0, 0, time.UTC)
	q := &quotas{limits: limited(clients.Limits{Rate: 50})}

	t.Run("TheRestIsDueInTheTenthsOfASecondAfter", func(t *testing.T) {
		wanted, in := now.Add(time.Hour+300*time.Millisecond), map[time.Time]int{}
		for range 10_000 {
			in[q.dueAt("hostile", wanted, now)]++
		}
		for tenth := range 1000 {
			if at := wanted.Add(time.Duration(tenth) * aTenth); in[at] != 10 {
				t.Errorf("due %d tenths of a second after the wanted time: got %d, want 10, at twice the rate of 50", tenth, in[at])
			}
		}
	})
	t.Run("WorkForNearbyTimesSharesTheRate", func(t *testing.T) {
		wanted := now.Add(time.Hour + 50*time.Second)
		if got, want := q.dueAt("hostile", wanted, now), wanted.Add(50*time.Second+300*time.Millisecond); !got.Equal(want) {
			t.Errorf("got %v, want %v, the first tenth with room", got, want)
		}
	})
	t.Run("OtherClientsAndOtherTimesAreOnTime", func(t *testing.T) {
		for client, wanted := range map[string]time.Time{"honest": now.Add(time.Hour), "hostile": now.Add(2 * time.Hour)} {
			if got := q.dueAt(client, wanted, now); !got.Equal(wanted) {
				t.Errorf("%s: got %v, want %v", client, got, wanted)
			}
		}
	})
	t.Run("WorkForAtOnceStaysSo", func(t *testing.T) {
		if got := q.dueAt("hostile", time.Time{}, now); !got.IsZero() {
			t.Errorf("got %v, want no time", got)
		}
		if got := (*quotas)(nil).dueAt("local", now, now); !got.Equal(now) {
			t.Errorf("without limits: got %v, want the wanted time", got)
		}
	})
	t.Run("TimesThatAreOverTakeNoMemory", func(t *testing.T) {
		q := &quotas{limits: limited(clients.Limits{Rate: 50})}
		for second := range 20 * leastDue {
			at := now.Add(time.Duration(second) * time.Second)
			q.dueAt("honest", at.Add(time.Second), at)
		}
		if got := len(q.due["honest"].tenths); got > leastDue+1 {
			t.Errorf("got %d tenths in memory, want %d at most", got, leastDue+1)
		}
	})
	t.Run("ClientsWithNothingDueTakeNoMemory", func(t *testing.T) {
		q := &quotas{limits: limited(clients.Limits{Rate: 50})}
		q.dueAt("quiet", now.Add(time.Second), now)
		for range leastDue {
			q.dueAt("honest", now.Add(time.Hour), now.Add(time.Minute))
		}
		if q.due["quiet"] != nil {
			t.Error("a client whose last second is over is still in memory")
		}
	})
	// As by requests that are cancelled in another process.
	t.Run("TimesThatAreNotOwedTakeNoMemory", func(t *testing.T) {
		const unfinished = 100
		q := &quotas{limits: limited(clients.Limits{Rate: 1, Unfinished: unfinished})}
		q.dueAt("honest", now.Add(time.Hour), now)
		for n := range 20 * leastDue {
			apart, together := now.Add(time.Duration(n)*time.Hour), now.Add(720*time.Hour)
			q.dueAt("scattered", apart, now)
			if got := q.dueAt("heaped", together, now).Sub(together); got > unfinished*aTenth {
				t.Fatalf("due %v later, want a search of %d tenths at most", got, unfinished)
			}
		}
		for client, a := range q.due {
			if a.count > 2*unfinished || len(a.tenths) > a.count {
				t.Errorf("%s: got %d requests in %d tenths, want at most twice the %d that it may have unfinished", client, a.count, len(a.tenths), unfinished)
			}
		}
		if q.due["honest"].count != 1 {
			t.Error("another client's time was dropped")
		}
	})
}

func TestWorkOfAClientThatExpiresAtOneMomentComesBackInTurn(t *testing.T) {
	t.Parallel()
	q := newQueue(t, nil)
	q.quotas = newQuotas(Config{Pool: q.direct, Limits: limited(clients.Limits{Rate: 50})})
	expires := time.Now().Add(time.Minute)
	waits := func(client string) time.Duration {
		request := db.Request{Client: client, ExpiresAt: expires}
		return q.runner.waitOf(t.Context(), request, limit.Decision{Reason: flow.WorkSlots, RetryAt: expires.Add(time.Hour)})
	}
	in := map[int]int{} // by the second after that moment
	for range 1000 {
		in[int((time.Now().Add(waits("hostile")).Sub(expires)+aTenth/2)/time.Second)]++
	}
	for second := range 10 { // the clock may go on between a wait and its time
		if got := in[second]; got < 90 || got > 110 {
			t.Errorf("back %d s after the moment: got %d, want about twice the rate of 50", second, got)
		}
	}
	if late := time.Now().Add(waits("honest")).Sub(expires); late > time.Second/2 {
		t.Errorf("another client's is back %v after the moment, want then", late)
	}
}

func TestDueTimesOfRequestsThatAreNotOwedAreGivenBack(t *testing.T) {
	t.Parallel()
	wanted := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	later := func() db.Request {
		request := newRequest("http://127.0.0.1:9/")
		request.RunAt = wanted
		return request
	}
	bounded := func(t *testing.T) *testQueue {
		q := newQueue(t, nil)
		q.quotas = newQuotas(Config{Pool: q.direct, Limits: limited(clients.Limits{Rate: 1})})
		return q
	}
	wantNone := func(t *testing.T, q *testQueue) {
		t.Helper()
		if a := q.quotas.due["alice"]; a.count != 0 || len(a.tenths) != 0 {
			t.Errorf("got %d requests in %d tenths in memory, want none", a.count, len(a.tenths))
		}
	}

	t.Run("OfCancelledRequests", func(t *testing.T) {
		t.Parallel()
		q := bounded(t)
		for range 2 * dueBurst {
			request := later()
			q.accept(t, request)
			if got := q.cancel(t, "alice", request.ID); !got.RunAt.Equal(wanted) {
				t.Fatalf("got a request that was due at %v, want %v", got.RunAt, wanted)
			}
		}
		wantNone(t, q)
	})
	t.Run("OfReplayedRequests", func(t *testing.T) {
		t.Parallel()
		q := bounded(t)
		first := later()
		for n := range 2 * dueBurst {
			call := keyed("key", 1)
			if call.request = later(); n == 0 {
				call.request = first
			}
			call.key.RequestID = call.request.ID
			if holder, err := q.AcceptOnce(t.Context(), call.request, call.key); err != nil || holder.Held != (n > 0) {
				t.Fatalf("call %d: got %+v, %v", n+1, holder, err)
			}
		}
		q.cancel(t, "alice", first.ID)
		wantNone(t, q)
	})
	t.Run("OfRequestsThatAreNotAccepted", func(t *testing.T) {
		t.Parallel()
		q := bounded(t)
		request := later()
		q.accept(t, request)
		if err := q.Accept(t.Context(), request); err == nil {
			t.Fatal("a second request of the same id was accepted")
		}
		q.cancel(t, "alice", request.ID)
		wantNone(t, q)
	})
}
