package jobs

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"ringback/db"
	"ringback/internal/bubble"
)

func TestHeard(t *testing.T) {
	t.Parallel()
	var h heard
	one, life, other := reportKind{runID{run: 1}, true}, reportKind{runID{run: 1}, false}, reportKind{runID{run: 2}, true}
	wants := func(at time.Duration, want ...reportKind) {
		t.Helper()
		for _, s := range []reportKind{one, life, other} {
			h.storing = true // nothing is stored meanwhile
			var progress jsontext.Value
			if s.progress {
				progress = jsontext.Value("1")
			}
			if got := h.keepIfRecent(s.runID, progress, morning.Add(at)); got != slices.Contains(want, s) {
				t.Errorf("after %s: got %v of %+v", at, got, s)
			}
		}
	}
	stored := func(s reportKind, at time.Duration) {
		h.stored(s, time.Minute, morning.Add(at), morning.Add(at))
	}
	wants(0)
	stored(one, 0)
	wants(0, one)
	stored(other, reportPause-1)
	wants(reportPause-1, one, other)
	wants(reportPause)
	stored(life, reportPause)
	wants(2*reportPause-1, life)
	stored(other, reportPause)
	h.forget(runID{run: 1})
	wants(reportPause, other)
}

// keeper is a table of leases that lets progress be stored where no later progress is.
type keeper struct {
	heard
	away     bool
	renewals []string // that were stored
	tries    int
	paused   time.Duration
}

func newKeeper() *keeper {
	k := &keeper{}
	k.store = func(_ context.Context, renewals []db.Renewal, pause time.Duration) (renewed []db.Renewed, err error) {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.tries++; k.away {
			return nil, errors.New("away")
		}
		k.paused = pause
		for _, s := range renewals {
			k.renewals = append(k.renewals, string(s.Progress)+" "+s.Age.String())
			renewed = append(renewed, db.Renewed{RequestID: s.RequestID, Run: s.Run})
		}
		return renewed, nil
	}
	return k
}

func (k *keeper) wants(t *testing.T, want ...string) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	if !slices.Equal(k.renewals, want) {
		t.Errorf("got %q stored, want %q", k.renewals, want)
	}
	if len(k.kept) == 0 && (k.bytes != 0 || k.storing) {
		t.Errorf("got %d bytes, storing %v, with nothing kept", k.bytes, k.storing)
	}
}

func TestKeptProgress(t *testing.T) {
	t.Parallel()
	a := runID{run: 1}
	text := func(i int) jsontext.Value { return jsontext.Value(strconv.Itoa(i)) }

	t.Run("IsTheLatestAndStoredAfterHalfASecond", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			k := newKeeper()
			for i := range 10 {
				k.keep(a, time.Minute, text(i), time.Now())
				time.Sleep(10 * time.Millisecond)
			}
			k.keep(a, time.Minute, text(99), time.Now().Add(-time.Second)) // an earlier report that was slower
			time.Sleep(reportPause - 100*time.Millisecond - 1)
			k.wants(t)
			time.Sleep(time.Second)
			k.wants(t, "9 410ms")
			if k.paused != reportPause {
				t.Errorf("got a pause of %s", k.paused)
			}
		})
	})

	t.Run("IsNotStoredOverLater", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			k := newKeeper()
			k.keep(a, time.Minute, text(1), time.Now())
			k.stored(reportKind{a, true}, time.Minute, time.Now().Add(1), time.Now())
			time.Sleep(time.Second)
			k.wants(t)
		})
	})

	t.Run("IsDroppedAtTheEndOfItsAttempt", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			k := newKeeper()
			k.keep(a, time.Minute, text(1), time.Now())
			k.forget(a)
			time.Sleep(time.Second)
			k.wants(t)
		})
	})

	t.Run("IsTriedForAMinute", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			k := newKeeper()
			k.away = true
			k.keep(a, time.Minute, text(1), time.Now())
			time.Sleep(2 * time.Minute)
			k.mu.Lock()
			k.away = false
			k.mu.Unlock()
			k.keep(runID{run: 2}, time.Minute, text(2), time.Now())
			time.Sleep(time.Second)
			k.wants(t, "2 500ms")
			k.mu.Lock()
			defer k.mu.Unlock()
			if k.tries < 60 || k.tries > 130 {
				t.Errorf("got %d tries, want about two a second in a minute", k.tries)
			}
		})
	})

	t.Run("IsBoundedInBytes", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			k := newKeeper()
			large := jsontext.Value(strings.Repeat("x", 4<<10))
			for i := range 10_000 {
				k.keep(runID{run: i}, time.Minute, large, time.Now())
			}
			k.mu.Lock()
			kept, bytes := len(k.kept), k.bytes
			k.mu.Unlock()
			if bytes > maxKept || bytes != kept*(len(large)+keptOverhead) {
				t.Errorf("got %d bytes of %d, want at most %d", bytes, kept, maxKept)
			}
			time.Sleep(10 * time.Second)
			k.mu.Lock()
			defer k.mu.Unlock()
			if len(k.renewals) != kept {
				t.Errorf("got %d stored, want %d", len(k.renewals), kept)
			}
		})
	})
}
