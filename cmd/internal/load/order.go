package load

import (
	"cmp"
	"slices"
	"strconv"
)

// orderingKey returns the ordering key of an async request, empty in a run without keys.
func (c Config) orderingKey(slot int) string {
	if c.OrderingKeys == 0 {
		return ""
	}
	return "storm-" + strconv.Itoa(slot%c.OrderingKeys)
}

// turn is a delivery in the order of its ordering key.
type turn struct {
	slot     int
	left     micros // all since the start of sending
	acked    micros
	called   micros
	sequence int64 // 0 where the callback told none
}

// checkOrder marks the slots that were called back after a request of the same key that
// had to follow: a request with a higher sequence, or a request that left after this one
// was acknowledged. Requests that were under way together are ordered by the sequence
// alone.
func (l *ledger) checkOrder(keys int) {
	turns := make([][]turn, keys)
	for number := range l.entries {
		entry := &l.entries[number]
		if entry.outcome != ok || !l.mix.isAsync(number) {
			continue
		}
		index := l.mix.asyncs(number)
		if slot := &l.slots[index]; slot.taken > 0 {
			turns[index%keys] = append(turns[index%keys],
				turn{index, entry.at + entry.left, entry.at + entry.took, slot.called, l.sequences[index]})
		}
	}
	for _, turns := range turns {
		for _, index := range outOfOrder(turns) {
			l.slots[index].flags |= wrongOrder
		}
	}
}

// outOfOrder returns the slots which were called back too late: a later
// request of the same key overtook them.
func outOfOrder(turns []turn) []int {
	slices.SortStableFunc(turns, func(a, b turn) int { return cmp.Compare(a.called, b.called) })
	var late []int
	var lastLeft micros    // of those called back so far
	var lastSequence int64 // likewise
	for _, turn := range turns {
		overtaken := turn.acked < lastLeft || turn.sequence != 0 && turn.sequence < lastSequence
		if overtaken {
			late = append(late, turn.slot)
		}
		lastLeft, lastSequence = max(lastLeft, turn.left), max(lastSequence, turn.sequence)
	}
	return late
}
