package pacing

import (
	"fmt"
	"testing"
	"time"

	"ringback/jobs/webhook"
)

// A server that keeps a connection open serves no other meanwhile, as Python's
// HTTPServer does.
func TestOneConnectionAtATime(t *testing.T) {
	t.Parallel()
	s, python := newSimulation(500), newOrdinary(0)
	python.answer = oneConnection(20 * time.Millisecond)
	const burst = 600
	s.sendEvery("acme", python, 100, 0, burst/100*second)
	s.sendEvery("acme", python, 10, 40*second, 60*second)
	s.run(10 * time.Minute)
	var done time.Duration
	for _, job := range python.jobs[:burst] {
		done = max(done, job.arrived.Sub(morning)+job.delivered)
	}
	if done > 30*second {
		t.Errorf("the burst was done after %v, want it within 30 s: 10 s with the hanging connection, and %d at full speed take 12 s", done, burst)
	}
	if got := postponedAJob(python); got > 4 {
		t.Errorf("got %.2f postponements a callback, want a few: its pace doesn't grow while the connection hangs", got)
	}
	if len(python.failed) > 1 {
		t.Errorf("got %d timeouts, want at most one in all", len(python.failed))
	}
	for _, job := range python.jobs {
		if job.delivered == 0 || job.delivered > time.Minute {
			t.Fatalf("a callback of %v was delivered after %v (0 for never)", job.arrived.Sub(morning), job.delivered)
		}
	}
	if row := s.receivers[python.name].row(s.now); len(row.Closings) == 0 {
		t.Error("it isn't remembered for the next process")
	}
}

// Another client's callback needn't open a second connection to find out what a first client's
// has found, or while the first is answered at once.
func TestOneConnectionForManyClients(t *testing.T) {
	t.Parallel()
	for _, clients := range []int{2, 5, 20, 40} {
		for _, rate := range []float64{10, 40, 200} {
			s, python := newSimulation(500), newOrdinary(0)
			python.answer = oneConnection(20 * time.Millisecond)
			for n := range clients {
				s.sendEvery(fmt.Sprintf("client%d", n), python, rate/float64(clients), time.Duration(n)*7*time.Millisecond, 60*second)
			}
			s.run(9 * time.Minute)
			if len(python.failed) > 1 {
				t.Errorf("%d clients, %v/s: got %d timeouts, want at most one in all", clients, rate, len(python.failed))
			}
			if got := countWithin(python.sent, 0, 60*second); got < min(1700, int(rate*60)) {
				t.Errorf("%d clients, %v/s: got %d sent in a minute, want most of the 2,500 that it takes beside the first timeout", clients, rate, got)
			}
			if got := postponedAJob(python); got > 12 {
				t.Errorf("%d clients, %v/s: got %.1f postponements a callback, want few", clients, rate, got)
			}
		}
	}
}

// Mallory's callback hung beside another that was answered. It may know a path that hangs.
func TestASecondConnectionThatHungIsTriedAgain(t *testing.T) {
	t.Parallel()
	r := newReceiver("https://a:443", morning)
	mallory, acme, fresh := r.party("mallory", morning), r.party("acme", morning), r.party("fresh", morning)
	mallory.health.recent, acme.health.recent = time.Millisecond, time.Millisecond
	if got := r.mostUntilTogether(acme, morning); got != 2 {
		t.Errorf("before: got %d, want a try", got)
	}
	mallory.oneByOne = morning.Add(oneByOneFor)
	for _, test := range []struct {
		client *party
		after  time.Duration
		want   int
	}{{acme, triedAgain - 1, 1}, {acme, triedAgain, 2}, {mallory, triedAgain, 1}, {fresh, triedAgain, 1}} {
		if got := r.mostUntilTogether(test.client, morning.Add(test.after)); got != test.want {
			t.Errorf("%s after %v: got %d, want %d", test.client.client, test.after, got, test.want)
		}
	}
	r.party("trudy", morning).oneByOne, r.party("trudy", morning).shookHands = morning.Add(triedAgain).Add(oneByOneFor), true
	if got := r.mostUntilTogether(acme, morning.Add(triedAgain)); got != 2 {
		t.Errorf("after another's callback hung past its handshake: got %d, want a try", got)
	}
	if got := r.mostUntilTogether(r.party("trudy", morning), morning.Add(triedAgain)); got != 1 {
		t.Errorf("after its own callback hung past its handshake: got %d, want none", got)
	}
	r.party("malvina", morning).oneByOne = morning.Add(oneByOneFor)
	if got := r.mostUntilTogether(acme, morning.Add(2*triedAgain-1)); got != 1 {
		t.Errorf("after two clients' callbacks hung: got %d, want it rested for twice as long", got)
	}
}

// Only by https does a connection show that somebody serves it, before it has an answer.
func TestAHandshakeIsSeenByHTTPSAlone(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		receiver, conn string
		want           bool
	}{{"https://a:443", "192.0.2.9:5000", true}, {"https://a:443", "", false}, {"http://a:80", "192.0.2.9:5000", false}} {
		r := newReceiver(test.receiver, morning)
		c := r.party("acme", morning)
		r.lastTaken = taken{end: morning.Add(second)}
		explained := r.learnOneByOne(&Pass{party: c, left: morning}, webhook.Attempt{Outcome: webhook.Timeout, Conn: test.conn}, morning.Add(10*second))
		if !explained || c.shookHands != test.want {
			t.Errorf("%s on connection %q: got %v and a handshake %v, want it explained, and %v", test.receiver, test.conn, explained, c.shookHands, test.want)
		}
	}
}
