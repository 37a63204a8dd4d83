package api

// gate lets a bounded number of calls through at a time and refuses the rest
// at once.
type gate chan struct{}

// enter returns a problem when the gate is full; otherwise leave must follow.
func (g gate) enter() error {
	select {
	case g <- struct{}{}:
		return nil
	default:
		return newProblem("temporary-reduced-capacity", "Too many requests are under way. Nothing was accepted; try again.")
	}
}

func (g gate) leave() { <-g }
