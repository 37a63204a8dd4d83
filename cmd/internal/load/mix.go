package load

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"ringback/cmd/internal/receivers"
)

// Mix is the share of each endpoint.
type Mix struct{ Sync, Async int }

// asyncs is how many of the first requests are async: the shares are exact and
// interleaved as evenly as can be.
func (m Mix) asyncs(requests int) int { return requests * m.Async / (m.Sync + m.Async) }

func (m Mix) isAsync(number int) bool { return m.asyncs(number+1) > m.asyncs(number) }

func (m Mix) String() string {
	return "sync=" + strconv.Itoa(m.Sync) + ",async=" + strconv.Itoa(m.Async)
}

// ParseMix reads shares in String's form.
func ParseMix(text string) (mix Mix, err error) {
	err = eachShare(text, func(name string, share int) error {
		switch name {
		case "sync":
			mix.Sync = share
		case "async":
			mix.Async = share
		default:
			return fmt.Errorf("%s: want sync or async", name)
		}
		return nil
	})
	if err == nil && mix == (Mix{}) {
		err = errors.New("want a share above 0")
	}
	return mix, err
}

func eachShare(text string, f func(name string, share int) error) error {
	return EachPair(text, func(name, value string) error {
		share, err := strconv.Atoi(value)
		if err != nil || share < 0 || share > 1000 {
			return fmt.Errorf("%s: want a whole number from 0 to 1000", name)
		}
		return f(name, share)
	})
}

// Shares is how the callbacks are shared out among receivers, by their behaviour.
type Shares [receivers.Behaviours]int

// AllOf gives all callbacks to receivers of one behaviour.
func AllOf(behaviour receivers.Behaviour) (all Shares) {
	all[behaviour] = 1
	return all
}

func (s Shares) String() string {
	var parts []string
	for b := range receivers.Behaviours {
		if s[b] > 0 {
			parts = append(parts, fmt.Sprintf("%v=%d", b, s[b]))
		}
	}
	return strings.Join(parts, ",")
}

func (s Shares) total() int {
	total := 0
	for _, share := range s {
		total += share
	}
	return total
}

// draw picks a behaviour with the probability of its share.
func (s Shares) draw(random *rand.Rand) receivers.Behaviour {
	at := random.IntN(s.total())
	for b := range receivers.Behaviours {
		if at < s[b] {
			return b
		}
		at -= s[b]
	}
	return receivers.OK
}

// ParseShares reads shares in String's form.
func ParseShares(text string) (shares Shares, err error) {
	err = eachShare(text, func(name string, share int) error {
		behaviour, err := receivers.Parse(name)
		shares[behaviour] = share
		return err
	})
	if err == nil && shares.total() == 0 {
		err = errors.New("want a share above 0")
	}
	return shares, err
}
