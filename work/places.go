package work

// Places are where works run, so many at a time. Clients share them by dynamic
// thresholds (Choudhury and Hahne, IEEE/ACM Transactions on Networking 6, 1998):
// no client has more than four times as many as are free. So one alone gets four
// fifths of many, two get four ninths each, and some are left for whoever comes
// next, however long the works of the others take.
//
// Only one goroutine at a time may use them.
type Places struct {
	free   int
	shared bool
	of     map[string]int // taken, by client
}

// NewPlaces returns so many places, which are all there for everybody unless
// clients share them.
func NewPlaces(count int, shared bool) Places {
	return Places{free: count, shared: shared, of: map[string]int{}}
}

// Take takes a place for a client, which Leave gives back, if it may have one.
func (p *Places) Take(client string) bool {
	if p.free == 0 || p.shared && p.of[client] >= 4*p.free {
		return false
	}
	p.free--
	p.of[client]++
	return true
}

// Leave gives a place back.
func (p *Places) Leave(client string) {
	p.free++
	if p.of[client]--; p.of[client] == 0 {
		delete(p.of, client)
	}
}

// Free is how many there are for clients that have none.
func (p *Places) Free() int { return p.free }
