package jobs

import (
	"math/rand/v2"
	"time"
)

// retrySchedule is the wait after each failed attempt: 11 attempts over about 42 hours.
// Its first steps forgive a restart, its last steps an outage of a day. (Svix tries for
// 27.6 h, Hookdeck Outpost 8.5 h, Convoy 15 min.)
var retrySchedule = [...]time.Duration{
	1 * time.Second, 5 * time.Second, 30 * time.Second,
	2 * time.Minute, 10 * time.Minute, 30 * time.Minute,
	2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 24 * time.Hour,
}

// maxCallbackAge is the longest that a callback is tried: a receiver that asks to come later,
// and a postponed callback, charge no attempt. It counts from the end of the work, or from the latest redelivery.
const maxCallbackAge = 48 * time.Hour

// retryDelay returns how long to wait after the given failed attempt, counted from 1, and
// false after the last attempt. The jitter of ±20 % keeps callbacks that failed together
// from coming back together. It depends on the job and the attempt alone, so that the log
// and the queue name the same time.
func retryDelay(jobID int64, attempt int) (time.Duration, bool) {
	if attempt > len(retrySchedule) {
		return 0, false
	}
	return jitter(retrySchedule[attempt-1], 0.8, 1.2, drawFor(jobID, attempt)), true
}

// drawFor is a number from 0 to 1, the same for the same attempt of a job.
func drawFor(jobID int64, attempt int) float64 {
	return rand.New(rand.NewPCG(uint64(jobID), uint64(attempt))).Float64()
}

// longestThrottle is the most that a Retry-After postpones a callback, its jitter
// included.
const longestThrottle = 24 * time.Hour

// throttleDelay returns how long to wait when a receiver said Retry-After. It is never less than
// that, up to ten elevenths of longestThrottle. It is a little more, so that callbacks that were
// sent away together don't come back together.
func throttleDelay(retryAfter time.Duration) time.Duration {
	return min(longestThrottle, jitter(min(retryAfter, longestThrottle*10/11), 1, 1.1, rand.Float64()))
}

// throttleFloor is the least wait after a receiver has throttled a callback the
// given number of times. A receiver that says "in a second" forever is asked less and
// less often.
func throttleFloor(earlier int) time.Duration {
	return min(time.Second<<min(earlier, 11), 30*time.Minute)
}

// workFloor is throttleFloor for a service that does work. It is the operator's own, so
// requests should not wait long once it takes them again.
func workFloor(earlier int) time.Duration {
	return min(throttleFloor(earlier), 10*time.Minute)
}

// faultDelay returns how long to wait where a step failed because the database was away.
func faultDelay() time.Duration {
	return jitter(2*time.Second, 0.5, 1.5, rand.Float64())
}

// jitter scales d by a factor from low to high, as draw goes from 0 to 1.
func jitter(d time.Duration, low, high, draw float64) time.Duration {
	return time.Duration(float64(d) * (low + draw*(high-low)))
}
