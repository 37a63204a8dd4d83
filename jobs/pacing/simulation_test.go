package pacing

import (
	"container/heap"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"ringback/db"
	"ringback/jobs/limit"
	"ringback/jobs/webhook"
)

var morning = time.Date(2026, 3, 1, 8, 0, 0, 123456000, time.UTC)

// simulation drives a Pacing with a clock of its own: workers take callbacks in the
// order in which they are due, as the queue hands them out.
type simulation struct {
	*Pacing
	now    time.Time
	random *rand.Rand
	events events
	due    []*simJob
	free   int           // workers
	lag    time.Duration // from a poll of the queue until a worker has its job, at most
}

// simReceiver is a simulated receiver and its history.
type simReceiver struct {
	name, address string
	answer        answer

	sent               []time.Duration // since the start
	failed             []time.Duration
	underWay, mostEver int
	conns              []bool // that are in use
	jobs               []*simJob
}

// answer is a receiver's answer to a client's callback, and its time.
type answer func(call simCall) (webhook.Outcome, int, time.Duration)

type simCall struct {
	client   string
	at       time.Duration // since the start
	underWay int           // with this callback
}

type simJob struct {
	to                  *simReceiver
	client              string
	arrived             time.Time
	attempts, postponed int
	first, delivered    time.Duration // after it arrived; 0 for never
	runs                int
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
		Pacing: New(Config{Workers: workers, Shared: true, Logger: slog.New(slog.DiscardHandler)}),
		now:    morning, random: rand.New(rand.NewPCG(1, 2)), free: workers,
	}
}

func (s *simulation) at(at time.Time, do func()) { heap.Push(&s.events, event{at, do}) }

func (s *simulation) run(until time.Duration) {
	for len(s.events) > 0 && !s.events[0].at.After(morning.Add(until)) {
		next := heap.Pop(&s.events).(event)
		s.now = next.at
		next.do()
	}
	s.now = morning.Add(until)
}

// send lets a callback of a client come at a time after the start.
func (s *simulation) send(client string, to *simReceiver, at time.Duration) *simJob {
	job := &simJob{to: to, client: client, arrived: morning.Add(at)}
	to.jobs = append(to.jobs, job)
	s.ready(job, job.arrived)
	return job
}

// sendEvery lets callbacks come at a rate, from one time to another.
func (s *simulation) sendEvery(client string, to *simReceiver, rate float64, from, until time.Duration) {
	step := time.Duration(float64(time.Second) / rate)
	for at := from; at < until; at += step {
		s.send(client, to, at)
	}
}

func (s *simulation) ready(job *simJob, at time.Time) {
	s.at(at, func() {
		s.due = append(s.due, job)
		s.take()
	})
}

func (s *simulation) take() {
	for s.free > 0 && len(s.due) > 0 {
		job := s.due[0]
		s.due = s.due[1:]
		s.free--
		job.runs++
		s.enter(job, job.runs > 1, s.now.Add(Callback{CameBack: job.runs > 1}.patience()))
	}
}

func (s *simulation) freeWorker() { s.free++; s.take() }

// meets is the database's memory of a receiver.
func (s *simulation) meets(name string, row db.Receiver) *receiver {
	r := s.receivers[name]
	if r == nil {
		r = s.add(name, s.now)
		r.recall(row, s.now)
	}
	return r
}

// enter is Enter.
func (s *simulation) enter(job *simJob, cameBack bool, deadline time.Time) {
	r := s.meets(job.to.name, db.Receiver{})
	pass, decision := s.decide(r, Callback{Client: job.client, CameBack: cameBack}, s.now)
	if pass != nil {
		if decision = s.dial(pass, job.to); !decision.OK() {
			s.release(pass, verdict{})
			pass = nil
		}
	}
	switch {
	case pass != nil:
		s.attempt(job, pass)
	case !decision.RetryAt.After(deadline):
		s.at(decision.RetryAt, func() { s.enter(job, true, deadline) })
	default:
		job.postponed++
		at := nextPoll(decision.RetryAt)
		if s.lag > 0 {
			at = at.Add(time.Duration(s.random.Int64N(int64(s.lag))))
		}
		s.ready(job, at)
		s.freeWorker()
	}
}

// dial asks for admission as the sender does: first for a kept connection, then for a
// connection of its own.
func (s *simulation) dial(pass *Pass, to *simReceiver) limit.Decision {
	address := prefixOf(netip.MustParseAddrPort(to.address).Addr())
	if kept := s.admit(pass, address, true, s.now); kept.OK() {
		return kept
	}
	return s.admit(pass, address, false, s.now)
}

