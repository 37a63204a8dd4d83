package main

import (
	"fmt"

	"github.com/jackc/pgx/v5"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/receivers"
)

// broken asks how much longer callbacks to other receivers wait while thousands of
// callbacks to a broken receiver are queued, at a quarter of the rate at saturation.
func broken(s *measurement) {
	rate := s.halfRate() / 2
	beside := func(name string, queue func(*measurement, *server)) (p99 float64) {
		s.scene("beside "+name, func(s *measurement) {
			on := s.fresh("broken")
			queue(s, on)
			p99 = s.timeToCallback(on, rate).P99
			s.add("ttc_p99_ms_beside_"+name, p99)
		})
		return p99
	}
	alone := beside("nobody", func(*measurement, *server) {})
	for name, behaviour := range map[string]receivers.Behaviour{
		"blackhole": receivers.Hang, "refusing": receivers.Refusing, "failing": receivers.Failing,
	} {
		s.add(name+"_ratio", beside(name, func(s *measurement, on *server) { s.queueCallbacks(on, behaviour) })/alone)
	}
}

// queueCallbacks fills the queue with callbacks to a receiver, and returns when the work
// of their requests is done.
func (s *measurement) queueCallbacks(on *server, behaviour receivers.Behaviour) {
	const callbacks = 10_000
	config := s.loop(on, callbacks, 64, 0)
	config.Receivers = load.AllOf(behaviour)
	s.wait(s.launch(config))
	s.awaitCount(on.rows, "(SELECT count(*) FROM requests WHERE status <> 'accepted')", callbacks)
}

// awaitCount returns when a count in the database has reached want.
func (s *measurement) awaitCount(d database, count string, want int) {
	s.Must(d.Connect(s.Ctx, func(conn *pgx.Conn) error {
		s.until(fmt.Sprintf("%d of %s", want, count), func() bool {
			var got int
			s.Must(conn.QueryRow(s.Ctx, "SELECT "+count).Scan(&got))
			return got >= want
		})
		return nil
	}))
}
