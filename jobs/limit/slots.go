package limit

// Slots are what may be in use at a time: places to work in, callbacks in flight,
// bytes in memory. Clients share them by dynamic thresholds (Choudhury and Hahne,
// IEEE/ACM Transactions on Networking 6, 1998): no client has more than four times
// as many as are free. So one alone gets four fifths of many, two get four ninths
// each, and some are left for the next one who comes, however long the others keep
// theirs.
type Slots struct {
	count, taken int
	shared       bool
	of           map[string]int // taken, by client
}

// NewSlots returns so many slots. A client may have all of them unless clients
// share them.
func NewSlots(count int, shared bool) Slots {
	return Slots{count: count, shared: shared, of: map[string]int{}}
}

// Room tells whether a client may have n more.
func (s *Slots) Room(client string, n int) bool {
	free := s.Free() - (n - 1)
	return free > 0 && (!s.shared || s.of[client]+n-1 < 4*free)
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

// Release gives n slots back.
func (s *Slots) Release(client string, n int) {
	s.taken -= n
	if s.of[client] -= n; s.of[client] == 0 {
		delete(s.of, client)
	}
}

// Free is how many nobody has.
func (s *Slots) Free() int { return max(0, s.count-s.taken) }

// Taken is how many are in use.
func (s *Slots) Taken() int { return s.taken }

// Of is how many a client has.
func (s *Slots) Of(client string) int { return s.of[client] }
