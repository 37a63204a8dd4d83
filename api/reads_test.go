package api

import (
	"context"
	"slices"
	"testing"
	"time"

	"ringback/internal/bubble"
	"ringback/jobs/limit"
)

// TestReads shares few connections among many reads.
func TestReads(t *testing.T) {
	t.Parallel()

	t.Run("OfOneClientLeaveHalfOfTheConnections", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			r := newReads(4, true)
			wantEntered(t, r, "alice", "alice")
			wantRefused(t, r, "alice", "quota-exceeded", concurrentReadPolicy)
			wantEntered(t, r, "bob", "carol")
			wantRefused(t, r, "carol", "temporary-reduced-capacity")
		})
	})

	t.Run("OfTheOnlyClientTakeAll", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			r := newReads(5, false)
			wantEntered(t, r, slices.Repeat([]string{"local"}, 5)...)
			wantRefused(t, r, "local", "temporary-reduced-capacity")
		})
	})

	t.Run("OfEachClientTakeTurns", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			r := newReads(2, true)
			leaves := wantEntered(t, r, "alice", "bob")
			order := make(chan string, 4)
			for _, client := range []string{"alice", "alice", "alice", "carol"} {
				go func() {
					if leave, err := enterReads(t.Context(), r, client); err == nil {
						order <- client
						time.Sleep(time.Millisecond)
						leave()
					}
				}()
				bubble.Wait()
			}
			leaves[1]() // a slot of bob's, which alice may not take
			bubble.Wait()
			leaves[0]()
			for _, want := range []string{"carol", "alice", "alice", "alice"} {
				if got := <-order; got != want {
					t.Errorf("got %s, want %s", got, want)
				}
			}
			time.Sleep(time.Second) // the last read leaves
		})
	})

	t.Run("EndToWaitWithTheCall", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			r := newReads(2, true)
			leaves := wantEntered(t, r, "alice", "bob")
			ctx, cancel := context.WithCancel(t.Context())
			for _, client := range []string{"alice", "carol"} {
				go func() {
					if _, err := enterReads(ctx, r, client); err == nil {
						t.Errorf("%s: got in, want no turn", client)
					}
				}()
			}
			bubble.Wait()
			cancel()
			bubble.Wait()
			for _, leave := range leaves {
				leave()
			}
			wantEntered(t, r, "carol", "alice") // nothing is lost
		})
	})
}

func wantEntered(t *testing.T, r *limit.Gate, clients ...string) (leaves []func()) {
	t.Helper()
	for _, client := range clients {
		start := time.Now()
		leave, err := enterReads(t.Context(), r, client)
		if err != nil || time.Since(start) != 0 {
			t.Fatalf("%s: got %v after %s, want a slot at once", client, err, time.Since(start))
		}
		leaves = append(leaves, leave)
	}
	return leaves
}

func wantRefused(t *testing.T, r *limit.Gate, client, name string, policies ...string) {
	t.Helper()
	start := time.Now()
	_, err := enterReads(t.Context(), r, client)
	if err == nil {
		t.Fatalf("%s: got a turn, want none", client)
	}
	if got := problemOf(err); got.name != name || !slices.Equal(got.ViolatedPolicies, policies) {
		t.Errorf("%s: got %v of %q, want %s of %q", client, err, got.ViolatedPolicies, name, policies)
	}
	if waited := time.Since(start); waited != readPatience {
		t.Errorf("%s: refused after %s, want after %s", client, waited, readPatience)
	}
}

func enterReads(ctx context.Context, r *limit.Gate, client string) (leave func(), err error) {
	err = r.Enter(ctx, client, func(limit.Queue) time.Duration { return readPatience }).Err()
	return func() { r.Leave(client) }, err
}
