package load

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"ringback/cmd/internal/receivers"
)

// Mix is the share of each endpoint.
type Mix struct{ Sync, Async int }

// asyncs is how many of the first requests are async: the shares are exact, and interleaved
// evenly.
func (m Mix) asyncs(requests int) int { return requests * m.Async / (m.Sync + m.Async) }

func (m Mix) isAsync(number int) bool { return m.asyncs(number+1) > m.asyncs(number) }

func (m Mix) String() string {
	return "sync=" + strconv.Itoa(m.Sync) + ",async=" + strconv.Itoa(m.Async)
}

// ParseMix reads shares in String's form.
func ParseMix(text string) (Mix, error) {
	shares, err := parseShares(text, []string{"sync", "async"})
	return Mix{shares[0], shares[1]}, err
}

// parseShares reads the shares of names, and returns them in the order of the names.
func parseShares(text string, names []string) (shares []int, err error) {
	shares = make([]int, len(names))
	total := 0
	err = EachPair(text, func(name, value string) error {
		share, err := strconv.Atoi(value)
		place := slices.Index(names, name)
		switch {
		case place < 0:
			return fmt.Errorf("%s: want %s", name, strings.Join(names, ", "))
		case err != nil || share < 0 || share > 1000:
			return fmt.Errorf("%s: want a whole number from 0 to 1000", name)
		}
		shares[place] = share
		total += share
		return nil
	})
	if err == nil && total == 0 {
		err = errors.New("want a share above 0")
	}
	return shares, err
}

// Pick draws the index of a share, with the probability of the share.
func Pick(random *rand.Rand, shares ...int) int {
	total := 0
	for _, share := range shares {
		total += share
	}
	left := random.IntN(total)
	for i, share := range shares {
		if left -= share; left < 0 {
			return i
		}
	}
	return 0
}

// Shares is how the callbacks are shared out among receivers, by behaviour.
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

// ParseShares reads shares in String's form.
func ParseShares(text string) (shares Shares, err error) {
	var names []string
	for b := range receivers.Behaviours {
		names = append(names, b.String())
	}
	read, err := parseShares(text, names)
	copy(shares[:], read)
	return shares, err
}
