package main

import (
	"fmt"
	"time"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/program"
	"ringback/cmd/internal/sample"
)

// The load has the same two cores, so a storm of five times the cores' capacity would measure
// the load. Here the service's own limits set its capacity: 8 runs at a time, each of which
// takes 20 ms, nearly all of it waiting.
const (
	stormRuns       = 8 // at a time: 400 a second at most
	stormDelay      = 20 * time.Millisecond
	stormRounds     = 200
	stormUnfinished = 1000 // async requests
	stormMultiple   = 5    // of the capacity
)

// storm asks how the service does above its capacity: goodput, the latency of served and
// of refused requests, and memory.
func storm(s *measurement) {
	worst := map[string]float64{}
	for i, mode := range []string{"sync", "async"} {
		s.scene(mode, func(s *measurement) {
			on := s.fresh("storm", fmt.Sprintf("WORK_LIMIT=%d", stormRuns), fmt.Sprintf("UNFINISHED_LIMIT=%d", stormUnfinished))
			capacity := s.capacity(on, mode)
			config := s.atRate(on, stormMultiple*capacity)
			config.Mix = mixes[mode]
			config.Input = stormInputs()
			told := s.send(config).Endpoints()[i]
			s.add("capacity_"+mode+"_per_s", capacity)
			s.add("goodput_ratio_5x_"+mode, told.Goodput/capacity)
			for key, value := range map[string]float64{
				"served_p99_ms_5x":  s.sampled("served request", told.Latency).P99,
				"refused_p99_ms_5x": s.sampled("refused request", told.Shedded).P99,
				"rss_mib_5x":        program.PeakMemory(on.Pid()) / (1 << 20),
			} {
				s.add(key+"_"+mode, value)
				worst[key] = max(worst[key], value)
			}
		})
	}
	for key, value := range worst {
		s.add(key, value)
	}
}

// capacity is the goodput of a closed loop in which all slots are taken, and few requests
// wait.
func (s *measurement) capacity(on *server, mode string) float64 {
	config := s.loop(on, unbounded, 2*stormRuns, 8*stormRuns)
	config.Mix = mixes[mode]
	if mode == "sync" {
		config.Connections, config.Window = stormRuns*3/2, 0
	}
	config.Input = stormInputs()
	var used usage
	s.scene("finding the capacity", func(s *measurement) { used = s.steadily(on, config, s.warmup, s.saturated) })
	if mode == "sync" {
		return used.accepted / used.seconds
	}
	return used.rate()
}

var mixes = map[string]load.Mix{"sync": {Sync: 1}, "async": {Async: 1}}

func stormInputs() load.Input {
	return sample.MustParsePattern(fmt.Sprintf("text=64,rounds=%d,delay=%s", stormRounds, stormDelay))
}
