package main

import (
	"strings"
	"testing"

	"ringback/cmd/internal/load"
)

func TestObjectives(t *testing.T) {
	t.Parallel()
	r := &load.Report{
		AchievedRate: 400,
		Sync: load.Endpoint{
			Sent: 90, Unsent: 10, Shed: 20, Goodput: 12,
			Latency: load.Quantiles{Count: 70, P50: 1, P90: 2, P95: 3, P99: 80, P999: 90, Max: 100, Mean: 4},
			Service: load.Quantiles{Count: 70, P99: 7}, Shedded: load.Quantiles{Count: 20, Max: 5},
		},
		Async: load.Async{
			Endpoint:       load.Endpoint{Sent: 100, Goodput: 34},
			TimeToCallback: load.Quantiles{Count: 1, P99: 300},
			Acked:          2,
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

// An objective without a measured value is not met, in either direction.
func TestObjectivesWithoutASample(t *testing.T) {
	t.Parallel()
	r := &load.Report{Async: load.Async{Endpoint: load.Endpoint{Sent: 5}}}
	for _, text := range []string{
		"async.time_to_callback.p99<1ms", "async.p99<1h", "async.shed.max<1h", "sync.p99<1s", "sync.shed<1%", "sync.failed>=0%", "sync.goodput>=0",
		"missing<1", "pending<=0", "duplicates<1", "orphans<1", "mismatched<1",
	} {
		objectives, err := parseObjectives(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := objectives.check(r)[0]; got.Met || !got.NoSample {
			t.Errorf("%s: got %+v, want it not met for want of a sample", text, got)
		}
	}
	r.Async.Acked = 5 // at receivers that take nothing
	for _, text := range []string{"duplicates<1", "mismatched<1"} {
		objectives, err := parseObjectives(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := objectives.check(r)[0]; got.Met || !got.NoSample {
			t.Errorf("%s without a callback: got %+v, want it not met for want of a sample", text, got)
		}
	}
	for _, text := range []string{"shed<1%", "async.shed<1%", "achieved_rate>=0", "async.goodput>=0"} {
		objectives, err := parseObjectives(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := objectives.check(r)[0]; !got.Met || got.NoSample {
			t.Errorf("%s: got %+v, want it met", text, got)
		}
	}

	t.Run("InARun", func(t *testing.T) {
		t.Parallel()
		service := start(t, &service{})
		output := runStorm(t, against(service, "-receivers", "slow=1", "-slo", "async.time_to_callback.p99<1ms")...)
		output.want(t, exitMissed, "Objectives missed: async.time_to_callback.p99<1ms (nothing was measured)", "no sample     missed")
	})

	t.Run("OfAnEndpointWithoutAShareAreAMistake", func(t *testing.T) {
		t.Parallel()
		for mix, slo := range map[string]string{"sync=1,async=0": "missing<1", "sync=0,async=1": "sync.p99<1s"} {
			runStormPlainly(t, "-mix", mix, "-slo", slo).want(t, exitUsage, "-slo \""+slo+"\": -mix sends no ")
		}
	})
}

func TestObjectivesThatMakeNoSense(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "shed", "shed=1%", "shed<1", "sync.p99<100", "p99<1s", "sync.p98<1s", "sync.time_to_callback.p99<1s",
		"missing<1%", "shed<1%,,", "async.p99<<1s",
		"shed<NaN%", "shed<-1%", "shed<101%", "shed<Inf%", "missing<NaN", "missing>-1", "duplicates<Inf", "sync.p99>-1s",
	} {
		if _, err := parseObjectives(text); err == nil {
			t.Errorf("%q: got no error", text)
		}
	}
}

func TestMissedObjective(t *testing.T) {
	t.Parallel()
	service := start(t, &service{})
	output := runStorm(t, against(service, "-slo", "sync.p99<1us", "-slo", "shed<1%")...)
	output.want(t, exitMissed, "Objectives missed: sync.p99<1us")
	if got := output.report.Objectives; len(got) != 2 || got[0].Met || !got[1].Met {
		t.Errorf("objectives in the report: got %+v", got)
	}
	if strings.Contains(output.stdout, "ept its word") {
		t.Error("the verdict praises a run that missed an objective")
	}
}
