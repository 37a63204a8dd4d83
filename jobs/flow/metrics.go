package flow

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Watch registers the metrics of each kind of work that has a flow.
func Watch(auto promauto.Factory, flows map[string]*Flow) {
	for name, f := range flows {
		gauge := func(metric, help string, read func() float64) {
			auto.NewGaugeFunc(prometheus.GaugeOpts{Name: metric, Help: help, ConstLabels: prometheus.Labels{"work": name}}, read)
		}
		gauge("ringback_work_sync_waiting", "Sync requests that wait for their turn at a kind of work that has a limit, or whose service has just come back.",
			func() float64 { return float64(f.waiting.Load()) })
		if f.paced {
			for _, state := range []string{stateDown, statePaused} {
				auto.NewGaugeFunc(prometheus.GaugeOpts{
					Name: "ringback_works_down", Help: "1 while the service of a kind of work has answered no run since five failures in a row, whosever they were (down), or has asked a client for a pause (paused).",
					ConstLabels: prometheus.Labels{"work": name, "state": state},
				}, func() float64 {
					if f.closedAs(time.Now()) == state {
						return 1
					}
					return 0
				})
			}
		}
	}
}
