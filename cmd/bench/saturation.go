package main

import (
	"errors"
	"fmt"
	"time"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/program"
	"ringback/cmd/internal/receivers"
)

// accept asks how many POST /async a server acknowledges per second, without workers and
// callbacks.
func accept(s *measurement) {
	s.scene("accepting", func(s *measurement) {
		on := s.start(s.accepting(), s.database("accept", ""))
		config := s.loop(on, unbounded, 64, 0)
		config.Receivers = load.AllOf(receivers.Refusing)
		// The time is so short that the requests stay below UNFINISHED_LIMIT.
		used := s.steadily(on, config, time.Second, min(4*time.Second, s.saturated))
		s.add("accept_per_s_64", used.accepted/used.seconds)
	})
}

const (
	before = "before" // the variant of an earlier commit
	// beforeHandOver is the last commit whose jobs all waited for River to fetch them.
	beforeHandOver = "2e258fb9023d451809e3e48e97637def0738fa29"
)

// buildBefore returns the variant of the earlier commit. Where the clone doesn't hold that
// commit, the comparison is left out.
func (s *measurement) buildBefore(repository string) (v variant, found bool) {
	if s.against == "" {
		return v, false
	}
	s.say("building the server of %.12s, to compare with", s.against)
	path, err := program.BuildEarlier(s.Ctx, repository, s.against, s.Folder())
	if errors.Is(err, program.ErrNoCommit) {
		s.say("e2e_ratio_before is left out: this clone doesn't hold the commit %s (-against)", s.against)
		return v, false
	}
	s.Must(err)
	return variant{name: before, program: path, flags: []string{"--dev"}}, true
}

// endToEnd asks how many requests per second go from accepted to delivered, and at which cost
// each. River alone works two jobs for each request, as Ringback does.
func endToEnd(s *measurement) {
	earlier, hasEarlier := s.buildBefore(".")
	rounds(func(s *measurement) {
		rate := s.saturateOurs()
		if hasEarlier {
			used := s.saturateFresh(earlier)
			s.addUsage(used, "_"+before)
			s.add("e2e_ratio_before", rate/used.rate())
		}
		s.add("e2e_ratio_river", rate/s.riverAlone())
	})(s)
}

func (s *measurement) saturateFresh(v variant) (used usage) {
	s.scene(v.name, func(s *measurement) { used = s.saturate(v, s.database("e2e", ""), 0) })
	return used
}

func (s *measurement) saturateOurs() (rate float64) {
	used := s.saturateFresh(s.ours())
	s.addUsage(used, "")
	return used.rate()
}

// halfRate is half of the rate at saturation. It measures that rate where that isn't done yet.
func (s *measurement) halfRate() float64 {
	if len(s.figures["e2e_per_s"]) == 0 {
		s.saturateOurs()
	}
	return median(s.figures["e2e_per_s"]) / 2
}

// addUsage adds figures whose keys end in suffix.
func (s *measurement) addUsage(used usage, suffix string) {
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

// ordered asks what ordering keys cost: the end of each callback releases the next of its key.
func ordered(s *measurement) {
	var rates [2]float64
	for i, keys := range []int{0, 1000} {
		s.scene(fmt.Sprintf("with %d keys", keys), func(s *measurement) {
			rates[i] = s.saturate(s.ours(), s.database("ordered", ""), keys).rate()
		})
	}
	s.add("ordered_ratio", rates[1]/rates[0])
}

// backlog asks how fast requests that were accepted without a worker are delivered once
// there is a worker.
func backlog(s *measurement) {
	const (
		requests = 100_000
		patience = time.Minute // a slow service needn't deliver all
	)
	s.scene("backlog", func(s *measurement) {
		d := s.database("backlog", "")
		var running *running
		s.scene("accepting", func(inner *measurement) {
			on := inner.start(s.accepting(), d, fmt.Sprintf("UNFINISHED_LIMIT=%d", 2*requests))
			config := s.loop(on, requests, senders, 0)
			config.Drain = queueTimeout
			running = s.launch(config)
			s.await(running, requests)
		})
		s.checkpoint()
		s.start(s.ours(), d)
		start := time.Now()
		delivered := func() int { return running.now().Delivered }
		for delivered() < requests && time.Since(start) < patience {
			s.Pause(10 * time.Millisecond)
		}
		s.add("backlog_per_s", float64(delivered())/time.Since(start).Seconds())
	})
}
