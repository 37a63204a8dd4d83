package jobs

import (
	"context"
	"log/slog"
	"net/http"
	"regexp"
	"testing"
	"time"

	"github.com/google/uuid"

	"ringback/db"
	"ringback/db/dbtest"
	"ringback/jobs/upkeep"
)

func TestRetention(t *testing.T) {
	t.Parallel()
	q := newQueue(t, doNothing)
	receiver, gone := newReceiver(t, always(http.StatusOK)), newReceiver(t, always(http.StatusGone))
	old, dead, young := newRequest(receiver.URL), newRequest(gone.URL), newRequest(receiver.URL)
	for _, request := range []*db.Request{&old, &dead} {
		request.ID = madeAt(request.ID, time.Now().Add(-24*time.Hour))
	}
	q.start(t)
	for _, request := range []db.Request{old, dead, young} {
		q.accept(t, request)
		q.waitFor(t, request.ID, "callback_state IN ('delivered', 'dead') AND callback_job_state = 'completed' AND work_job_state = 'completed'")
	}
	q.exec(t, "UPDATE requests SET settled_at = settled_at - interval '1 day' WHERE id <> $1", young.ID)
	q.exec(t, "UPDATE retention SET position = $1, next_at = now()", uuid.Nil) // the first batch was before
	if _, err := q.sweeper.RemoveBatch(t.Context()); err != nil {
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

// madeAt is an id with another time in it.
func madeAt(id uuid.UUID, at time.Time) uuid.UUID {
	for i, milliseconds := 5, at.UnixMilli(); i >= 0; i, milliseconds = i-1, milliseconds>>8 {
		id[i] = byte(milliseconds)
	}
	return id
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
		_, letters := upkeep.NewSweepers(q.direct, q.health, slog.New(slog.DiscardHandler), upkeep.Retention{DeadLetters: age})
		if _, err := letters.RemoveBatch(t.Context()); err != nil {
			t.Fatal(err)
		}
		q.exec(t, "UPDATE dead_letter_retention SET client = '', position = $1, next_at = now()", uuid.Nil) // for the next batch
	}
	sweep(32 * 24 * time.Hour)
	if !q.holds(t, "SELECT count(*) = 2 FROM requests") {
		t.Error("a letter went before its age")
	}
	sweep(30 * 24 * time.Hour)
	if !q.holds(t, "SELECT (SELECT array_agg(request_id) FROM dead_letters) = ARRAY[$1::uuid] AND (SELECT array_agg(id) FROM requests) = ARRAY[$1::uuid]", young.ID) {
		t.Error("want the young request left, and no other")
	}
	if !q.holds(t, "SELECT (SELECT count(*) FROM callback_attempts) = 1 AND (SELECT count(*) FROM river_job) = 2") {
		t.Error("want its attempt and its jobs left, and no others")
	}
	q.wantNoOrphans(t)
}

// The line names who holds the lock, and when the next try is.
func TestRetentionBehindALockTellsOfItsHolder(t *testing.T) {
	t.Parallel()
	url, through := impatient(t)
	q := newQueueAt(t, url, url, doNothing)
	for i, table := range []string{"retention", "dead_letter_retention"} {
		release := q.lockTable(t, table)
		logged := make(chan string, 10)
		pool, logger := dbtest.Pool(t, through), slog.New(slog.NewTextHandler(lines(logged), nil))
		requests, letters := upkeep.NewSweepers(pool, db.NewHealth(logger, pool), logger, upkeep.Retention{Requests: time.Hour, DeadLetters: time.Hour})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { []upkeep.Sweeper{requests, letters}[i].Run(ctx); close(ended) }()
		got := <-logged
		cancel()
		<-ended
		release()
		want := regexp.MustCompile(`msg=old_\w+_not_removed error=.* remedy="end the session that holds the lock on ` + table + `: SELECT pg_terminate_backend\(\d+\)" blocked_by="pid \d+ .*" next_try_in_seconds=10`)
		if !want.MatchString(got) {
			t.Errorf("got %s, want a line like %s", got, want)
		}
	}
}

// lines is a log that sends its lines.
type lines chan string

func (l lines) Write(line []byte) (int, error) {
	l <- string(line)
	return len(line), nil
}
