package main

// kind is how a receiver behaves.
type kind uint8

const (
	kindOK    kind = iota
	kindSlow       // takes a callback after two seconds
	kindFlaky      // answers 500 at first and takes the second attempt
	kindHang       // never answers
	kindReset      // resets the connection
	kindGone       // answers 410
	kinds
)

func (k kind) String() string {
	return [...]string{"ok", "slow", "flaky", "hang", "reset", "gone"}[k]
}

// delivers tells whether a receiver of this kind takes callbacks in the end.
func (k kind) delivers() bool { return k <= kindFlaky }
