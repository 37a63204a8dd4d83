package load

import (
	"math"
	"slices"
	"testing"
	"time"

	"ringback/cmd/internal/receivers"
)

func TestProfiles(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]map[time.Duration]float64{ // rates at moments of half a minute, calm at 100/s
		"steady": {0: 100, 15 * time.Second: 100, 29 * time.Second: 100},
		"ramp":   {time.Second: 5, 15 * time.Second: 51.7, 29 * time.Second: 98.3},
		"spike":  {13 * time.Second: 100, 14 * time.Second: 1000, 15 * time.Second: 1000, 16 * time.Second: 100},
		"storm":  {9 * time.Second: 100, 10 * time.Second: 500, 19 * time.Second: 500, 20 * time.Second: 100},
		"soak":   {0: 100, 29 * time.Second: 100},
	} {
		profile, err := ParseProfile(name)
		if err != nil {
			t.Fatal(err)
		}
		config := Config{Profile: profile, Rate: 100, Length: 30 * time.Second}
		counts := make(map[time.Duration]int) // by second
		for _, at := range config.arrivals() {
			counts[at.Truncate(time.Second)]++
		}
		for at, want := range want {
			if got := float64(counts[at]); math.Abs(got-want) > 1.5 {
				t.Errorf("%s: got %v requests in the second after %v, want %v", name, got, at, want)
			}
		}
	}
}

func TestArrivals(t *testing.T) {
	t.Parallel()

	t.Run("constant ones are evenly spaced", func(t *testing.T) {
		t.Parallel()
		at := times(Config{Profile: Profiles()[0], Rate: 4, Length: time.Second})
		if want := []time.Duration{0, 250 * time.Millisecond, 500 * time.Millisecond, 750 * time.Millisecond}; !slices.Equal(at, want) {
			t.Errorf("got %v, want %v", at, want)
		}
	})

	t.Run("Poisson ones vary as much as they should", func(t *testing.T) {
		t.Parallel()
		at := times(Config{Profile: Profiles()[0], Rate: 1000, Length: 20 * time.Second, Arrivals: "poisson", Seed: 1})
		if !slices.IsSorted(at) {
			t.Error("not in order")
		}
		if got := float64(len(at)); math.Abs(got-20_000) > 4*math.Sqrt(20_000) {
			t.Errorf("got %v arrivals, want 20000 and a few more or less", got)
		}
		// The gaps of a Poisson process deviate by as much as they are long.
		if mean, deviation := gaps(at); math.Abs(deviation/mean-1) > 0.05 {
			t.Errorf("gaps deviate by %v of their mean, want 1", deviation/mean)
		}
	})

	t.Run("the same seed gives the same ones", func(t *testing.T) {
		t.Parallel()
		config := Config{Profile: Profile{curve: surge(5, time.Second)}, Rate: 100, Length: 3 * time.Second, Arrivals: "poisson"}
		seeded := func(seed uint64) []time.Duration {
			config.Seed = seed
			return times(config)
		}
		first, again := seeded(7), seeded(7)
		other := seeded(8)
		if !slices.Equal(first, again) || slices.Equal(first, other) {
			t.Errorf("got %d, %d and %d arrivals, want the first two alike and the third not", len(first), len(again), len(other))
		}
	})
}

func times(c Config) []time.Duration {
	var all []time.Duration
	for _, at := range c.arrivals() {
		all = append(all, at)
	}
	return all
}

// gaps returns the mean distance between neighbours, and its deviation.
func gaps(at []time.Duration) (mean, deviation float64) {
	mean = at[len(at)-1].Seconds() / float64(len(at)-1)
	for i := 1; i < len(at); i++ {
		deviation += math.Pow((at[i]-at[i-1]).Seconds()-mean, 2)
	}
	return mean, math.Sqrt(deviation / float64(len(at)-1))
}

func TestSharesAreReadAsTheyAreShown(t *testing.T) {
	t.Parallel()
	for b := range receivers.Behaviours {
		want := AllOf(b)
		if got, err := ParseShares(want.String()); err != nil || got != want {
			t.Errorf("%s: got %s, %v", want, got, err)
		}
	}
	if got, err := ParseMix("async=70,sync=30"); err != nil || got != (Mix{Sync: 30, Async: 70}) {
		t.Errorf("the mix: got %+v, %v", got, err)
	}
	for _, text := range []string{"nice=1", "ok=0", "ok=-1", "ok=1001", "ok", "ok=1,ok=2"} {
		if got, err := ParseShares(text); err == nil {
			t.Errorf("%s: got %s, want an error", text, got)
		}
	}
}

func TestMixIsExact(t *testing.T) {
	t.Parallel()
	mix := Mix{Sync: 30, Async: 70}
	async := 0
	for number := range 1000 {
		if got := mix.asyncs(number); got != async {
			t.Fatalf("async requests before %d: got %d, want %d", number, got, async)
		}
		if mix.isAsync(number) {
			async++
		}
	}
	if async != 700 {
		t.Errorf("async requests of 1000: got %d, want 700", async)
	}
}
