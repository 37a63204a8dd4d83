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
func (s *stage) bothWays(ctx context.Context) error {
	s.title("1  The same work, both ways")
	in := sample.Input("hello", 0, 0)
	status, inline, took, err := s.call(ctx, s.server, http.MethodPost, "/sync", map[string]any{"input": json.RawMessage(in)})
	if err != nil {
		return fmt.Errorf("POST /sync: %w", err)
	}
	if status != http.StatusOK {
		return fmt.Errorf("POST /sync: got %d, want 200", status)
	}
	s.say("POST /sync    200 after %s, with the result: %.60s…", milliseconds(took), inline.Result)
	s.pause(3)
	sent := time.Now()
	accepted, took, err := s.accept(ctx, s.server, in, s.receiver.URL)
	if err != nil {
		return err
	}
	s.say("POST /async   202 after %s: request %s is safe in Postgres", milliseconds(took), accepted.ID)
	arrived, err := s.receiver.await(ctx, accepted.ID)
	if err != nil {
		return err
	}
	s.say("              called back after %s, signed", milliseconds(arrived.Sub(sent)))
	var late request
	if _, late, _, err = s.call(ctx, s.server, http.MethodGet, "/requests/"+accepted.ID, nil); err != nil {
		return err
	}
	if string(late.Result) != string(inline.Result) {
		return fmt.Errorf("the results differ: %s inline, %s by callback", inline.Result, late.Result)
	}
	s.say("              the result is the same, byte for byte")
	s.pause(4)
	return nil
}

// receiverDies lets a receiver fail, and come back.
func (s *stage) receiverDies(ctx context.Context) error {
	s.title("2  A receiver dies and comes back")
	s.receiver.Suffer(receivers.Failing)
	accepted, _, err := s.accept(ctx, s.server, sample.Input("patience", 0, 0), s.receiver.URL)
	if err != nil {
		return err
	}
	var seen request
	attempts := 0
	err = until(ctx, "two attempts", func(ctx context.Context) (bool, error) {
		_, seen, _, err = s.call(ctx, s.server, http.MethodGet, "/requests/"+accepted.ID, nil)
		for ; attempts < len(seen.Attempts); attempts++ {
			s.say("attempt %d    the receiver says %d", attempts+1, seen.Attempts[attempts].HTTPStatus)
		}
		return attempts >= 2, err
	})
	if err != nil {
		return err
	}
	s.receiver.Recover()
	s.say("             the receiver is back; the next attempt is due about 5 s after the last")
	if _, err := s.receiver.await(ctx, accepted.ID); err != nil {
		return err
	}
	s.say("attempt 3    delivered, with the same webhook-id as the others")
	s.pause(4)
	return nil
}

// workerDies kills a process with SIGKILL while it works.
func (s *stage) workerDies(ctx context.Context) error {
	s.title("3  A process is killed while it works")
	address, err := program.FreeAddress()
	if err != nil {
		return err
	}
	second, err := s.startServer(ctx, "second", address, "none")
	if err != nil {
		return err
	}
	defer func() { second.Signal(os.Kill); _ = second.Wait(context.WithoutCancel(ctx)) }()
	var accepted request
	for runs := false; !runs; { // the first process may take the job
		if accepted, _, err = s.accept(ctx, second, sample.Input("who finishes this?", 0, 3*time.Second), s.receiver.URL); err != nil {
			return err
		}
		if runs, err = s.runsInLatest(ctx, accepted.ID); err != nil {
			return err
		}
	}
	s.say("A second process works on request %s, which takes 3 s.", accepted.ID)
	s.pause(1)
	killed := time.Now()
	second.Signal(os.Kill)
	s.say("kill -9 %d", second.Pid())
	arrived, err := s.receiver.await(ctx, accepted.ID)
	if err != nil {
		return err
	}
	s.say("The first process did the work again, and called back %.1f s after the kill.", arrived.Sub(killed).Seconds())
	s.pause(4)
	return nil
}

// runsInLatest waits until the work of a request has begun, and tells whether that is in the
// process that was started last: the ids of processes on one machine sort by their start.
func (s *stage) runsInLatest(ctx context.Context, id string) (runs bool, err error) {
	err = s.database.Connect(ctx, func(conn *pgx.Conn) error {
		return until(ctx, "the work to begin", func(ctx context.Context) (began bool, err error) {
			const sql = `
				SELECT river_job.attempt > 0, coalesce(attempted_by[array_upper(attempted_by, 1)] = (SELECT max(id) FROM processes), false)
				FROM request_trace
				JOIN river_job ON river_job.id = work_job_id
				WHERE request_id = $1`
			return began, conn.QueryRow(ctx, sql, id).Scan(&began, &runs)
		})
	})
	return runs, err
}

// evilURLs tries to turn the callback into a weapon.
func (s *stage) evilURLs(ctx context.Context) error {
	s.title("4  Callback URLs that attack somebody")
	for _, evil := range []string{
		"http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/admin", "http://[::ffff:10.0.0.1]/", "https://user:secret@example.com/",
		"file:///etc/passwd",
	} {
		status, answer, _, err := s.call(ctx, s.server, http.MethodPost, "/async", asyncBody(sample.Input("x", 0, 0), evil))
		if err != nil {
			return err
		}
		if status != http.StatusUnprocessableEntity {
			return fmt.Errorf("POST /async with %s: got %d, want 422", evil, status)
		}
		s.say("%-42s %d  %s", evil, status, answer.Detail)
		s.pause(0.7)
	}
	s.say("The address is checked again when it is dialled, so that a name can't move meanwhile.")
	s.pause(4)
	return nil
}

var errLost = errors.New("requests were lost")

// calmAndStorm loads the server with a rate that it takes easily, and then with five times
// its capacity.
func (s *stage) calmAndStorm(ctx context.Context) error {
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
	calm, err := s.load(ctx, 200, calmSeconds, sample.Usual)
	if err != nil {
		return err
	}
	s.say("%d s of %d requests a second, five times the capacity of %d runs of %s at a time …", stormSeconds, 10*capacity, workLimit, delay)
	storm, err := s.load(ctx, 10*capacity, stormSeconds, sample.Work(200, 0, delay))
	if err != nil {
		return err
	}
	s.title("The promises, and the counts")
	fmt.Fprint(s.out, table(calm, storm))
	if lost(calm)+lost(storm) > 0 {
		return errLost
	}
	return nil
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}
