package receivers

import (
	"fmt"
	"net/http"
	"time"
)

// Behaviour is how a receiver behaves.
type Behaviour uint8

// The behaviours. A new behaviour is named here, and has a row in described. If it refuses
// connections or answers OPTIONS, it also needs a case in receiver.go.
const (
	OK Behaviour = iota
	Granting
	Slow
	Flaky
	Shaky
	Hang
	Reset
	Failing
	Refusing
	Gone
	Behaviours // how many behaviours there are
)

// Delays of slow receivers.
const (
	SlowDelay = 2 * time.Second
	HangTime  = 30 * time.Second // three times as long as the service waits
)

// takes tells which callbacks a receiver takes, that is, answers with 2xx.
type takes uint8

const (
	nothing  takes = iota
	atLast         // each callback in the end; the service may postpone callbacks
	promptly       // each callback at once; the time to a callback is the service's alone
)

// described has a row for each behaviour. answer returns a status, or 0 for a broken connection.
// earlier counts the attempts before. A wait ends when closing is closed.
var described = [Behaviours]struct {
	name, does string
	takes      takes
	answer     func(earlier int, closing <-chan struct{}) (status int)
}{
	OK:       {"ok", "", promptly, always(http.StatusOK)},
	Granting: {"granting", "ok, and grants any rate when asked", promptly, always(http.StatusOK)},
	Slow:     {"slow", fmt.Sprintf("takes %v", SlowDelay), atLast, after(SlowDelay, http.StatusOK)},
	Flaky:    {"flaky", "500 at first", atLast, first(http.StatusInternalServerError)},
	Shaky:    {"shaky", "breaks the connection at first", atLast, first(0)},
	Hang:     {"hang", "never answers", nothing, after(HangTime, 0)},
	Reset:    {"reset", "breaks the connection", nothing, always(0)},
	Failing:  {"failing", "500", nothing, always(http.StatusInternalServerError)},
	Refusing: {"refusing", "doesn't listen", nothing, always(0)},
	Gone:     {"gone", "410", nothing, always(http.StatusGone)},
}

func always(status int) func(int, <-chan struct{}) int {
	return func(int, <-chan struct{}) int { return status }
}

// first answers the first attempt with status, and takes later attempts.
func first(status int) func(int, <-chan struct{}) int {
	return func(earlier int, _ <-chan struct{}) int {
		if earlier == 0 {
			return status
		}
		return http.StatusOK
	}
}

func after(delay time.Duration, status int) func(int, <-chan struct{}) int {
	return func(_ int, closing <-chan struct{}) int {
		select {
		case <-time.After(delay):
		case <-closing:
		}
		return status
	}
}

func (b Behaviour) String() string { return described[b].name }

// Described lists the name of each behaviour and what it does, for a flag's help.
func Described() []string {
	var list []string
	for _, b := range described {
		entry := b.name
		if b.does != "" {
			entry += " (" + b.does + ")"
		}
		list = append(list, entry)
	}
	return list
}

// Delivers tells whether a receiver takes callbacks in the end.
func (b Behaviour) Delivers() bool { return described[b].takes != nothing }

// IsPrompt tells whether a receiver takes each callback at once.
func (b Behaviour) IsPrompt() bool { return described[b].takes == promptly }

// MayBePending tells whether callbacks may still be pending when a run ends: the service
// calls a receiver that fails or is slow less and less often.
func (b Behaviour) MayBePending() bool { return described[b].takes == atLast }

func (b Behaviour) answer(earlier int, closing <-chan struct{}) (status int) {
	return described[b].answer(earlier, closing)
}
