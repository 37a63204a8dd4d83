package limit

// Slots bound what is in use at a time: runs, callbacks in flight, bytes in memory.
// Clients share them by dynamic thresholds (Choudhury and Hahne, IEEE/ACM Transactions on
// Networking 6, 1998): no client has more than four times as many as are free. So a
// single client gets four fifths of many slots, and two get four ninths each. The next
// client finds some, however long other clients keep their slots.
type Slots struct {
	count, taken int
	times        int            // a client's most, as a multiple of the free slots; 0 for all slots
	of           map[string]int // slots taken, by client
}

// fair is a client's most, as a multiple of the free slots.
const fair = 4

// NewSlots returns count slots. A client may have all of them unless clients share them.
func NewSlots(count int, shared bool) Slots { return newSlots(count, shared, fair) }

// NewHalves returns slots that are few: a client may have no more than are free, so a
// single client leaves half of them.
func NewHalves(count int, shared bool) Slots { return newSlots(count, shared, 1) }

func newSlots(count int, shared bool, times int) Slots {
	if !shared {
		times = 0
	}
	return Slots{count: count, times: times, of: map[string]int{}}
}

// Fair tells whether a client that holds some slots may have another, with so many free.
// It is the rule of NewSlots, for callers that count elsewhere.
func Fair(held, free int) bool { return free > 0 && held < fair*free }

// FairShare is the most slots that a client may have of those that other clients leave. Of two
// or more, it leaves one at least.
func FairShare(left int) int { return max(1, left*fair/(fair+1)) }

// Room tells whether a client may have n more slots.
func (s *Slots) Room(client string, n int) bool {
	free := s.Free() - (n - 1)
	return free > 0 && (s.times == 0 || s.of[client]+n-1 < s.times*free)
}

// Take takes n slots for a client, which Release gives back, if it may have them.
func (s *Slots) Take(client string, n int) bool {
	if !s.Room(client, n) {
		return false
	}
	s.taken += n
	s.of[client] += n
	return true
}

// Decide is Take with a reason: all where fewer than n slots are free, and own where the client
// has its share.
func (s *Slots) Decide(client string, n int, all, own Reason) Decision {
	switch {
	case s.Take(client, n):
		return Decision{}
	case s.Free() < n:
		return Decision{Reason: all}
	}
	return Decision{Reason: own, Most: int64(s.of[client])}
}

// Release gives n slots back.
func (s *Slots) Release(client string, n int) {
	s.taken -= n
	if s.of[client] -= n; s.of[client] == 0 {
		delete(s.of, client)
	}
}

// Free is how many slots are free.
func (s *Slots) Free() int { return max(0, s.count-s.taken) }

// Taken is how many slots are in use.
func (s *Slots) Taken() int { return s.taken }

// Of is how many slots a client has.
func (s *Slots) Of(client string) int { return s.of[client] }

// Share is how many slots a client alone may have.
func (s *Slots) Share() int {
	if s.times == 0 {
		return s.count
	}
	return (s.count + 1) * s.times / (s.times + 1)
}

// Greatest is the client that has the most slots, "" where no slot is taken.
func (s *Slots) Greatest() (client string) {
	for candidate, taken := range s.of {
		if taken > s.of[client] {
			client = candidate
		}
	}
	return client
}
