package load

import (
	"cmp"
	"slices"
	"strconv"
)

// orderingKey returns the ordering key of an async request, empty in a run without keys.
func (c Config) orderingKey(number int) string {
	if c.OrderingKeys == 0 {
		return ""
	}
	return "storm-" + strconv.Itoa(c.Mix.asyncs(number)%c.OrderingKeys)
}

// checkOrder marks the requests that were called back too late, key by key.
func (l *ledger) checkOrder(config Config) {
	turns := make(map[string][]*request)
	for number := range l.requests {
		if request := &l.requests[number]; request.isAsync && request.outcome == ok && request.taken > 0 {
			key := config.orderingKey(number)
			turns[key] = append(turns[key], request)
		}
	}
	for _, turns := range turns {
		markLate(turns)
	}
}

// markLate marks the requests of a key that were called back after a request that had to
// follow: a request with a higher sequence, or a request that left after this one was
// acknowledged. Requests that were under way together are ordered by the sequence alone.
func markLate(turns []*request) {
	slices.SortStableFunc(turns, func(a, b *request) int { return cmp.Compare(a.at+a.called, b.at+b.called) })
	var lastLeft micros    // of those called back so far
	var lastSequence int64 // likewise
	for _, turn := range turns {
		if turn.at+turn.took < lastLeft || turn.sequence != 0 && turn.sequence < lastSequence {
			turn.flags |= wrongOrder
		}
		lastLeft, lastSequence = max(lastLeft, turn.at+turn.left), max(lastSequence, turn.sequence)
	}
}
