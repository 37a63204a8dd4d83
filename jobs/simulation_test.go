package jobs

import (
	"container/heap"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"ringback/jobs/webhook"
)

// simulation drives origins with a clock of its own: workers take callbacks in
// the order in which they are due, as the queue hands them out.
type simulation struct {
	*origins
	now     time.Time
	random  *rand.Rand
	events  events
	due     []*simJob
	workers int // that are free
}

// simOrigin is a receiver and what happened to it.
type simOrigin struct {
	name, address string
	grants        bool
	answer        func(at time.Duration) (webhook.Outcome, int, time.Duration) // since the start; how long it takes

	sent               []time.Duration
	underWay, mostEver int
	jobs               []*simJob
}

type simJob struct {
	to                *simOrigin
	id                int64
	arrived           time.Time
	attempts, putOffs int
	first, delivered  time.Duration // after it arrived; 0 for never
	runs              int
}

type event struct {
	at time.Time
	do func()
}

type events []event

func (e events) Len() int           { return len(e) }
func (e events) Less(i, j int) bool { return e[i].at.Before(e[j].at) }
func (e events) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)        { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func newSimulation(workers int) *simulation {
	return &simulation{
		origins: newOrigins(ConsentEarned, workers, slog.New(slog.DiscardHandler), originIO{}),
		now:     morning, random: rand.New(rand.NewPCG(1, 2)), workers: workers,
	}
}

func (s *simulation) at(at time.Time, do func()) { heap.Push(&s.events, event{at, do}) }

func (s *simulation) run(until time.Time) {
	for len(s.events) > 0 && !s.events[0].at.After(until) {
		next := heap.Pop(&s.events).(event)
		s.now = next.at
		next.do()
	}
}

func (s *simulation) send(to *simOrigin, at time.Time) {
	job := &simJob{to: to, id: s.random.Int64(), arrived: at}
	to.jobs = append(to.jobs, job)
	s.ready(job, at)
}

func (s *simulation) ready(job *simJob, at time.Time) {
	s.at(at, func() {
		s.due = append(s.due, job)
		s.take()
	})
}

func (s *simulation) take() {
	for s.workers > 0 && len(s.due) > 0 {
		job := s.due[0]
		s.due = s.due[1:]
		s.workers--
		job.runs++
		s.decideFor(job, s.now.Add(slotPatience))
	}
}

func (s *simulation) free() { s.workers++; s.take() }

// decideFor is enter, with waits that look again every few milliseconds.
func (s *simulation) decideFor(job *simJob, deadline time.Time) {
	o := s.meet(job.to.name)
	again := func(after time.Duration) { s.at(s.now.Add(after), func() { s.decideFor(job, deadline) }) }
	switch next := s.decide(o, s.now, job.runs > 1, s.now.Before(deadline)); {
	case next.leave != nil:
		s.attempt(job, next.leave)
	case next.load:
		o.loaded = true
		again(0)
	case next.ask != nil:
		o.meeting = make(chan struct{})
		s.at(s.now.Add(20*time.Millisecond), func() {
			s.giveBack(next.ask)
			s.answered(o, webhook.Consent{Granted: job.to.grants, Address: netip.MustParseAddrPort(job.to.address).Addr()}, nil, s.now)
			o.endMeeting()
			s.decideFor(job, deadline)
		})
	case next.wait != nil:
		again(5 * time.Millisecond)
	default:
		job.putOffs++
		late := time.Duration(s.random.Int64N(int64(100 * time.Millisecond))) // until the queue polls
		s.ready(job, next.until.Add(late))
		s.free()
	}
}

func (s *simulation) attempt(job *simJob, p *pass) {
	o, started := job.to, s.now
	o.sent = append(o.sent, started.Sub(morning))
	o.underWay++
	o.mostEver = max(o.mostEver, o.underWay)
	job.attempts++
	if job.first == 0 {
		job.first = max(1, started.Sub(job.arrived))
	}
	outcome, status, took := o.answer(started.Sub(morning))
	s.at(started.Add(took), func() {
		o.underWay--
		s.giveBack(p)
		s.conclude(p.origin, webhook.Attempt{
			StartedAt: started, EndedAt: s.now, Outcome: outcome, Status: status, Address: o.address,
		}, s.now)
		if outcome == webhook.Delivered {
			job.delivered = s.now.Sub(job.arrived)
		} else if delay, again := retryDelay(job.id, job.attempts); again {
			s.ready(job, s.now.Add(delay))
		}
		s.free()
	})
}

// The receivers.

func takes(took time.Duration) func(time.Duration) (webhook.Outcome, int, time.Duration) {
	return func(time.Duration) (webhook.Outcome, int, time.Duration) { return webhook.Delivered, 204, took }
}

func hangs(time.Duration) (webhook.Outcome, int, time.Duration) {
	return webhook.Timeout, 0, 10 * time.Second
}

func fails(time.Duration) (webhook.Outcome, int, time.Duration) {
	return webhook.HTTPStatus, 500, 10 * time.Millisecond
}

// flaps works and hangs for five minutes each.
func flaps(at time.Duration) (webhook.Outcome, int, time.Duration) {
	if at/(5*time.Minute)%2 == 0 {
		return takes(20 * time.Millisecond)(at)
	}
	return hangs(at)
}

func TestAnHourOfAThousandOrigins(t *testing.T) {
	t.Parallel()
	s := newSimulation(200)
	group := func(count int, name string, grants bool, answer func(time.Duration) (webhook.Outcome, int, time.Duration)) (made []*simOrigin) {
		for n := range count {
			made = append(made, &simOrigin{
				name: fmt.Sprintf("%s%d", name, n), address: fmt.Sprintf("198.51.%d.%d:443", len(name), n%250), grants: grants, answer: answer,
			})
		}
		return made
	}
	good := group(500, "good", false, takes(20*time.Millisecond))
	granted := group(200, "granted", true, takes(20*time.Millisecond))
	slow := group(100, "slow..", false, takes(2*time.Second))
	hanging := group(100, "hanging.", false, hangs)
	failing := group(50, "failing..", false, fails)
	flapping := group(50, "flapping..", false, flaps)
	all := slices.Concat(good, granted, slow, hanging, failing, flapping)
	for _, o := range all { // one every 40 s
		for at := time.Duration(s.random.Int64N(int64(40 * time.Second))); at < time.Hour; at += 40 * time.Second {
			s.send(o, morning.Add(at))
		}
	}
	floods := []*simOrigin{
		{name: "flooded-dead", address: "203.0.113.1:443", answer: hangs},
		{name: "flooded-failing", address: "203.0.113.2:443", answer: fails},
		{name: "flooded-stranger", address: "203.0.113.3:443", answer: takes(20 * time.Millisecond)},
		{name: "flooded-granted", address: "203.0.113.4:443", answer: takes(20 * time.Millisecond), grants: true},
	}
	for _, o := range floods {
		for range 5000 {
			s.send(o, morning.Add(10*time.Minute))
		}
	}
	s.run(morning.Add(time.Hour))

	t.Run("TheGoodAreNotHeldUp", func(t *testing.T) {
		waits := waitsOf(good)
		if p50, p99 := waits[len(waits)/2], waits[len(waits)*99/100]; p50 > 50*time.Millisecond || p99 > time.Second {
			t.Errorf("waits: got %v at the median, %v at the 99th, want at most 50ms, 1s", p50, p99)
		}
	})

	t.Run("NobodyIsHitHarderThanAllowed", func(t *testing.T) {
		for _, o := range append(all, floods...) {
			most, rate := mostEarned.most, int(mostEarned.rate)+mostEarned.most
			if o.grants {
				most, rate = s.share, len(o.sent)
			}
			if o.mostEver > most || mostWithin(o.sent, time.Second) > rate {
				t.Errorf("%s: got %d at a time and %d within a second, want at most %d and %d",
					o.name, o.mostEver, mostWithin(o.sent, time.Second), most, rate)
			}
		}
	})

	t.Run("TheDeadAreLeftAlone", func(t *testing.T) {
		for _, o := range slices.Concat(hanging, failing, floods[:2]) {
			// Ten to open, and a probe each 30 s, 1, 2, 4, 8 and 15 minutes after.
			if len(o.sent) > failuresToOpen+20 {
				t.Errorf("%s: got %d attempts within the hour, want about a dozen", o.name, len(o.sent))
			}
		}
	})

	t.Run("TheOthersAreDeliveredTo", func(t *testing.T) {
		for _, o := range slices.Concat(good, granted, slow, floods[2:]) {
			for _, job := range o.jobs {
				if job.delivered == 0 && morning.Add(time.Hour).Sub(job.arrived) > time.Minute {
					t.Fatalf("%s: a callback of %v was not delivered within the hour: %+v", o.name, job.arrived.Sub(morning), job)
				}
			}
		}
	})

	t.Run("EachJobIsTouchedAFewTimes", func(t *testing.T) {
		for _, test := range []struct {
			of   []*simOrigin
			most float64 // put-offs a job
		}{{good, 0.01}, {granted, 0.01}, {slow, 0.1}, {flapping, 4}, {floods[2:3], 3}, {floods[3:], 2}, {floods[:1], 12}, {floods[1:2], 12}} {
			var jobs, putOffs int
			for _, o := range test.of {
				for _, job := range o.jobs {
					jobs, putOffs = jobs+1, putOffs+job.putOffs
				}
			}
			got := float64(putOffs) / float64(jobs)
			t.Logf("%s: put off %.2f times a job, %d sent for %d jobs", test.of[0].name, got, len(test.of[0].sent), len(test.of[0].jobs))
			if got > test.most {
				t.Errorf("%s and the like: got put off %.2f times a job, want at most %.2f", test.of[0].name, got, test.most)
			}
		}
	})
}

func waitsOf(origins []*simOrigin) (waits []time.Duration) {
	for _, o := range origins {
		for _, job := range o.jobs {
			if job.first > 0 {
				waits = append(waits, job.first)
			}
		}
	}
	slices.Sort(waits)
	return waits
}

// mostWithin is the greatest number of times that lie within a window.
func mostWithin(times []time.Duration, window time.Duration) (most int) {
	first := 0
	for n, at := range times {
		for at-times[first] >= window {
			first++
		}
		most = max(most, n-first+1)
	}
	return most
}
