package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// kind names a fault.
type kind string

const (
	kill     kind = "kill"           // SIGKILL of a server, started again a moment later
	pause    kind = "pause"          // SIGSTOP of a server, then SIGCONT
	leader   kind = "pause-leader"   // like kill or pause, of the process that River has elected
	restart  kind = "restart"        // SIGTERM of a server, started again
	fast     kind = "database-fast"  // a restart that ends all connections
	crash    kind = "database-crash" // followed by a recovery from the log
	outage   kind = "database-away"  // stopped for some seconds
	backends kind = "backends"       // some connections are ended
	refuse   kind = "receivers-500"  // all receivers fail for a moment
	hang     kind = "receivers-cut"  // all receivers break connections for a moment
	lock     kind = "table-locked"   // as CREATE INDEX does
	failover kind = "failover"       // the database is read-only, and its standby is promoted
	full     kind = "disk-full"      // of the database
	jobs     kind = "jobs-gone"      // cancelled, discarded and deleted, by SQL and in River UI
	logs     kind = "log-blocked"    // a server's log isn't read
	clocks   kind = "clocks"         // the database's differs, during all of the run
	// serverClocks are the clocks of servers, which differ from each other likewise.
	serverClocks kind = "server-clocks"
	// upgrade replaces servers of an earlier commit by servers of this commit. It is a run
	// of its own.
	upgrade kind = "upgrade"

	upstreamAway kind = "upstream-away"  // nobody listens where work is done
	upstreamHang kind = "upstream-hangs" // nothing is answered there
	upstreamBusy kind = "upstream-503"   // with Retry-After
)

// fault is a fault of the plan.
type fault struct {
	At     time.Duration `json:"at"` // since the start of the load
	Kind   kind          `json:"kind"`
	Target int           `json:"target"` // a server's number, counted from 0, an index of lockable, or the number of backends
	Length time.Duration `json:"length"` // of faults that last, otherwise 0
}

func (f fault) String() string {
	text := fmt.Sprintf("%5.1f s  %s", f.At.Seconds(), f.Kind)
	switch f.Kind {
	case kill, pause, restart, logs:
		text += fmt.Sprintf(" of server %d", f.Target)
	case backends:
		text += fmt.Sprintf(": %d", f.Target)
	case lock:
		text += ": " + lockable[f.Target]
	}
	if f.Length > 0 {
		text += fmt.Sprintf(" for %.1f s", f.Length.Seconds())
	}
	return text
}

// lockable are the tables that every step writes to.
var lockable = [...]string{"requests", "callback_attempts", "river_job"}

// plan is all that a seed decides.
type plan struct {
	Seed     uint64        `json:"seed"`
	Duration time.Duration `json:"duration"` // of the load, in which all faults begin and end
	Roles    []string      `json:"roles"`    // one for each server; the first server always has role all
	Faults   []fault       `json:"faults"`
	Ahead    time.Duration `json:"ahead"` // the database's clock less the servers'
	// Skews are how far the servers' clocks are ahead of this machine's; nil for not.
	Skews []time.Duration `json:"skews,omitempty"`
	From  string          `json:"from,omitempty"` // the commit of the first servers, where it isn't this commit

	before string // the path of their program
}

func (p plan) String() string {
	if p.From != "" {
		return fmt.Sprintf("upgrade from %.12s", p.From)
	}
	return fmt.Sprintf("seed %d", p.Seed)
}

// flags run it again.
func (p plan) flags() string {
	if p.From != "" {
		return "-faults upgrade -from " + p.From
	}
	return fmt.Sprintf("-seed %d -duration %s", p.Seed, p.Duration)
}

// database is the name of the run's database.
func (p plan) database() string {
	if p.From != "" {
		return fmt.Sprintf("chaos_upgrade_%.12s", p.From)
	}
	return fmt.Sprintf("chaos_%d", p.Seed)
}

