package load

import (
	"cmp"
	"slices"
	"strconv"
	"time"
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

// markLate marks the requests of a key that were called back too late: after a request with
// a higher sequence, or after a request that was sent when they were acknowledged already.
// Only the sequence orders requests that were under way together.
func markLate(turns []*request) {
	slices.SortStableFunc(turns, func(a, b *request) int { return cmp.Compare(a.at+a.called, b.at+b.called) })
	var lastSent time.Duration // of the requests that were called back so far
	var lastSequence int64     // likewise
	for _, turn := range turns {
		if turn.at+turn.took < lastSent || turn.sequence != 0 && turn.sequence < lastSequence {
			turn.flags |= wrongOrder
		}
		lastSent, lastSequence = max(lastSent, turn.at+turn.sendDelay), max(lastSequence, turn.sequence)
	}
}
