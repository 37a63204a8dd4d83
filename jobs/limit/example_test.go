package limit_test

import (
	"fmt"
	"time"

	"ringback/jobs/limit"
)

// A rate says yes or when to come again. Its caller keeps a single time.
func ExampleRate_Decide() {
	rate := limit.Rate{PerSecond: 10, Burst: 2}
	now := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	var used time.Time
	for range 3 {
		var decision limit.Decision
		used, decision = rate.Decide(used, now, 1, "client_rate")
		fmt.Println(decision.OK(), decision.Reason, decision.RetryAt.Sub(now).Truncate(time.Millisecond) > 0)
	}
	// Output:
	// true  false
	// true  false
	// false client_rate true
}

// Clients share slots: none has more than four times as many as are free, so that the
// next client finds some.
func ExampleSlots() {
	slots := limit.NewSlots(64, true)
	taken := map[string]int{}
	for _, client := range []string{"acme", "zebra"} {
		for slots.Take(client, 1) {
			taken[client]++
		}
	}
	fmt.Println("acme:", taken["acme"], "zebra:", taken["zebra"], "free:", slots.Free())
	// Output: acme: 52 zebra: 10 free: 2
}
