package main

import "slices"

// scenario is a group of measurements that can be run alone. A new scenario is a line in
// scenarios, and a file.
type scenario struct {
	name string // as -only takes it
	what string
	long bool // left out of a short run
	run  func(*measurement)
}

func scenarios() []scenario {
	return []scenario{
		{"accept", "accept through HTTP, no workers", false, rounds(accept)},
		{"e2e", "accepted to delivered, at saturation", false, endToEnd},
		{"ordered", "with ordering keys, against without", false, rounds(ordered)},
		{"rates", "acknowledgement, callback and CPU at fixed rates", false, rounds(rates)},
		{"timing", "callback at half of the rate at saturation", false, rounds(timing)},
		{"storm", "more than the capacity", false, rounds(storm)},
		{"broken", "callbacks to others while thousands to a broken receiver are queued", true, rounds(broken)},
		{"attacks", "answers and callbacks of one client while another attacks it", false, rounds(underAttack)},
		{"ordinary", "callbacks to an ordinary receiver, against a receiver that the operator allowed", false, rounds(ordinary)},
		{"backlog", "requests accepted before the first worker starts", true, rounds(backlog)},
		{"upstream", "work that an HTTP service does, which is there, away, or takes its time", false, rounds(upstream)},
		{"snapshot", "beside a transaction that has read and stays open", false, rounds(snapshot)},
		{"growth", "with finished requests in the table", true, growth},
		{"retention", "while old requests are removed", true, retention},
	}
}

// rounds measures for every repetition. measure lets the variants take turns, so that other
// activity of the machine affects all variants.
func rounds(measure func(*measurement)) func(*measurement) {
	return func(s *measurement) {
		for range s.repeat {
			measure(s)
		}
	}
}

// runScenarios runs the wanted scenarios, each on a stage of its own.
func (s *measurement) runScenarios(all []scenario) {
	for _, scenario := range all {
		switch {
		case len(s.only) > 0 && !slices.Contains(s.only, scenario.name):
		case scenario.long && s.short:
			s.say("%s: left out", scenario.name)
		default:
			s.say("%s: %s", scenario.name, scenario.what)
			s.scene("measuring "+scenario.name, scenario.run)
		}
	}
}
