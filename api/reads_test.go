package api

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestReads shares few connections among many reads.
func TestReads(t *testing.T) {
	t.Parallel()

	t.Run("OfOneClientLeaveHalfOfTheConnections", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			r := newReads(5, 100)
			wantEntered(t, r, "alice", "alice")
			wantRefused(t, r, "alice", "quota-exceeded", concurrentReadPolicy)
			wantEntered(t, r, "bob", "bob", "carol")
			wantRefused(t, r, "carol", "temporary-reduced-capacity")
		})
	})

	t.Run("OfTheOnlyClientTakeAll", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			r := newReads(5, 0)
			wantEntered(t, r, slices.Repeat([]string{"local"}, 5)...)
			wantRefused(t, r, "local", "quota-exceeded", concurrentReadPolicy)
		})
	})

	t.Run("OfEachClientTakeTurns", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			r := newReads(2, 100)
			leaves := wantEntered(t, r, "alice", "bob")
			order := make(chan string, 4)
			for _, client := range []string{"alice", "alice", "alice", "carol"} {
				go func() {
					if leave, err := r.enter(t.Context(), client); err == nil {
						order <- client
						time.Sleep(time.Millisecond)
						leave()
					}
				}()
				synctest.Wait()
			}
			leaves[1]() // bob's, which none of alice's may take
			synctest.Wait()
			leaves[0]()
			for _, want := range []string{"carol", "alice", "alice", "alice"} {
				if got := <-order; got != want {
					t.Errorf("got %s, want %s", got, want)
				}
			}
			time.Sleep(time.Second) // the last one leaves
		})
	})

	t.Run("EndToWaitWithTheCall", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			r := newReads(2, 100)
			leaves := wantEntered(t, r, "alice", "bob")
			ctx, cancel := context.WithCancel(t.Context())
			for _, client := range []string{"alice", "carol"} {
				go func() {
					if _, err := r.enter(ctx, client); err == nil {
						t.Errorf("%s: got in, want no turn", client)
					}
				}()
			}
			synctest.Wait()
			cancel()
			synctest.Wait()
			for _, leave := range leaves {
				leave()
			}
			wantEntered(t, r, "carol", "alice") // nothing is lost
		})
	})
}

func wantEntered(t *testing.T, r *reads, clients ...string) (leaves []func()) {
	t.Helper()
	for _, client := range clients {
		start := time.Now()
		leave, err := r.enter(t.Context(), client)
		if err != nil || time.Since(start) != 0 {
			t.Fatalf("%s: got %v after %s, want a turn at once", client, err, time.Since(start))
		}
		leaves = append(leaves, leave)
	}
	return leaves
}

func wantRefused(t *testing.T, r *reads, client, name string, policies ...string) {
	t.Helper()
	start := time.Now()
	_, err := r.enter(t.Context(), client)
	var got *problem
	if !errors.As(err, &got) || got.name != name || !slices.Equal(got.ViolatedPolicies, policies) {
		t.Errorf("%s: got %v of %q, want %s of %q", client, err, got.ViolatedPolicies, name, policies)
	}
	if waited := time.Since(start); waited != readPatience {
		t.Errorf("%s: refused after %s, want after %s", client, waited, readPatience)
	}
}
