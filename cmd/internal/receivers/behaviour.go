package receivers

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Behaviour is how a receiver behaves.
type Behaviour uint8

// The behaviours there are: to add a behaviour, name it here and say in answer what it does.
const (
	OK         Behaviour = iota // takes every callback, and knows of nothing but POST
	Granting                    // takes every callback, and grants any rate when it is asked
	Slow                        // takes a callback after SlowDelay
	Flaky                       // answers 500 at first, and takes the second attempt
	Shaky                       // resets the connection at first, and takes the second attempt
	Hang                        // answers nothing for HangTime, and then resets the connection
	Reset                       // resets the connection
	Failing                     // answers 500
	Refusing                    // doesn't listen
	Gone                        // answers 410
	Behaviours                  // how many there are
)

// How long receivers take that take long.
const (
	SlowDelay = 2 * time.Second
	HangTime  = 30 * time.Second // three times as long as the service waits
)

var names = [Behaviours]string{"ok", "granting", "slow", "flaky", "shaky", "hang", "reset", "failing", "refusing", "gone"}

func (b Behaviour) String() string { return names[b] }

// Parse returns the behaviour of a name.
func Parse(name string) (Behaviour, error) {
	for b := range Behaviours {
		if b.String() == name {
			return b, nil
		}
	}
	return 0, fmt.Errorf("%s: want %s", name, strings.Join(names[:], ", "))
}

// Delivers tells whether a receiver takes callbacks in the end.
func (b Behaviour) Delivers() bool { return b <= Shaky }

// IsPrompt tells whether a receiver takes each callback at once, so that the time until
// then is the service's alone.
func (b Behaviour) IsPrompt() bool { return b <= Granting }

// MayBePending tells whether a service may take its time with a receiver: one that fails
// or is slow is called less and less often.
func (b Behaviour) MayBePending() bool { return b.Delivers() && !b.IsPrompt() }

// answer returns a status, or 0 for a broken connection. earlier is how many attempts
// there were before. What takes long ends when closing is closed.
func (b Behaviour) answer(earlier int, closing <-chan struct{}) (status int) {
	switch {
	case b == Slow:
		wait(SlowDelay, closing)
	case b == Hang:
		wait(HangTime, closing)
		return 0
	case b == Reset, b == Shaky && earlier == 0:
		return 0
	case b == Failing, b == Flaky && earlier == 0:
		return http.StatusInternalServerError
	case b == Gone:
		return http.StatusGone
	}
	return http.StatusOK
}

func wait(duration time.Duration, closing <-chan struct{}) {
	timer := time.NewTimer(duration)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-closing:
	}
}
