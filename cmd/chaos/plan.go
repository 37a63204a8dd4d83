package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"ringback/cmd/internal/load"
)

// plan is all that a seed decides.
type plan struct {
	Seed     uint64          `json:"seed"`
	Duration time.Duration   `json:"duration"` // of the load, during which all faults begin and end
	Roles    []string        `json:"roles"`    // of the servers; the first server always has role all
	Faults   []fault         `json:"faults"`
	Ahead    time.Duration   `json:"ahead"`           // the database's clock less the servers'
	Skews    []time.Duration `json:"skews,omitempty"` // each server's clock less this machine's; nil for the same clock
	From     string          `json:"from,omitempty"`  // the commit that servers begin with; empty for this commit
}

// fault is a fault of the plan.
type fault struct {
	At     time.Duration `json:"at"` // since the start of the load
	Kind   string        `json:"kind"`
	Target int           `json:"target"` // index of the target among the targets of the kind
	Of     string        `json:"of"`     // name of the target
	Length time.Duration `json:"length"` // 0 for a moment
}

func (f fault) String() string {
	text := fmt.Sprintf("%5.1f s  %s", f.At.Seconds(), f.Kind)
	if f.Of != "" {
		text += " of " + f.Of
	}
	if f.Length > 0 {
		text += fmt.Sprintf(" for %.1f s", f.Length.Seconds())
	}
	return text
}

func (p plan) String() string {
	if p.From != "" {
		return fmt.Sprintf("upgrade from %.12s", p.From)
	}
	return fmt.Sprintf("seed %d", p.Seed)
}

// flags are the flags that repeat the plan.
func (p plan) flags() string {
	if p.From != "" {
		return "-faults upgrade -from " + p.From
	}
	return fmt.Sprintf("-seed %d -duration %s", p.Seed, p.Duration)
}

// database is the name of the run's database.
func (p plan) database() string { return "chaos_" + strings.ReplaceAll(p.String(), " ", "_") }

// mine is how the texts of the run's own calls begin.
func (p plan) mine() string { return fmt.Sprintf("chaos %d ", p.Seed) }

// earlier are the commits whose servers are upgraded while they work. The first is the last
// commit whose jobs all waited for River's fetch, with version 14 of the schema. The second is
// the last commit that didn't store sync requests, with version 29.
const earlier = "2e258fb9023d451809e3e48e97637def0738fa29,7d7effc4da3d82ffee421f27b4bc195f13001aa9"

// upgradeFrom is the plan of an upgrade from a commit.
func upgradeFrom(commit string, seed uint64) plan {
	return plan{
		Seed: seed, Duration: 25 * time.Second, Roles: []string{"all", "all"}, From: commit,
		Faults: []fault{{At: 6 * time.Second, Kind: upgrade}},
	}
}

// draw draws the plan of a seed, with faults of the kinds in only, or of all kinds if only is
// empty. The same arguments give the same plan, so that a failed seed can be repeated. The
// machine's timing differs all the same.
func draw(seed uint64, duration time.Duration, only []string) plan {
	random := rand.New(rand.NewPCG(seed, 0))
	layouts := [][]string{{"all", "all"}, {"all", "all", "all"}, {"all", "api", "worker"}, {"all", "worker", "worker"}}
	p := plan{Seed: seed, Duration: duration, Roles: layouts[random.IntN(len(layouts))]}
	among := slices.DeleteFunc(slices.Clone(kinds), func(k kind) bool {
		return k.share == 0 || len(only) > 0 && !slices.Contains(only, k.name)
	})
	for at := seconds(random, 1, 3); at < duration-time.Second && len(among) > 0; at += seconds(random, 1.5, 5) {
		p.Faults = append(p.Faults, drawFault(random, among, at.Truncate(time.Millisecond), p))
	}
	wanted := func(name string, oneIn int) bool {
		return slices.Contains(only, name) || len(only) == 0 && random.IntN(oneIn) == 0
	}
	if wanted(clocks, 3) {
		p.Ahead = either(random, 5*time.Second, -5*time.Second, 10*time.Minute, -10*time.Minute, 72*time.Hour, -72*time.Hour)
	}
	if wanted(serverClocks, 4) && (duration >= longRun || len(only) > 0) {
		p.Skews = make([]time.Duration, len(p.Roles))
		p.Skews[random.IntN(len(p.Roles))] = either(random, 10*time.Minute, -10*time.Minute, 72*time.Hour)
	}
	return p
}

// longRun is the least length of a run that is worth the minutes of building a server with a
// clock of its own.
const longRun = 30 * time.Second

func drawFault(random *rand.Rand, among []kind, at time.Duration, p plan) fault {
	var shares []int
	for _, k := range among {
		shares = append(shares, k.share)
	}
	k := among[load.Pick(random, shares...)]
	f := fault{At: at, Kind: k.name, Length: min(seconds(random, k.from, k.to), p.Duration-at).Truncate(time.Millisecond)}
	if k.of != nil {
		targets := k.of(len(p.Roles))
		f.Target = random.IntN(len(targets))
		f.Of = targets[f.Target]
	}
	return f
}

func either(random *rand.Rand, choices ...time.Duration) time.Duration {
	return choices[random.IntN(len(choices))]
}

func seconds(random *rand.Rand, from, to float64) time.Duration {
	return time.Duration((from + (to-from)*random.Float64()) * float64(time.Second))
}
