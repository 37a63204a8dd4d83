//go:build !linux

package load

import (
	"context"
	"time"
)

// pacer sleeps with Go's own timers, which are exact outside Linux.
type pacer struct{ ctx context.Context }

func newPacer(ctx context.Context) (*pacer, error) { return &pacer{ctx}, nil }

func (p *pacer) close() {}

// sleep returns false when ctx is done.
func (p *pacer) sleep(duration time.Duration) bool {
	timer := time.NewTimer(duration)
	defer timer.Stop()
	select {
	case <-timer.C:
		return p.ctx.Err() == nil
	case <-p.ctx.Done():
		return false
	}
}

// maxrssPerMiB is a mebibyte in the unit of Rusage.Maxrss, which is a byte on macOS.
const maxrssPerMiB = 1 << 20
