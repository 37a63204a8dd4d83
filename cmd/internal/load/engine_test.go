package load

import (
	"context"
	"sync"
	"testing"
	"time"
	"unsafe"

	"ringback/db/dbtest"
)

func TestEngine(t *testing.T) {
	t.Parallel()

	t.Run("keeps to the schedule", func(t *testing.T) {
		t.Parallel()
		run := func() *engine {
			return runEngine(t, t.Context(), func(config *Config) {}, func(arrival) answer { return answer{outcome: ok} })
		}
		engine := run()
		for tries := 1; engine.lateness.millis(50) > 20 && tries < 60; tries++ { // the machine may be busy
			engine = run()
		}
		if got, want := engine.ledger.sync.counts[ok], 2000; got != want {
			t.Errorf("sent: got %d, want %d", got, want)
		}
		if got := engine.lateness.millis(50); got > 20 {
			t.Errorf("median lateness: got %v ms, want less than a millisecond or so", got)
		}
		if engine.ended != time.Second {
			t.Errorf("length: got %v, want 1s", engine.ended)
		}
	})

	t.Run("does not wait for answers", func(t *testing.T) {
		t.Parallel()
		var left sync.WaitGroup
		left.Add(100)
		runEngine(t, t.Context(), func(config *Config) {
			config.Rate, config.Connections = 100, 100
		}, func(arrival) answer {
			left.Done()
			left.Wait() // until all have left
			return answer{outcome: ok}
		})
	})

	t.Run("counts what it can't send as unsent", func(t *testing.T) {
		t.Parallel()
		// The first request that leaves holds the only worker until a tenth of the others
		// are due, which then have waited for longer than a millisecond. On a busy machine
		// requests before it may have been too late themselves.
		var hold sync.Once
		engine := runEngine(t, t.Context(), func(config *Config) {
			config.Connections, config.Timeout = 1, time.Millisecond
		}, func(arrival) answer {
			hold.Do(func() { <-time.After(100 * time.Millisecond) })
			return answer{outcome: ok}
		})
		counts := engine.ledger.sync.counts
		if counts[unsent] < 100 || counts[unsent]+counts[ok] != 2000 {
			t.Errorf("got %d unsent and %d ok, want at least 100 unsent and 2000 in all", counts[unsent], counts[ok])
		}
	})

	t.Run("stops when interrupted", func(t *testing.T) {
		t.Parallel()
		ctx, interrupt := context.WithCancel(t.Context())
		engine := runEngine(t, ctx, func(config *Config) { config.Length = dbtest.Patience }, func(arrival arrival) answer {
			if arrival.number == 100 {
				interrupt()
			}
			return answer{outcome: ok}
		})
		if engine.ended >= dbtest.Patience {
			t.Errorf("sending took %v, want it to end by the interrupt", engine.ended)
		}
		// Seven other workers may have been about to send an earlier request.
		if got := engine.ledger.sync.counts; got[ok] < 94 || got[unsent] > 0 {
			t.Errorf("got %d sent and %d unsent, want 100 or so, and none unsent", got[ok], got[unsent])
		}
	})
}

// runEngine runs 2000 sync requests within a second, unless adjust asks for
// something else.
func runEngine(t *testing.T, ctx context.Context, adjust func(*Config), send sender) *engine {
	t.Helper()
	config := Defaults()
	config.Mix, config.Rate, config.Length, config.Connections = Mix{Sync: 1}, 2000, time.Second, 8
	adjust(&config)
	ledger := newLedger(config, config.total())
	engine := newEngine(config, ledger)
	ledger.start = time.Now()
	if err := engine.run(ctx, send); err != nil {
		t.Fatal(err)
	}
	return engine
}

// A run keeps every request, so their size bounds how long it may be.
func TestLedgerIsSmall(t *testing.T) {
	t.Parallel()
	if got := unsafe.Sizeof(request{}); got > 72 {
		t.Errorf("request: got %d bytes, want at most 72", got)
	}
}
