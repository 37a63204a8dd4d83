package limit

import (
	"math"
	"time"
)

// Rate is a rate limit, by the generic cell rate algorithm (ITU-T I.371). Its state is a
// single time, the theoretical arrival time (TAT): until then the rate is used up. The
// zero TAT is an unused limit.
type Rate struct {
	PerSecond float64 // 0 for no limit
	Burst     float64 // uses that may come at once after a pause, at least 1; a fraction of a use lets the next come so much sooner
}

// Interval is the time between two uses at the rate, 0 for no limit.
func (r Rate) Interval() time.Duration { return PerSecond(r.PerSecond) }

// PerSecond is the interval of a rate a second, 0 for no limit.
func PerSecond(rate float64) time.Duration {
	if rate == 0 {
		return 0
	}
	return time.Duration(float64(time.Second) / rate)
}

// FreeAt is when the next n uses may come. More uses than the burst may come after a pause that is
// longer by as many intervals.
func (r Rate) FreeAt(tat time.Time, n int) time.Time {
	return tat.Add(-time.Duration((r.Burst - float64(n)) * float64(r.Interval())))
}

// Room tells whether n uses may come now. More uses than the burst have no room.
func (r Rate) Room(tat, now time.Time, n int) bool {
	return r.PerSecond == 0 || float64(n) <= r.Burst && !r.FreeAt(tat, n).After(now)
}

// Spend returns the TAT after n uses that come now.
func (r Rate) Spend(tat, now time.Time, n int) time.Time {
	return Latest(tat, now).Add(time.Duration(n) * r.Interval())
}

// Decide admits a caller that counts as n uses now, and returns the new TAT. Or it refuses the
// caller for the reason, and leaves the TAT as it is.
func (r Rate) Decide(tat, now time.Time, n int, reason Reason) (time.Time, Decision) {
	if free := r.FreeAt(tat, n); free.After(now) {
		return tat, Decision{Reason: reason, RetryAt: free, Most: int64(r.PerSecond)}
	}
	return r.Spend(tat, now, n), Decision{}
}

// Left is how many uses may come now.
func (r Rate) Left(tat, now time.Time) int {
	if r.PerSecond == 0 || !tat.After(now) {
		return int(r.Burst)
	}
	return max(0, int(math.Floor(r.Burst-float64(tat.Sub(now))/float64(r.Interval()))))
}
