package upkeep

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"ringback/db"
	"ringback/internal/bubble"
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
		{"PassThatBeganInTheFutureIsWrittenByHand", db.Swept{Seen: 7, Last: here}, !behind, morning.AddDate(1000, 0, 0), uuid.Nil, sweepIdle},
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

func TestSweeperWithoutAnAgeRemovesNothing(t *testing.T) {
	t.Parallel()
	requests, letters := NewSweepers(nil, nil, slog.New(slog.DiscardHandler), Retention{}) // it would need a pool
	requests.Run(t.Context())
	letters.Run(t.Context())
}

func TestWhatKeepsFromRemovingIsToldOnceAMinute(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&log, nil))
		requests, _ := NewSweepers(nil, db.NewHealth(logger, nil), logger, Retention{})
		for range 10 * time.Minute / sweepIdle {
			requests.tell(t.Context(), errors.New("denied"), sweepIdle)
			time.Sleep(sweepIdle)
		}
		if got := strings.Count(log.String(), "msg=old_requests_not_removed error=denied"); got != 10 {
			t.Errorf("got %d lines in ten minutes, want 10:\n%s", got, log.String())
		}
	})
}
