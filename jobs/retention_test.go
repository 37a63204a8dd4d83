package jobs

import (
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"

	"ringback/db"
)

func TestNextSweep(t *testing.T) {
	t.Parallel()
	before := morning.Add(-24 * time.Hour)
	idAt := func(at time.Time) (id uuid.UUID) {
		ms := at.UnixMilli()
		for i := range 6 {
			id[i] = byte(ms >> (40 - 8*i))
		}
		return id
	}
	here, there := idAt(before.Add(-time.Minute)), idAt(before.Add(-20*time.Minute))
	const behind = true
	const took = 50 * time.Millisecond
	lately, longAgo := morning.Add(-time.Minute), morning.Add(-2*time.Hour)
	tests := []struct {
		name     string
		swept    db.Swept
		behind   bool
		began    time.Time
		position uuid.UUID
		pause    time.Duration
	}{
		{"FullBatchIsFollowedByFourTimesItsLength", db.Swept{Seen: db.SweepBatch, Last: here}, !behind, lately, here, 4 * took},
		{"FullBatchFarBehindByItsLength", db.Swept{Seen: db.SweepBatch, Last: there}, behind, lately, there, took},
		{"LastBatchByALongPause", db.Swept{Seen: 7, Last: here}, !behind, lately, here, sweepIdle},
		{"NothingLeavesThePositionWhereItIs", db.Swept{}, !behind, lately, there, sweepIdle},
		{"EndOfAnHourStartsAnew", db.Swept{Seen: 7, Last: here}, !behind, longAgo, uuid.Nil, sweepIdle},
		{"EndOfAnHourWaitsForTheEndOfThePass", db.Swept{Seen: db.SweepBatch, Last: here}, !behind, longAgo, here, 4 * took},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			from := db.Sweep{Client: "alice", Position: there, PassBeganAt: test.began, Now: morning}
			next, pause := nextSweep(from, test.swept, test.behind, took)
			if next.Position != test.position || pause != test.pause {
				t.Errorf("got %s after %s, want %s after %s", next.Position, pause, test.position, test.pause)
			}
			if anew := next.PassBeganAt.Equal(morning); anew != (test.position == uuid.Nil) {
				t.Errorf("pass began at %s, at the start of the table: %v", next.PassBeganAt, anew)
			}
		})
	}
}

func TestRetention(t *testing.T) {
	t.Parallel()
	q := newQueue(t, doNothing)
	receiver, gone := newReceiver(t, always(http.StatusOK)), newReceiver(t, always(http.StatusGone))
	old, dead, young := newRequest(receiver.URL), newRequest(gone.URL), newRequest(receiver.URL)
	dayAgo := time.Now().Add(-24 * time.Hour).UnixMilli()
	for _, request := range []*db.Request{&old, &dead} {
		for i := range 6 {
			request.ID[i] = byte(dayAgo >> (40 - 8*i))
		}
	}
	q.start(t)
	for _, request := range []db.Request{old, dead, young} {
		q.accept(t, request)
		q.waitFor(t, request.ID, "callback_state IN ('delivered', 'dead') AND callback_job_state = 'completed' AND work_job_state = 'completed'")
	}
	q.exec(t, "UPDATE requests SET settled_at = settled_at - interval '1 day' WHERE id <> $1", young.ID)
	q.exec(t, "UPDATE retention SET position = $1, next_at = now()", uuid.Nil) // the first batch was before
	if _, err := q.sweeper.turn(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, func() bool { return q.holds(t, "SELECT NOT EXISTS (SELECT FROM requests WHERE id = $1)", old.ID) })
	if !q.holds(t, "SELECT (SELECT count(*) FROM requests WHERE id IN ($1, $2)) = 2 AND (SELECT count(*) FROM requests) = 2", dead.ID, young.ID) {
		t.Error("want the dead letter and the young request left")
	}
	if !q.holds(t, "SELECT (SELECT count(*) FROM callback_attempts) = 2 AND (SELECT count(*) FROM river_job) = 4") {
		t.Error("want their attempts and jobs left, and no others")
	}
	q.wantNoOrphans(t)
}

func TestDeadLettersGoWithTheirAge(t *testing.T) {
	t.Parallel()
	q := newQueue(t, doNothing)
	gone := newReceiver(t, always(http.StatusGone))
	old, young := newRequest(gone.URL), newRequest(gone.URL)
	q.start(t)
	for _, request := range []db.Request{old, young} {
		q.accept(t, request)
		q.waitFor(t, request.ID, "callback_state = 'dead' AND callback_job_state = 'completed' AND work_job_state = 'completed'")
	}
	q.exec(t, "UPDATE requests SET settled_at = settled_at - interval '31 days' WHERE id = $1", old.ID)
	q.exec(t, "UPDATE dead_letters SET died_at = died_at - interval '31 days' WHERE request_id = $1", old.ID)
	sweep := func(age time.Duration) {
		t.Helper()
		_, letters := newSweepers(Config{RiverPool: q.direct, Logger: slog.New(slog.DiscardHandler), DeadLetters: age})
		if _, err := letters.turn(t.Context()); err != nil {
			t.Fatal(err)
		}
		q.exec(t, "UPDATE dead_letter_retention SET client = '', position = $1, next_at = now()", uuid.Nil) // for the next one
	}
	sweep(32 * 24 * time.Hour)
	if !q.holds(t, "SELECT count(*) = 2 FROM requests") {
		t.Error("a letter went before its age")
	}
	sweep(30 * 24 * time.Hour)
	if !q.holds(t, "SELECT (SELECT array_agg(request_id) FROM dead_letters) = ARRAY[$1::uuid] AND (SELECT array_agg(id) FROM requests) = ARRAY[$1::uuid]", young.ID) {
		t.Error("want the young one left, and no other")
	}
	if !q.holds(t, "SELECT (SELECT count(*) FROM callback_attempts) = 1 AND (SELECT count(*) FROM river_job) = 2") {
		t.Error("want its attempt and its jobs left, and no others")
	}
	q.wantNoOrphans(t)
}

func TestSweeperWithoutAnAgeRemovesNothing(t *testing.T) {
	t.Parallel()
	requests, letters := newSweepers(Config{Logger: slog.New(slog.DiscardHandler)}) // it would need a pool
	requests.run(t.Context())
	letters.run(t.Context())
}
