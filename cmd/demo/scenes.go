package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"ringback/cmd/internal/program"
	"ringback/cmd/internal/receivers"
	"ringback/cmd/internal/sample"
)

// bothWays does the same work inline and with a callback.
func (s *show) bothWays() {
	s.title("1  The same work, both ways")
	in := sample.InputJSON("hello", 0, 0)
	status, inline, took := s.call(s.server, http.MethodPost, "/sync", map[string]any{"input": json.RawMessage(in)})
	if status != http.StatusOK {
		s.Must(fmt.Errorf("POST /sync: got %d, want 200", status))
	}
	s.say("POST /sync    200 after %s, with the result: %.60s…", milliseconds(took), inline.Result)
	s.pause(3)
	sent := time.Now()
	accepted, took := s.accept(s.server, in)
	s.say("POST /async   202 after %s: request %s is safe in Postgres", milliseconds(took), accepted.ID)
	s.say("              called back after %s, signed", milliseconds(s.called(accepted.ID).Sub(sent)))
	_, late, _ := s.call(s.server, http.MethodGet, "/requests/"+accepted.ID, nil)
	if string(late.Result) != string(inline.Result) {
		s.Must(fmt.Errorf("the results differ: %s inline, %s by callback", inline.Result, late.Result))
	}
	s.say("              the result is the same, byte for byte")
	s.pause(4)
}

// receiverDies lets a receiver fail, and come back.
func (s *show) receiverDies() {
	s.title("2  A receiver dies and comes back")
	s.receiver.Suffer(receivers.Failing)
	accepted, _ := s.accept(s.server, sample.InputJSON("patience", 0, 0))
	attempts := 0
	s.Until("two attempts", patience, func() bool {
		_, seen, _ := s.call(s.server, http.MethodGet, "/requests/"+accepted.ID, nil)
		for ; attempts < len(seen.Attempts); attempts++ {
			s.say("attempt %d    the receiver says %d", attempts+1, seen.Attempts[attempts].HTTPStatus)
		}
		return attempts >= 2
	})
	s.receiver.Recover()
	s.say("             the receiver is back; the next attempt is due about 5 s after the last")
	s.called(accepted.ID)
	s.say("attempt 3    delivered, with the same webhook-id as the others")
	s.pause(4)
}

// workerDies kills a process with SIGKILL while it works.
func (s *show) workerDies() {
	s.title("3  A process is killed while it works")
	address, err := program.FreeAddress()
	s.Must(err)
	second := s.start("second", address, "none")
	s.AtEnd(func() error { second.Signal(os.Kill); return second.Wait(context.Background()) })
	const takes = 3 * time.Second
	var accepted request
	for runs := false; !runs; runs = s.runsInLatest(accepted.ID) { // the first process may take the job
		accepted, _ = s.accept(second, sample.InputJSON("who finishes this?", 0, takes))
	}
	s.say("A second process works on request %s, which takes 3 s.", accepted.ID)
	s.pause(1)
	killed := time.Now()
	second.Signal(os.Kill)
	s.say("kill -9 %d", second.Pid())
	again := s.called(accepted.ID).Sub(killed) - takes
	s.say("The first process began the work again %.1f s after the kill, and called back when its 3 s were over.", again.Seconds())
	s.pause(4)
}

// runsInLatest waits until the work of a request has begun, and tells whether that is in the
// process that was started last: the ids of processes on one machine sort by their start.
func (s *show) runsInLatest(id string) (runs bool) {
	const sql = `
		SELECT river_job.attempt > 0, coalesce(attempted_by[array_upper(attempted_by, 1)] = (SELECT max(id) FROM processes), false)
		FROM request_trace
		JOIN river_job ON river_job.id = work_job_id
		WHERE request_id = $1`
	s.Must(s.database.Connect(s.Ctx, func(conn *pgx.Conn) error {
		s.Until("the work to begin", patience, func() (began bool) {
			s.Must(conn.QueryRow(s.Ctx, sql, id).Scan(&began, &runs))
			return began
		})
		return nil
	}))
	return runs
}

// evilURLs tries to turn the callback into a weapon.
func (s *show) evilURLs() {
	s.title("4  Callback URLs that attack somebody")
	for _, evil := range []string{
		"http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/admin", "http://[::ffff:10.0.0.1]/", "https://user:secret@example.com/",
		"file:///etc/passwd",
	} {
		status, answer, _ := s.call(s.server, http.MethodPost, "/async", asyncBody(sample.InputJSON("x", 0, 0), evil))
		if status != http.StatusUnprocessableEntity {
			s.Must(fmt.Errorf("POST /async with %s: got %d, want 422", evil, status))
		}
		s.say("%-42s %d  %s", evil, status, answer.Detail)
		s.pause(0.7)
	}
	s.say("The address is checked again when it is dialled, so that a name can't move meanwhile.")
	s.pause(4)
}

// calmAndStorm loads the server with a rate that it takes easily, and then with five times
// its capacity.
func (s *show) calmAndStorm() {
	const (
		delay    = 50 * time.Millisecond              // of a run
		capacity = workLimit * int(time.Second/delay) // runs a second, of sync and of async requests each
	)
	calmSeconds, stormSeconds := 6, 5
	if s.fast {
		calmSeconds, stormSeconds = 2, 1
	}
	s.title("5  Calm, and then a storm")
	s.say("%d s of 200 requests a second, half sync and half async …", calmSeconds)
	calm := s.load(200, calmSeconds, sample.Usual)
	s.say("%d s of %d requests a second, five times the capacity of %d runs of %s at a time …", stormSeconds, 10*capacity, workLimit, delay)
	storm := s.load(10*capacity, stormSeconds, fmt.Sprint("delay=", delay))
	s.title("The promises, and the counts")
	fmt.Fprint(s.out, table(calm, storm))
	if lost(calm)+lost(storm) > 0 {
		s.Must(errors.New("requests were lost"))
	}
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}