// nextPoll is when the queue hands out a job that is due.
func nextPoll(due time.Time) time.Time {
	return morning.Add((due.Sub(morning) + pollInterval - 1).Truncate(pollInterval))
}

// retries are the queue's, of which only the first matter within an hour.
var retries = []time.Duration{time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute}

func (s *simulation) attempt(job *simJob, pass *Pass) {
	o, started := job.to, s.now
	o.sent = append(o.sent, started.Sub(morning))
	o.underWay++
	o.mostEver = max(o.mostEver, o.underWay)
	job.attempts++
	if job.first == 0 {
		job.first = max(1, started.Sub(job.arrived))
	}
	conn, dialled := slices.Index(o.conns, false), time.Duration(0)
	if conn < 0 {
		conn, o.conns, dialled = len(o.conns), append(o.conns, false), time.Millisecond
	}
	o.conns[conn] = true
	address := o.address
	outcome, status, took := o.answer(simCall{job.client, started.Sub(morning), o.underWay})
	s.at(started.Add(took), func() {
		o.underWay--
		o.conns[conn] = outcome == webhook.Timeout // it is closed
		sent := webhook.Attempt{
			StartedAt: started, EndedAt: s.now, Outcome: outcome, Status: status, Address: address, Conn: strconv.Itoa(conn), Connect: dialled,
		}
		if outcome == webhook.Timeout && status == inHandshake {
			sent.Conn, sent.Status = "", 0
		}
		if outcome == webhook.Throttled {
			sent.RetryAfter = time.Duration(status) * time.Second // stands for it
		}
		s.conclude(pass, sent, s.now)
		switch {
		case outcome == webhook.Delivered:
			job.delivered = s.now.Sub(job.arrived)
		case outcome == webhook.Throttled:
			s.ready(job, s.now.Add(sent.RetryAfter))
		default:
			o.failed = append(o.failed, s.now.Sub(morning))
			if job.attempts <= len(retries) {
				s.ready(job, s.now.Add(retries[job.attempts-1]))
			}
		}
		s.freeWorker()
	})
}

const here = "192.0.2.1:443"

func (o *simReceiver) waitingAt(at time.Duration) (waiting int) {
	for _, job := range o.jobs {
		if arrived := job.arrived.Sub(morning); arrived <= at && (job.first == 0 || arrived+job.first > at) {
			waiting++
		}
	}
	return waiting
}

func countWithin(times []time.Duration, from, window time.Duration) (count int) {
	for _, at := range times {
		if at >= from && at < from+window {
			count++
		}
	}
	return count
}

func postponedAJob(receivers ...*simReceiver) float64 {
	var jobs, postponed int
	for _, o := range receivers {
		for _, job := range o.jobs {
			jobs, postponed = jobs+1, postponed+job.postponed
		}
	}
	return float64(postponed) / float64(max(1, jobs))
}

func takes(took time.Duration) answer {
	return func(simCall) (webhook.Outcome, int, time.Duration) { return webhook.Delivered, 204, took }
}

func hangs(simCall) (webhook.Outcome, int, time.Duration) {
	return webhook.Timeout, 0, 10 * time.Second
}

// inHandshake stands for the status of a callback whose connection nobody served: no TLS handshake
// was done.
const inHandshake = -1

func fails(simCall) (webhook.Outcome, int, time.Duration) {
	return webhook.HTTPStatus, 500, 10 * time.Millisecond
}

// flaps answers and hangs for five minutes each.
func flaps(call simCall) (webhook.Outcome, int, time.Duration) {
	if call.at/(5*time.Minute)%2 == 0 {
		return takes(20 * time.Millisecond)(call)
	}
	return hangs(call)
}

func waitsOf(receivers ...*simReceiver) (waits []time.Duration) {
	for _, o := range receivers {
		for _, job := range o.jobs {
			if job.first > 0 {
				waits = append(waits, job.first)
			}
		}
	}
	slices.Sort(waits)
	return waits
}

// waitsFrom returns the waits of a client's callbacks that came after a time, sorted; zero for
// callbacks that never left.
func waitsFrom(from time.Duration, client string, receivers ...*simReceiver) (waits []time.Duration) {
	for _, o := range receivers {
		for _, job := range o.jobs {
			if job.client == client && job.arrived.Sub(morning) >= from {
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

func prefixes(address string) []netip.Prefix {
	return []netip.Prefix{prefixOf(netip.MustParseAddrPort(address).Addr())}
}

// emptyRow is of a receiver that the database doesn't know.
var emptyRow db.Receiver
