package main

import (
	"strings"
	"testing"
)

func TestObjectives(t *testing.T) {
	t.Parallel()
	r := &report{
		AchievedRate: 400,
		Sync: endpointReport{
			Sent: 90, Unsent: 10, Shed: 20, Goodput: 12,
			Latency: quantiles{P50: 1, P90: 2, P95: 3, P99: 80, P999: 90, Max: 100, Mean: 4},
			Service: quantiles{P99: 7}, Shedded: quantiles{Max: 5},
		},
		Async: asyncReport{
			endpointReport: endpointReport{Sent: 100, Goodput: 34},
			TimeToCallback: quantiles{P99: 300},
			Missing:        1,
		},
	}
	for text, want := range map[string]bool{
		"sync.p99<100ms":                   true,
		"sync.p99<80ms":                    false,
		"sync.p99<=80ms":                   true,
		"sync.p999>89ms":                   true,
		"sync.latency.mean<5ms":            true,
		"sync.service.p99<8ms":             true,
		"sync.shed.max<4ms":                false,
		"async.time_to_callback.p99<250ms": false,
		"shed<11%":                         true, // 20 of 200
		"sync.shed<11%":                    false,
		"unsent<=5%":                       true,
		"sync.goodput>10":                  true,
		"async.goodput>=35":                false,
		"achieved_rate>399":                true,
		"missing<1":                        false,
	} {
		objectives, err := parseObjectives(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := objectives.check(r)[0]; got.Met != want {
			t.Errorf("%s: got %v (measured %v), want %v", text, got.Met, got.Measured, want)
		}
	}
}

func TestObjectivesThatMakeNoSense(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "shed", "shed=1%", "shed<1", "sync.p99<100", "p99<1s", "sync.p98<1s", "sync.time_to_callback.p99<1s",
		"missing<1%", "shed<1%,,", "async.p99<<1s",
	} {
		if _, err := parseObjectives(text); err == nil {
			t.Errorf("%q: got no error", text)
		}
	}
}

func TestMissedObjective(t *testing.T) {
	t.Parallel()
	service := start(t, &service{})
	output := runStorm(t, against(service, "-slo", "sync.p99<1us, shed<1%")...)
	output.want(t, exitMissed, "Objectives missed: sync.p99<1us")
	if got := output.report.Objectives; len(got) != 2 || got[0].Met || !got[1].Met {
		t.Errorf("objectives in the report: got %+v", got)
	}
	if strings.Contains(output.stdout, "ept its word") {
		t.Error("the verdict praises a run that missed an objective")
	}
}
