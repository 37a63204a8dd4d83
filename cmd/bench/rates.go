package main

import (
	"fmt"
	"time"

	"ringback/cmd/internal/load"
)

// rates asks how long a request waits for its acknowledgement and for its callback, and at
// which cost, at rates that the service can keep up with.
func rates(s *measurement) {
	const margin = 500 * time.Millisecond // before the end, so that requests are sent all the time
	for _, rate := range []float64{200, 500, 1000} {
		s.scene(fmt.Sprintf("at %v/s", rate), func(s *measurement) {
			on := s.fresh("rate")
			config := s.atRate(on, rate)
			running := s.launch(config)
			s.Pause(config.Warmup)
			used := s.usageFor(config.Length-config.Warmup-margin, on, running)
			told := s.wait(running)
			s.sampled("acknowledgement", told.Async.Latency)
			s.sampled("time to a callback", told.Async.TimeToCallback)
			s.addRate(rate, told, used)
		})
	}
}

func (b *bench) addRate(rate float64, told *load.Report, used usage) {
	at := fmt.Sprintf("_at_%v", rate)
	b.add("ack_p50_ms"+at, told.Async.Latency.P50)
	b.add("ack_p99_ms"+at, told.Async.Latency.P99)
	b.add("ttc_p50_ms"+at, told.Async.TimeToCallback.P50)
	b.add("ttc_p99_ms"+at, told.Async.TimeToCallback.P99)
	b.addCPU("cpu_us"+at, used, used.accepted)
}

// timing asks how long a request waits for its callback at half of the rate at saturation.
func timing(s *measurement) {
	half := s.halfRate()
	s.scene("at half of the rate at saturation", func(s *measurement) {
		took := s.timeToCallback(s.fresh("ttc"), half)
		s.add("ttc_rate_per_s", half)
		s.add("ttc_p50_ms", took.P50)
		s.add("ttc_p99_ms", took.P99)
	})
}

// ordinary asks how much longer a callback takes to an ordinary receiver that is known
// than to a receiver that the operator allowed.
func ordinary(s *measurement) {
	const rate = 1000
	var p99 [2]float64
	for i, name := range []string{"ordinary", "allowed"} {
		s.scene("to a receiver that is "+name, func(s *measurement) {
			on := s.fresh("ordinary")
			if name == "allowed" {
				s.ringback(on.rows, "--dev", "receiver", "allow", "127.0.0.1")
			}
			p99[i] = s.timeToCallback(on, rate).P99
			s.add("ordinary_ttc_p99_ms_"+name, p99[i])
		})
	}
	s.add("ordinary_ratio", p99[0]/p99[1])
}
