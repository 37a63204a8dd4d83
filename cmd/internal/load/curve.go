package load

import (
	"errors"
	"iter"
	"math"
	"math/rand/v2"
	"time"
)

// Profile names a rate curve. Its rates are multiples of -rate, the calm rate.
type Profile struct {
	Name     string
	Duration time.Duration // of sending, unless Config.Length says otherwise
	Meaning  string
	curve    func(rate float64, duration time.Duration) curve
}

// Profiles returns all profiles, the default first.
func Profiles() []Profile {
	return []Profile{
		{"steady", 20 * time.Second, "the rate, throughout", steadyCurve},
		{"ramp", time.Minute, "from nothing up to the rate, in a straight line", func(rate float64, duration time.Duration) curve {
			return curve{{duration, 0, rate}}
		}},
		{"spike", 30 * time.Second, "the rate, ten times of it for two seconds in the middle, the rate again", surge(10, 2*time.Second)},
		{"storm", 30 * time.Second, "the rate, five times of it for ten seconds in the middle, the rate again", surge(5, 10*time.Second)},
		{"soak", 30 * time.Minute, "the rate, for long", steadyCurve},
	}
}

func steadyCurve(rate float64, duration time.Duration) curve {
	return curve{{duration, rate, rate}}
}

// surge is a calm rate with a multiple of that rate in the middle, for a third of the time at
// most, so that even a short run shows the time before and after.
func surge(multiple float64, length time.Duration) func(float64, time.Duration) curve {
	return func(rate float64, duration time.Duration) curve {
		length := min(length, duration/3)
		before := (duration - length) / 2
		return curve{
			{before, rate, rate},
			{length, multiple * rate, multiple * rate},
			{duration - length - before, rate, rate},
		}
	}
}

func (p Profile) String() string { return p.Name }

// ParseProfile finds a profile by its name.
func ParseProfile(text string) (Profile, error) {
	for _, profile := range Profiles() {
		if profile.Name == text {
			return profile, nil
		}
	}
	return Profile{}, errors.New("want steady, ramp, spike, storm or soak")
}

// stretch is a part of a rate curve, in which the rate changes linearly.
type stretch struct {
	length   time.Duration
	from, to float64 // requests a second
}

// requests is how many requests are due within the stretch.
func (s stretch) requests() float64 { return (s.from + s.to) / 2 * s.length.Seconds() }

// reach returns the time from the start of the stretch until the number of requests is due.
func (s stretch) reach(requests float64) time.Duration {
	slope := (s.to - s.from) / s.length.Seconds()
	// The root of slope/2 t² + from t = requests, in the form that divides by
	// nothing when the slope or the first rate is zero.
	root := math.Sqrt(max(0, s.from*s.from+2*slope*requests))
	if s.from+root == 0 {
		return 0
	}
	return time.Duration(2 * requests / (s.from + root) * float64(time.Second))
}

// curve is the rate over time.
type curve []stretch

func (c curve) requests() float64 {
	total := 0.0
	for _, stretch := range c {
		total += stretch.requests()
	}
	return total
}

// peak is the highest rate, a second.
func (c curve) peak() float64 {
	highest := 0.0
	for _, stretch := range c {
		highest = max(highest, stretch.from, stretch.to)
	}
	return highest
}

// arrivals yields each request's number and when the request is due, since the start of
// sending. Every call yields the same.
func (c Config) arrivals() iter.Seq2[int, time.Duration] {
	return func(yield func(int, time.Duration) bool) {
		gap := func() float64 { return 1 } // to the next request, in requests
		number, position := 0, 0.0
		if c.Arrivals == "poisson" { // independent arrivals, not evenly spaced
			gap = rand.New(rand.NewPCG(c.Seed, 0)).ExpFloat64
			position = gap()
		}
		var start time.Duration
		end := 0.0 // of the stretch, in requests since the start
		for _, stretch := range c.curve() {
			begin := end
			end += stretch.requests()
			// A request that rounding alone moves across an edge stays out.
			for ; position < end-1e-6; number++ {
				if !yield(number, start+stretch.reach(position-begin)) {
					return
				}
				position += gap()
			}
			start += stretch.length
		}
	}
}

// total is how many requests a run makes, at most.
func (c Config) total() int {
	if c.Requests > 0 {
		return c.Requests
	}
	total := 0
	for range c.arrivals() {
		total++
	}
	return total
}
