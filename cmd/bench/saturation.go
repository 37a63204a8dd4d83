package main

import (
	"fmt"
	"path/filepath"
	"time"

	"ringback/cmd/internal/program"
	"ringback/cmd/internal/receivers"
	"ringback/cmd/internal/sample"
)

// accept asks how many POST /async a server acknowledges per second. No workers compete
// for the machine.
func accept(s *stage) {
	const connections = 64
	s.scene("accepting", func(s *stage) {
		on := s.start(s.accepting(), s.database("accept", ""))
		l := s.closed(receivers.OK, connections, 0) // nobody calls
		// So short that the requests stay below UNFINISHED_LIMIT.
		used := s.steadily(on, l, time.Second, min(4*time.Second, s.saturated), "/async", asyncBody(l.URL))
		s.add("accept_per_s_64", used.accepted/used.seconds)
	})
}

const (
	before = "before" // the variant that is Ringback at an earlier commit
	// beforeHandOver is the last commit whose jobs all waited for River to fetch them.
	beforeHandOver = "2e258fb9023d451809e3e48e97637def0738fa29"
)

// buildBefore returns the variant of the earlier commit. Where the clone doesn't hold that
// commit, the comparison is left out.
func (s *stage) buildBefore(repository string) (v variant, found bool) {
	if s.against == "" {
		return v, false
	}
	commit, err := program.FindCommit(s.ctx, repository, s.against)
	if err != nil {
		s.must(s.ctx.Err())
		s.say("e2e_ratio_before is left out: this clone doesn't hold the commit %s (-against)", s.against)
		return v, false
	}
	s.say("building the server of %.12s, to compare with", commit)
	path, err := program.BuildEarlier(s.ctx, repository, commit, filepath.Clean(s.folder()))
	s.must(err)
	return variant{name: before, program: path, flags: []string{"--dev"}}, true
}

// endToEnd asks how many requests per second go all the way, from accepted to delivered,
// and at which cost each. River alone works two jobs for each request, as many as
// Ringback.
func endToEnd(s *stage) {
	earlier, hasEarlier := s.buildBefore(".")
	rounds(func(s *stage) {
		rate := s.saturateOurs()
		if hasEarlier {
			used := s.saturateFresh(earlier)
			s.addUsage(used, "_"+before)
			s.add("e2e_ratio_before", rate/used.rate())
		}
		s.add("e2e_ratio_river", rate/s.riverAlone())
	})(s)
}

func (s *stage) saturateFresh(v variant) (used usage) {
	s.scene(v.name, func(s *stage) { used = s.saturate(v, s.database("e2e", ""), asyncBodies) })
	return used
}

func (s *stage) saturateOurs() (rate float64) {
	used := s.saturateFresh(s.ours())
	s.addUsage(used, "")
	return used.rate()
}

// halfRate is half of the rate at saturation, which is measured first where it isn't known
// yet.
func (s *stage) halfRate() float64 {
	if len(s.figures["e2e_per_s"]) == 0 {
		s.saturateOurs()
	}
	return median(s.figures["e2e_per_s"]) / 2
}

// addUsage adds figures whose keys end in suffix.
func (s *stage) addUsage(used usage, suffix string) {
	n := used.delivered
	s.add("e2e_per_s"+suffix, used.rate())
	s.add("sql_per_request"+suffix, used.statements/n)
	s.add("wal_bytes_per_request"+suffix, used.wal/n)
	for name, cpu := range map[string]float64{"server": used.server, "postgres": used.postgres, "generator": used.self} {
		if cpu > 0 {
			s.add("cpu_us_per_request_"+name+suffix, cpu/n)
		}
	}
	s.addCPU("cpu_us_at_saturation"+suffix, used, n)
}

// ordered asks what ordering keys cost: callbacks of a key leave one after the other, each
// released by the end of its predecessor.
func ordered(s *stage) {
	var rates [2]float64
	for i, bodies := range []bodies{asyncBodies, orderedBodies} {
		s.scene(fmt.Sprintf("with %d keys", i*orderingKeys), func(s *stage) {
			rates[i] = s.saturate(s.ours(), s.database("ordered", ""), bodies).rate()
		})
	}
	s.add("ordered_ratio", rates[1]/rates[0])
}

// orderingKeys is the number of ordering keys, where requests have one.
const orderingKeys = 1000

// orderedBodies are small requests, a body for each ordering key.
func orderedBodies(callbackURL string) (bodies [][]byte) {
	for n := range orderingKeys {
		input := sample.Input(fmt.Sprintf("ringback %055d", n), 0, 0)
		bodies = append(bodies, encodeBody(input, callbackURL, fmt.Sprintf("key-%d", n)))
	}
	return bodies
}

// backlog asks how fast requests that were accepted without a worker are delivered once
// there is a worker.
func backlog(s *stage) {
	const (
		requests = 100_000
		patience = time.Minute // a slow service needs not deliver all to show how slow it is
	)
	s.scene("backlog", func(s *stage) {
		d, l := s.database("backlog", ""), s.closed(receivers.OK, senders, 0)
		s.scene("accepting", func(s *stage) {
			on := s.start(s.accepting(), d, fmt.Sprintf("UNFINISHED_LIMIT=%d", 2*requests))
			s.must(l.Accept(s.ctx, requests, queueTimeout, on.URL+"/async", asyncBody(l.URL)))
		})
		s.checkpoint()
		s.start(s.ours(), d)
		start, before := time.Now(), l.Delivered.Load()
		for l.Delivered.Load() < l.Accepted.Load() && time.Since(start) < patience {
			s.pause(10 * time.Millisecond)
		}
		s.add("backlog_per_s", float64(l.Delivered.Load()-before)/time.Since(start).Seconds())
	})
}
