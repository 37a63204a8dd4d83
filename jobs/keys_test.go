package jobs

import (
	"testing"
	"time"

	"ringback/db"
)

// keyed is a call with a key. Every byte of its fingerprint is the given byte.
func keyed(key string, fingerprint byte) acceptance {
	request := newRequest("http://127.0.0.1:9/")
	call := acceptance{request, db.Key{
		Client: request.Client, Key: key, RequestID: request.ID,
		HeldUntil: time.Now().Add(time.Minute), ExpiresAt: time.Now().Add(time.Hour),
	}}
	for i := range call.key.Fingerprint {
		call.key.Fingerprint[i] = fingerprint
	}
	return call
}

func TestKeys(t *testing.T) {
	t.Parallel()

	t.Run("OfOneBatchGoToTheFirstOfEqualOnes", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		batch := []acceptance{keyed("b", 1), {request: newRequest("http://127.0.0.1:9/")}, keyed("a", 1), keyed("b", 1), keyed("a", 2)}
		holders, err := q.acceptAll(t.Context(), batch)
		if err != nil {
			t.Fatal(err)
		}
		for i, holder := range []int{-1, -1, -1, 0, 2} {
			want := db.Holder{}
			if holder >= 0 {
				want = db.Holder{Held: true, RequestID: batch[holder].request.ID, Fingerprint: batch[holder].key.Fingerprint}
			}
			if holders[i] != want {
				t.Errorf("call %d: got %+v, want %+v", i, holders[i], want)
			}
		}
		if !q.holds(t, "SELECT (SELECT count(*) FROM requests) = 3 AND (SELECT count(*) FROM river_job) = 3 AND (SELECT count(*) FROM idempotency_keys) = 2") {
			t.Error("want three requests with their jobs, and two keys")
		}
		q.wantNoOrphans(t)
	})

	t.Run("AreFreeAgainWhereTheRequestIsRefused", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		call := keyed("a", 1)
		call.request.Input = nil
		if _, err := q.AcceptOnce(t.Context(), call.request, call.key); err == nil {
			t.Error("a request without an input: got no error")
		}
		if !q.holds(t, "SELECT NOT EXISTS (SELECT FROM idempotency_keys)") {
			t.Error("its key is taken")
		}
	})

	t.Run("LeaveWhenTheyHaveExpiredAFewAtATime", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, nil)
		now := time.Now()
		for i, key := range []string{"a", "b", "c", "d"} {
			call := keyed(key, 1)
			call.key.ExpiresAt = now.Add(time.Duration(i-2) * time.Minute) // two before now, one at now, one after
			if _, err := q.AcceptOnce(t.Context(), call.request, call.key); err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range []int{2, 1, 0} {
			if got, err := db.DropKeys(t.Context(), q.direct, now, 2); err != nil || got != want {
				t.Errorf("got %d, %v, want %d", got, err, want)
			}
		}
		if !q.holds(t, "SELECT array_agg(key) = '{d}' FROM idempotency_keys") {
			t.Error("want only the valid key left")
		}
	})
}
