package limit

import (
	"context"
	"slices"
	"testing"
	"time"

	"ringback/internal/bubble"
)

func aSecond(Queue) time.Duration { return time.Second }

func TestGate(t *testing.T) {
	t.Parallel()

	t.Run("KeepsTheTurnThatComesAtTheLastInstant", func(t *testing.T) {
		t.Parallel()
		g := NewGate(NewSlots(1, false), NewestFirst, "all", "own")
		if waits, _ := g.join(&waiter{client: "a"}, aSecond, morning); waits {
			t.Fatal("the first has to wait")
		}
		w := &waiter{client: "a"}
		g.join(w, aSecond, morning)
		g.Leave("a")
		if !g.giveUp(w) {
			t.Error("its turn came before it gave up, and the slot is lost")
		}
		refused := &waiter{client: "a"}
		g.join(refused, aSecond, morning)
		g.join(&waiter{client: "a"}, aSecond, morning)
		if g.giveUp(refused) {
			t.Error("it was refused before it gave up, and has a slot")
		}
	})

	t.Run("TellsWhetherAllAreTakenOrAShare", func(t *testing.T) {
		t.Parallel()
		g := NewGate(NewHalves(4, true), OldestFirst, "all", "own")
		atOnce := func(Queue) time.Duration { return 0 }
		for _, test := range []struct {
			client string
			want   Decision
		}{
			{"a", Decision{}},
			{"a", Decision{}},
			{"a", Decision{Reason: "own", Most: 2}},
			{"b", Decision{}},
			{"c", Decision{}},
			{"c", Decision{Reason: "all"}},
		} {
			if got := g.Enter(t.Context(), test.client, atOnce); got != test.want {
				t.Errorf("%s: got %+v, want %+v", test.client, got, test.want)
			}
		}
		if taken, waiting := g.Counts(); taken != 4 || waiting != 0 || g.Share() != 2 {
			t.Errorf("got %d taken, %d waiting and a share of %d, want 4, none and 2", taken, waiting, g.Share())
		}
	})

	t.Run("LeavesTheLastSlotToOthersThatCameLately", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			atOnce := func(Queue) time.Duration { return 0 }
			takeAll := func(g *Gate, client string) (got int) {
				for g.Enter(t.Context(), client, atOnce).OK() {
					got++
				}
				return got
			}
			g := NewGate(NewSlots(2, true), OldestFirst, "all", "own")
			if got := takeAll(g, "alone"); got != 2 {
				t.Fatalf("nobody else: got %d, want both", got)
			}
			g.Enter(t.Context(), "other", atOnce)
			g.Leave("alone")
			if got := takeAll(g, "alone"); got != 0 {
				t.Errorf("beside another: got the last slot, too")
			}
			if got := takeAll(g, "other"); got != 1 {
				t.Errorf("the other: got %d, want the slot that was left", got)
			}
			g.Leave("other")
			time.Sleep(lately)
			if got := takeAll(g, "alone"); got != 1 {
				t.Errorf("a minute later: got %d, want the last slot again", got)
			}
			g = NewGate(NewSlots(64, true), OldestFirst, "all", "own")
			g.Enter(t.Context(), "fourth", atOnce)
			g.Leave("fourth")
			for _, client := range []string{"first", "second", "third", "fourth"} {
				if takeAll(g, client) == 0 {
					t.Errorf("%s, after others that took all they got: got none", client)
				}
			}
		})
	})

	t.Run("SaysWhoWaits", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			g := NewGate(NewSlots(1, false), OldestFirst, "all", "own")
			enter := func(client string) (seen Queue) {
				go g.Enter(t.Context(), client, func(queue Queue) time.Duration { seen = queue; return time.Second })
				bubble.Wait()
				return seen
			}
			enter("a")
			enter("a")
			time.Sleep(time.Millisecond)
			enter("b")
			time.Sleep(time.Millisecond)
			if got, want := enter("b"), (Queue{All: 2, Own: 1, Stands: 2 * time.Millisecond}); got != want || g.Waiting("b") != 2 {
				t.Errorf("got %+v and then %d of b, want %+v and 2", got, g.Waiting("b"), want)
			}
			time.Sleep(time.Minute)
			if got := g.Waiting("b"); got != 0 || len(g.of) != 0 {
				t.Errorf("afterwards: got %d of b waiting, and %v", got, g.of)
			}
		})
	})

	t.Run("LetsTheHurriedGoFirst", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			g := NewGate(NewSlots(1, false), OldestFirst, "all", "own")
			var order []string
			come := func(name string, enter func(context.Context, string, func(Queue) time.Duration) Decision) (seen Queue) {
				go func() {
					if enter(t.Context(), name, func(queue Queue) time.Duration { seen = queue; return time.Second }).OK() {
						order = append(order, name)
					}
				}()
				bubble.Wait()
				return seen
			}
			come("running", g.Enter)
			come("job", g.Enter)
			come("first", g.Hurry)
			come("job", g.Enter)
			if got, want := come("second", g.Hurry), (Queue{All: 1}); got != want {
				t.Errorf("the second hurried: got %+v, want %+v", got, want)
			}
			if got, want := come("first", g.Hurry), (Queue{All: 2, Own: 1}); got != want {
				t.Errorf("another of the first's: got %+v, want %+v", got, want)
			}
			if got, want := come("job", g.Enter), (Queue{All: 5, Own: 2}); got != want {
				t.Errorf("a job: got %+v, want %+v", got, want)
			}
			for i := range 6 {
				g.Leave(order[i])
				bubble.Wait()
			}
			if want := []string{"running", "first", "second", "first", "job", "job", "job"}; !slices.Equal(order, want) {
				t.Errorf("got %q, want %q", order, want)
			}
		})
	})
}