// draw follows from its arguments alone, so a seed that failed can be run again.
// (How the processes meet the faults does not: that is up to the machine.) Only
// those kinds are drawn, all if there are none.
func draw(seed uint64, duration time.Duration, only []kind) plan {
	random := rand.New(rand.NewPCG(seed, 0))
	layouts := [][]string{{"all", "all"}, {"all", "all", "all"}, {"all", "api", "worker"}, {"all", "worker", "worker"}}
	p := plan{Seed: seed, Duration: duration, Roles: layouts[random.IntN(len(layouts))]}
	chances := among(only)
	for at := seconds(random, 1, 3); at < duration-time.Second && len(chances) > 0; at += seconds(random, 1.5, 5) {
		p.Faults = append(p.Faults, drawFault(random, chances, at, duration, len(p.Roles)))
	}
	p.Ahead = drawAhead(random, only)
	p.Skews = drawSkews(random, duration, only, len(p.Roles))
	return p
}

// drawSkews lets the clocks of servers differ in a quarter of the runs, or in each run if
// asked. Building such a server takes longer than a short run.
func drawSkews(random *rand.Rand, duration time.Duration, only []kind, servers int) []time.Duration {
	differ := slices.Contains(only, serverClocks) || len(only) == 0 && duration >= longRun && random.IntN(4) == 0
	if !differ {
		return nil
	}
	skews := make([]time.Duration, servers)
	skews[random.IntN(servers)] = []time.Duration{10 * time.Minute, -10 * time.Minute, 72 * time.Hour}[random.IntN(3)]
	return skews
}

// longRun is from which length on a run is worth minutes of building.
const longRun = 30 * time.Second

// drawAhead lets the clocks differ in a third of the runs, or in each run if asked.
func drawAhead(random *rand.Rand, only []kind) time.Duration {
	differ := slices.Contains(only, clocks) || len(only) == 0 && random.IntN(3) == 0
	if !differ {
		return 0
	}
	ahead := []time.Duration{5 * time.Second, 10 * time.Minute, 72 * time.Hour}[random.IntN(3)]
	if random.IntN(2) == 0 {
		return -ahead
	}
	return ahead
}

// chance is how often a kind is drawn, beside the others.
type chance struct {
	kind  kind
	share int
}

var chances = []chance{
	{kill, 25},
	{pause, 15},
	{leader, 10},
	{restart, 12},
	{fast, 8},
	{crash, 8},
	{outage, 6},
	{backends, 8},
	{refuse, 4},
	{hang, 4},
	{lock, 10},
	{failover, 6},
	{full, 6},
	{jobs, 10},
	{logs, 8},
	{upstreamAway, 8},
	{upstreamHang, 5},
	{upstreamBusy, 5},
}

func among(only []kind) []chance {
	if len(only) == 0 {
		return chances
	}
	return slices.DeleteFunc(slices.Clone(chances), func(c chance) bool { return !slices.Contains(only, c.kind) })
}

func drawKind(random *rand.Rand, chances []chance) (drawn kind) {
	total := 0
	for _, c := range chances {
		total += c.share
	}
	left := random.IntN(total)
	for _, c := range chances {
		if drawn, left = c.kind, left-c.share; left < 0 {
			break
		}
	}
	return drawn
}

func drawFault(random *rand.Rand, chances []chance, at, duration time.Duration, servers int) fault {
	f := fault{At: at.Truncate(time.Millisecond), Target: random.IntN(servers)}
	f.Kind = drawKind(random, chances)
	switch f.Kind {
	case pause, leader, lock, logs:
		f.Length = seconds(random, 3, 20)
	case outage:
		f.Length = seconds(random, 2, 30)
	case refuse, hang:
		f.Length = seconds(random, 1, 3)
	case upstreamAway, upstreamHang, upstreamBusy:
		f.Length = seconds(random, 1, 8)
	case failover, full, jobs:
		f.Length = seconds(random, 2, 12)
	case backends:
		f.Target = 1 + random.IntN(4)
	}
	f.Length = min(f.Length, duration-at).Truncate(time.Millisecond)
	switch f.Kind {
	case kill, pause, restart, logs, backends:
	case lock:
		f.Target = random.IntN(len(lockable))
	default:
		f.Target = 0
	}
	return f
}

func seconds(random *rand.Rand, from, to float64) time.Duration {
	return time.Duration((from + (to-from)*random.Float64()) * float64(time.Second))
}
